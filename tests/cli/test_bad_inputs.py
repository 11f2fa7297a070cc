"""What a person may hand to ``predict`` by mistake: each ends with its exit code and says what is wrong, in a line.

The network is replaced by a threshold, so that what is tested is the way of the files.
"""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_passion.cli import main
from monai_passion.prediction import segmenter as bundle_module
from tests.helpers.segmenter import Threshold

SHAPE = (24, 22, 20)
RNG = np.random.default_rng(0)


def image(seed=0, shape=SHAPE, inside=(200, 1000)):
    """A ball of noise in an empty box."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij"))
    data = np.random.default_rng(seed).uniform(*inside, shape)
    return np.where((grid**2).sum(0) < 1, data, 0).astype(np.float32)


def save(path, data=None, affine=None, change=None):
    """Write a NIfTI file; ``change(header)`` may spoil its header behind nibabel's back."""
    data = image() if data is None else data
    affine = np.eye(4) if affine is None else affine
    nib.save(nib.Nifti1Image(data, affine), path)
    if change is not None:
        raw = gzip.decompress(path.read_bytes())
        header = nib.Nifti1Header(raw[:348], check=False)
        change(header)
        path.write_bytes(gzip.compress(header.binaryblock + raw[348:]))
    return path


def field(**values):
    def change(header):
        for name, value in values.items():
            header[name] = value

    return change


def shifted(*shift):
    return nib.affines.from_matvec(np.eye(3), shift)


def flair(folder, *, name="flair.nii.gz", **options):
    return ["--flair", save(folder / name, **options)]


def pair(folder, name="t2", first=None, **options):
    return [*flair(folder, data=first), f"--{name}", save(folder / "second.nii.gz", **{"data": image(1), **options})]


def written(folder, content, name="flair.nii.gz"):
    (folder / name).write_bytes(content)
    return ["--flair", folder / name]


def cut(folder, name, keep):
    whole = save(folder / name).read_bytes()
    return written(folder, whole[: int(len(whole) * keep)], name)


def two_flairs(folder):
    (folder / "patient").mkdir()
    for name in ("a_flair.nii.gz", "b_FLAIR.nii.gz"):
        save(folder / "patient" / name)
    return [folder / "patient"]


def same(folder, copy):
    path = save(folder / "flair.nii.gz")
    return ["--flair", path, "--t2", shutil.copy(path, folder / "t2.nii.gz") if copy else path]


def spoilt(share, value):
    data = image()
    data[tuple(RNG.integers(0, n, int(share * data.size)) for n in SHAPE)] = value
    return data


def wrapped():
    data = image().astype(np.int16) * 30
    data[10:12, 10, 10] = -32000
    return data


def link(folder):
    (folder / "loop.nii.gz").symlink_to(folder / "loop.nii.gz")
    return ["--flair", folder / "loop.nii.gz"]


def unicode_name(folder):
    (folder / "ein Ordner, 患者").mkdir()
    return flair(folder / "ein Ordner, 患者", name="Name with spaces é.nii.gz")


def replaced(folder):
    (folder / "out").mkdir()
    save(folder / "out" / "segmentation.nii.gz")
    return ["--flair", folder / "out" / "segmentation.nii.gz", "--overwrite"]


def cells(*shape):
    return np.zeros(shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


def lopsided(seed):
    """A head whose texture is another at every place."""
    texture = np.random.default_rng(1).uniform(300, 900, SHAPE)
    return np.where(image(seed) > 0, texture + np.random.default_rng(seed).normal(0, 5, SHAPE), 0).astype(np.float32)


def contrasts(fluid, tissue, seed):
    """Fluid in the middle of a head, in other gray values than the tissue about it."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij"))
    r = np.sqrt((grid**2).sum(0))
    values = np.where(r < 0.5, fluid, np.where(r < 0.8, tissue, tissue * 0.85))
    noise = np.random.default_rng(seed).normal(0, 10, SHAPE)
    return np.where(r < 1, values + noise, 0).astype(np.float32)


def swapped(folder):
    t2 = save(folder / "a.nii.gz", contrasts(1600, 600, 0))
    return ["--t1", t2, "--t2", save(folder / "b.nii.gz", contrasts(200, 700, 1))]


SHEAR = np.eye(4) + np.eye(4, k=1) * np.array([0.2, 0, 0, 0])[:, None]
TURNED = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2), [3, -2, 0])
FLAT = np.diag([1.0, 1.0, 0.0, 1.0])

FAILS = {
    "1 nothing given": (lambda d: [], 2, "--flair"),
    "2 paths missing": (
        lambda d: ["--flair", d / "no.nii.gz", "--t1", d / "nor.nii.gz"],
        3,
        "no.nii.gz does not exist",
    ),
    "3 an unknown name": (lambda d: ["--tq", save(d / "c.nii.gz")], 2, "did you mean"),
    "4 the same path twice": (lambda d: same(d, copy=False), 3, "are the same file"),
    "4 the same bytes twice": (lambda d: same(d, copy=True), 3, "are the same file"),
    "6 a folder as a file": (lambda d: ["--flair", d], 2, "is a folder"),
    "7 two candidates": (two_flairs, 3, "2 files for flair (a_flair.nii.gz, b_FLAIR.nii.gz)"),
    "8 an empty file": (lambda d: written(d, b""), 3, "is empty"),
    "9 text": (lambda d: written(d, b"<html>" * 99), 3, "not a NIfTI"),
    "10 a gzip cut short": (lambda d: cut(d, "flair.nii.gz", 0.6), 3, "cut short"),
    "11 a raw file cut short": (lambda d: cut(d, "flair.nii", 0.6), 3, "cut short"),
    "13 a header of 35 TB": (lambda d: flair(d, change=field(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])), 3, "claims"),
    "14 a negative size": (lambda d: flair(d, change=field(dim=[3, -5, 22, 20, 1, 1, 1, 1])), 3, "impossible"),
    "14 a size of zero": (lambda d: flair(d, change=field(dim=[3, 0, 22, 20, 1, 1, 1, 1])), 3, "impossible"),
    "16 a single slice": (lambda d: flair(d, data=image(shape=(24, 22, 3))[:, :, 1:2]), 3, "is a single slice"),
    "15 a 2-D image": (lambda d: flair(d, data=image()[:, :, 10]), 3, "2-D"),
    "18 a series": (lambda d: flair(d, data=np.stack([image()] * 3, -1)), 3, "24x22x20x3"),
    "19 color": (lambda d: flair(d, data=cells(*SHAPE)), 3, "color"),
    "20 complex": (lambda d: flair(d, data=image().astype(np.complex64)), 3, "magnitude"),
    "22 many NaN": (lambda d: flair(d, data=spoilt(0.2, np.nan)), 3, "NaN"),
    "24 only an empty volume": (lambda d: flair(d, data=np.zeros(SHAPE, np.float32)), 3, "same value"),
    "25 only a constant volume": (lambda d: flair(d, data=np.full(SHAPE, 5, np.float32)), 3, "same value"),
    "27 slope without intercept": (lambda d: flair(d, change=field(scl_slope=2, scl_inter=np.nan)), 3, "scaling"),
    "29 NaN in the affine": (lambda d: flair(d, change=field(srow_x=np.nan)), 3, "NaN"),
    "29 inf in the affine": (lambda d: flair(d, change=field(srow_y=np.inf)), 3, "infinite"),
    "30 a singular affine": (lambda d: flair(d, change=field(srow_x=[1, 1, 0, 0], srow_y=0)), 3, "singular"),
    "32 no voxel size": (lambda d: flair(d, change=field(pixdim=0, sform_code=0, qform_code=0)), 3, "voxel sizes"),
    "32 voxels of 100 mm": (lambda d: flair(d, affine=np.diag([100.0, 1, 1, 1])), 3, "100 x 1 x 1 mm"),
    "32 voxels of a micrometre": (lambda d: flair(d, affine=np.diag([0.001, 1, 1, 1])), 3, "0.001 x 1 x 1 mm"),
    "35 another place": (lambda d: pair(d, affine=shifted(300, 0, 0)), 3, "do not show the same place"),
    "40 a label map as image": (lambda d: flair(d, data=(image() > 0) * np.uint8(4)), 3, "holds only the values 0, 4"),
    "41 an output that is no folder": (lambda d: [*flair(d), "--output", d / "flair.nii.gz"], 2, "is a file"),
    "41 an output that cannot be made": (lambda d: [*flair(d), "--output", "/proc/out"], 5, "cannot write"),
    "41 the input as output": (replaced, 2, "is an input"),
    "41 a loop of links": (link, 3, "cannot be read"),
    "41 a very long path": (lambda d: ["--flair", d / ("x" * 300)], 3, "cannot be read"),
}

PASSES = {
    "5 the same voxels in two files": (lambda d: pair(d, data=image().astype(np.float64)), "hold the same image"),
    "12 uncompressed, named .gz": (
        lambda d: written(d, gzip.decompress(save(d / "x.nii.gz").read_bytes())),
        "not compressed",
    ),
    "16 few slices": (lambda d: flair(d, data=image(shape=(24, 22, 4))), "only 4 slices"),
    "17 4-D with one volume": (lambda d: flair(d, data=image()[..., None]), "taken as 24x22x20"),
    "21 a few NaN": (lambda d: flair(d, data=spoilt(0.002, np.nan)), "NaN voxels set to 0"),
    "23 a few infinite": (lambda d: flair(d, data=spoilt(0.002, np.inf)), "clipped"),
    "23 a few huge": (lambda d: flair(d, data=spoilt(0.002, 1e38)), "clipped"),
    "24 an empty volume among others": (lambda d: pair(d, data=np.zeros(SHAPE, np.float32)), "counts as ABSENT"),
    "26 an integer overflow": (lambda d: flair(d, data=wrapped()), "overflow"),
    "31 a sheared affine": (lambda d: flair(d, affine=SHEAR), "sheared"),
    "33 qform and sform disagree": (lambda d: flair(d, change=field(qform_code=1, qoffset_x=9)), "disagree by 9 mm"),
    "34 no orientation": (lambda d: flair(d, change=field(sform_code=0, qform_code=0)), "orientation unknown"),
    "35 another grid": (lambda d: pair(d, data=image(1)[::2, ::2, ::2], affine=np.diag([2, 2, 2, 1])), "resampled"),
    "36 turned": (lambda d: pair(d, affine=TURNED), "resampled"),
    "36 mirrored": (
        lambda d: pair(d, data=lopsided(1)[::-1], first=lopsided(0)),
        "fit better when one is mirrored left-right",
    ),
    "38 two sequences swapped": (swapped, "t1 looks like T2 and t2 does not"),
    "37 another patient": (lambda d: pair(d, data=np.roll(image(1), 7, 0)), "co-registered"),
    "39 a skull": (lambda d: flair(d, data=RNG.uniform(1, 9, SHAPE).astype(np.float32)), "skull"),
}

SILENT = {
    "28 16-bit unsigned": lambda d: flair(d, data=image().astype(np.uint16)),
    "28 64-bit": lambda d: flair(d, data=image().astype(np.float64)),
    "28 big-endian": lambda d: flair(d, data=image().astype(">f4")),
    "26 a slope": lambda d: flair(d, data=image().astype(np.int16), change=field(scl_slope=0.5, scl_inter=0)),
    "36 a hundredth of a millimetre": lambda d: pair(d, affine=shifted(0.005, 0, 0)),
    "16 few slices of a heart": lambda d: [
        *("--c0", save(d / "C0.nii.gz", image(shape=(24, 22, 4)))),
        *("--bundle", "myops_cmr_segmentation_rfnet_passion"),
    ],
    "3 an alias": lambda d: ["--t1gd", save(d / "c.nii.gz")],
    "41 spaces and other letters": unicode_name,
}


class BrightestFifth(Threshold):
    """It is enhancing tumor."""

    def label(self, data):
        return (data > np.quantile(data[data != 0], 0.8)) * 4


@pytest.fixture
def predict(tmp_path, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.setattr(bundle_module, "Segmenter", BrightestFifth)
    weights = tmp_path_factory.mktemp("weights") / "w"
    weights.touch()

    def run(make, *more):
        arguments = make(tmp_path)
        output = [] if "--output" in arguments else ["--output", tmp_path / "out"]
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        code = main(["predict", *map(str, [*arguments, *output, "--weights", weights, *more])])
        for path, content in before.items():
            assert path.read_bytes() == content, f"{path} was changed"
        new = sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and path not in before)
        return code, *capsys.readouterr(), new

    return run


def test_all_41_bad_inputs_are_here():
    assert {int(name.split()[0]) for name in (*FAILS, *PASSES, *SILENT)} == set(range(1, 42))


@pytest.mark.parametrize("name", FAILS)
def test_what_cannot_be_used_ends_in_one_line_and_leaves_nothing(predict, name):
    make, expected, part = FAILS[name]
    code, out, error, new = predict(make)
    lines = [line for line in error.splitlines() if not line.endswith(" ...")]
    assert (code, new, out) == (expected, [], "")
    assert len(lines) == 1, lines
    assert part in lines[0]
    assert lines[0].startswith("monai-passion: error: ")


@pytest.mark.parametrize("name", PASSES)
def test_what_is_odd_is_used_and_remarked_on(predict, name):
    make, part = PASSES[name]
    code, out, _, new = predict(make)
    assert (code, new) == (0, ["preview.png", "report.html", "report.json", "segmentation.nii.gz"])
    assert part in out


@pytest.mark.parametrize("name", SILENT)
def test_what_is_merely_uncommon_is_used_without_a_word(predict, name):
    code, out, _, _ = predict(SILENT[name], "--strict")
    assert code == 0
    assert "warning" not in out


def test_few_slices_are_a_failure_under_strict(predict):
    code, _, _, new = predict(PASSES["16 few slices"][0], "--strict")
    assert (code, "segmentation.nii.gz" in new) == (6, True)
