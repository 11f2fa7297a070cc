import gzip
import pathlib

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, MapLabelValued, Orientationd, Spacingd, SpatialPadd

from monai_passion.errors import InputError, UsageError
from monai_passion.transforms import LoadModalities, LoadModalitiesd, is_foreground
from tests.helpers.tasks import BRATS_MRI

AFFINE = np.array([[0, -2, 0, 10], [1, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]], dtype=float)
SHAPE = (6, 5, 4)
VALUE = {"flair": 1, "t1c": 2, "t1": 3, "t2": 4}


def save(path, data, affine=AFFINE):
    """Write a file; its last voxel is no whole number, as an image's, unless ``path`` is a label's."""
    data = np.array(data, dtype=np.float32)
    if "label" not in pathlib.Path(path).name:
        data[-1, -1, -1] += 0.25
    nib.save(nib.Nifti1Image(np.asarray(data, dtype=np.float32), affine), path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """modality -> file; each volume has its modality's number at every voxel, plus a ramp over the slices."""
    return {m: save(tmp_path / f"{m}.nii.gz", value + 10 * np.indices(SHAPE)[2]) for m, value in VALUE.items()}


@pytest.fixture
def label(tmp_path):
    return save(tmp_path / "label.nii.gz", np.indices(SHAPE)[0] % 3)


def test_channels_in_the_order_of_the_modalities_whatever_the_order_of_the_paths(files, label):
    item = LoadModalitiesd(BRATS_MRI)({"image": dict(reversed(files.items())), "label": label})
    assert item["image"].shape == (4, *SHAPE)
    assert item["image"].dtype == torch.float32
    assert item["image"][:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert item["available"].dtype == torch.bool
    assert item["available"].tolist() == [True] * 4
    assert item["label"].shape == (1, *SHAPE)
    for key in ("image", "label"):
        assert isinstance(item[key], MetaTensor)
        np.testing.assert_array_equal(item[key].affine, AFFINE)
    assert item["image"].meta["filename_or_obj"] == files["flair"]
    assert item["label"].meta["filename_or_obj"] == label


@pytest.mark.parametrize(
    "paths",
    [
        lambda f: {"flair": None, "t1c": f["t1c"], "t1": None, "t2": f["t2"]},
        lambda f: {"T1ce": f["t1c"], "T2w": f["t2"]},
        lambda f: [None, f["t1c"], None, f["t2"]],
    ],
)
def test_absent_channels_are_zero_and_flagged(files, paths):
    image, available = LoadModalities(BRATS_MRI)(paths(files))
    assert available.tolist() == [False, True, False, True]
    assert not image[[0, 2]].any()
    assert image[[1, 3], 0, 0, 0].tolist() == [2, 4]
    assert image.meta["filename_or_obj"] == files["t1c"]


def test_the_file_of_an_absent_modality_is_never_opened(files, label, monkeypatch):
    opened = []
    original = pathlib.Path.open
    monkeypatch.setattr(pathlib.Path, "open", lambda self, *a, **k: opened.append(str(self)) or original(self, *a, **k))
    LoadModalitiesd(BRATS_MRI)({"image": {**files, "t1": None}, "label": label})
    assert set(opened) == {files["flair"], files["t1c"], files["t2"], label}


@pytest.mark.parametrize("fate", ["removed", "changed", "damaged"])
def test_the_file_of_an_absent_modality_cannot_change_a_bit(files, fate):
    paths = {**files, "t1": None}
    before, _ = LoadModalities(BRATS_MRI)(paths)
    if fate == "removed":
        pathlib.Path(files["t1"]).unlink()
    elif fate == "changed":
        save(files["t1"], np.full((9, 9, 9), np.nan), np.eye(4))
    else:
        pathlib.Path(files["t1"]).write_bytes(b"no image")
    after, _ = LoadModalities(BRATS_MRI)(paths)
    assert before.as_tensor().numpy().tobytes() == after.as_tensor().numpy().tobytes()


def test_paths_start_from_the_root(files, label, tmp_path):
    item = {"image": {m: f"{m}.nii.gz" for m in BRATS_MRI}, "label": "label.nii.gz"}
    loaded = LoadModalitiesd(BRATS_MRI, root=tmp_path)(item)
    assert loaded["available"].all()
    assert item["image"]["t1"] == "t1.nii.gz"  # the datalist itself is left as it was


@pytest.fixture
def four_dimensional(tmp_path):
    """As Task01 of the Decathlon: FLAIR, T1w, t1gd, T2w."""
    order = ("FLAIR", "T1w", "t1gd", "T2w")
    values = np.stack([VALUE[m] + 10.5 * np.indices(SHAPE)[2] for m in ("flair", "t1", "t1c", "t2")], axis=-1)
    return save(tmp_path / "all.nii.gz", values), order


def test_one_4d_file_for_all(four_dimensional):
    path, order = four_dimensional
    image, available = LoadModalities(BRATS_MRI, channels=order)(path)
    assert image[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert available.all()


def test_volumes_of_a_4d_file_that_are_absent_are_not_used(four_dimensional):
    path, order = four_dimensional
    item = {"image": {"flair": None, "t1c": path, "t1": path, "t2": None}, "channels": list(order)}
    loaded = LoadModalitiesd(BRATS_MRI)(item)
    assert loaded["image"][:, 0, 0, 0].tolist() == [0, 2, 3, 0]
    assert loaded["available"].tolist() == [False, True, True, False]


def test_a_slice_is_a_2d_image_with_its_pixel_sizes_and_its_place(files, label):
    item = LoadModalitiesd(BRATS_MRI)({"image": {**files, "flair": None}, "label": label, "slice": 2})
    assert item["image"].shape == (4, *SHAPE[:2])
    assert item["label"].shape == (1, *SHAPE[:2])
    assert item["image"][:, 0, 0].tolist() == [0, 22, 23, 24]
    assert item["image"].pixdim.tolist()[:2] == [1, 2]
    np.testing.assert_array_equal(item["image"].meta["original_affine"][:3, 3], AFFINE[:3] @ [0, 0, 2, 1])
    resampled = Spacingd("image", (0.5, 1.0), mode="nearest")(item)
    assert resampled["image"].shape[1:] == (11, 9)


def test_a_slice_that_is_not_there(files):
    with pytest.raises(InputError, match="4 slices, none with the number 4"):
        LoadModalities(BRATS_MRI)(files, slice=4)


def test_items_go_through_monai_transforms_and_batches(files, label, tmp_path):
    odd = save(tmp_path / "odd.nii.gz", np.ones((*SHAPE, 1)))  # gives a note, so the meta of the two items differs
    transform = Compose(
        [
            LoadModalitiesd(BRATS_MRI),
            SpatialPadd(["image", "label"], (8, 8, 8)),
            MapLabelValued("label", [0, 1, 2], [0, 4, 5]),
        ]
    )
    items = [
        {"case": "a", "image": dict(files), "label": label},
        {"case": "b", "image": {"t2": odd, "flair": None}, "label": label},
    ]
    (batch,) = DataLoader(Dataset(items, transform), batch_size=2)
    assert batch["image"].shape == (2, 4, 8, 8, 8)
    assert batch["available"].tolist() == [[True] * 4, [False, False, False, True]]
    assert batch["label"].unique().tolist() == [0, 4, 5]


@pytest.mark.parametrize("label", [None, KeyError])
def test_without_a_label_there_is_none(files, label):
    item = LoadModalitiesd(BRATS_MRI)({"image": files, **({} if label is KeyError else {"label": label})})
    assert "label" not in item


def test_notes_about_the_files_come_along(files, tmp_path):
    odd = save(tmp_path / "odd.nii.gz", np.ones((*SHAPE, 1)))
    image, _ = LoadModalities(BRATS_MRI)({**files, "t1": odd})
    assert image.meta["notes"] == f"{odd}: 6x5x4x1 taken as 6x5x4"


@pytest.mark.parametrize("which", ["t2", "label"])
@pytest.mark.parametrize("kind", ["shape", "place"])
def test_grids_that_disagree_are_an_error_that_names_both_files(files, label, tmp_path, which, kind):
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    other = save(tmp_path / f"{which}_other.nii.gz", np.zeros((6, 5, 3) if kind == "shape" else SHAPE), moved)
    item = {
        "image": {**files, **({"t2": other} if which == "t2" else {})},
        "label": other if which == "label" else label,
    }
    how = "6x5x4 and 6x5x3 voxels" if kind == "shape" else "0.5 mm apart"
    with pytest.raises(InputError, match=f"flair.nii.gz and .*other.nii.gz have different grids .*{how}"):
        LoadModalitiesd(BRATS_MRI)(item)


@pytest.mark.parametrize(
    ("paths", "error", "match"),
    [
        (lambda f: {}, InputError, "no modality given.*flair, t1c, t1, t2"),
        (lambda f: [None] * 4, InputError, "no modality given"),
        (lambda f: [f["t1"]], UsageError, "1 paths for 4"),
        (lambda f: {"t1x": f["t1"]}, UsageError, "unknown modality 't1x'"),
        (lambda f: {"t1": f["t1"], "t2": f["t1"]}, InputError, "given for both"),
        (lambda f: {"t1": "nowhere.nii.gz"}, InputError, "nowhere.nii.gz does not exist"),
    ],
)
def test_wrong_paths(files, paths, error, match):
    with pytest.raises(error, match=match):
        LoadModalities(BRATS_MRI)(paths(files))


def test_one_file_holds_all_modalities_in_channel_order_and_a_constant_volume_is_absent(tmp_path):
    volumes = np.stack([np.full(SHAPE, 7.0), *(np.random.default_rng(m).random(SHAPE) for m in range(3))], axis=-1)
    nib.save(nib.Nifti1Image(volumes.astype(np.float32), AFFINE), tmp_path / "all.nii.gz")
    image, available = LoadModalities(BRATS_MRI)(str(tmp_path / "all.nii.gz"))
    assert available.tolist() == [False, True, True, True]
    assert not image[0].any()
    np.testing.assert_allclose(image[3], volumes[..., 3], rtol=1e-6)


def test_text_about_the_image_in_a_request_of_monai_label_does_not_stop_monais_transforms(files):
    request = {"image": {"t1": files["t1"]}, "image_path": files["t1"], "model": "x", "label": None}
    item = LoadModalitiesd(BRATS_MRI)(request)
    transforms = Compose([Orientationd("image", axcodes="RAS", labels=None), Spacingd("image", pixdim=(1, 1, 1))])
    assert transforms(item)["image"].pixdim.tolist() == [1, 1, 1]
    assert item["model"] == "x"


def test_an_image_in_place_of_the_label_is_an_error(files, tmp_path):
    image = save(tmp_path / "image.nii.gz", np.full(SHAPE, 0.5))
    with pytest.raises(InputError, match="not whole numbers"):
        LoadModalitiesd(BRATS_MRI)({"image": files, "label": image})


def test_a_file_that_claims_too_much_is_refused(files):
    with pytest.raises(InputError, match="more than the 100 allowed"):
        LoadModalities(BRATS_MRI, max_voxels=100)(files)


def test_loading_twice_gives_the_same_bits(files):
    first, _ = LoadModalities(BRATS_MRI)(files)
    for path in files.values():  # packed anew, as another gzip would
        content = gzip.decompress(pathlib.Path(path).read_bytes())
        pathlib.Path(path).write_bytes(gzip.compress(content, 1))
    second, _ = LoadModalities(BRATS_MRI)(files)
    assert torch.equal(first.as_tensor(), second.as_tensor())


def test_real_patients_of_whom_two_modalities_exist(real_data):
    home = real_data / "brats2013_whole" / "brats_2013_pat0001_1"
    names = {"flair": f"{home.name}_flair.nii.gz", "t1c": f"{home.name}_t1ce.nii.gz", "t1": None, "t2": None}
    item = LoadModalitiesd(BRATS_MRI, root=home, policy="repair")({"image": names, "label": f"{home.name}_seg.nii.gz"})
    assert item["image"].shape == (4, 240, 240, 155)
    assert item["available"].tolist() == [True, True, False, False]
    assert not item["image"][2:].any()


def test_real_files_in_spaces_of_their_own_are_refused(real_data):
    home = real_data / "glioma_raw" / "TCGA-FG-6692"
    with pytest.raises(InputError, match="different grids"):
        LoadModalities(BRATS_MRI)({m: str(home / f"{m}.nii.gz") for m in BRATS_MRI})


ODD = {
    "a constant file": (np.full(SHAPE, 7.0), AFFINE, "every voxel is 7", False),
    "another background": (
        np.where(np.indices(SHAPE)[0] == 2, np.indices(SHAPE)[1] + 0.5, -3),
        AFFINE,
        "background of -3",
        True,
    ),
    "another grid": (
        np.indices((3, 5, 4))[0] + 0.5,
        AFFINE @ np.diag([1, 1, 2, 1]) @ np.diag([2, 1, 0.5, 1]),
        "grids",
        True,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_one_policy_refuses_the_other_repairs_and_says_so(tmp_path, name, caplog):
    data, affine, part, stays = ODD[name]
    paths = {"t1": save(tmp_path / "t1.nii.gz", np.random.default_rng(0).random(SHAPE))}
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), tmp_path / "odd.nii.gz")
    paths["t2"] = str(tmp_path / "odd.nii.gz")
    with pytest.raises(InputError, match=part) as refused:
        LoadModalities(BRATS_MRI)(paths)
    assert "odd.nii.gz" in str(refused.value)
    assert not caplog.records
    image, available = LoadModalities(BRATS_MRI, policy="repair")(paths)
    assert available.tolist() == [False, False, True, stays]
    assert image.shape == (4, *SHAPE)
    assert len(caplog.records) >= 1


@pytest.mark.parametrize(
    ("low", "outside", "shows"), [(-1000, None, True), (-1000, -1024, True), (0, None, False), (-9, 0, False)]
)
def test_a_zero_between_others_shows_something_where_images_have_values_below_it(tmp_path, low, outside, shows):
    """Water in CT is 0, with or without a frame of another value; in MRI, centered or not, 0 stands for nothing."""
    rng = np.random.default_rng(0)
    data = np.rint(rng.uniform(low, 200, (9, 9, 9))).astype(np.float32)
    data[data == 0] = 1
    if outside is not None:
        data[:3] = data[:, :3] = data[:, :, :3] = data[-2:] = data[:, -2:] = data[:, :, -2:] = outside
    data[4, 4, 4] = 0
    nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / "t1.nii.gz")
    image = LoadModalities(BRATS_MRI, policy="repair")({"t1": str(tmp_path / "t1.nii.gz")})[0][2]
    assert bool(is_foreground(image)[4, 4, 4]) == shows
    assert float(image[4, 4, 4]) == pytest.approx(-(outside or 0), abs=1e-6)  # a background is subtracted
    assert bool(is_foreground(image)[0, 0, 0]) == (outside is None)


@pytest.mark.parametrize("offset", [-1000, 100])
def test_an_image_with_an_offset_is_the_image_without_it_on_a_grid_of_its_own_and_on_another(tmp_path, offset):
    data = np.zeros((16, 16, 16), np.int16)
    data[3:-3, 3:-3, 3:-3] = np.random.default_rng(0).integers(50, 500, (10, 10, 10))
    images = []
    for number, shift in enumerate((0, offset)):
        nib.save(nib.Nifti1Image((data + shift).astype(np.int16), AFFINE), tmp_path / f"t1_{number}.nii.gz")
        finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
        nib.save(nib.Nifti1Image(np.kron(data, np.ones((2, 2, 2), np.int16)), finer), tmp_path / "t2.nii.gz")
        paths = {"t1": str(tmp_path / f"t1_{number}.nii.gz"), "t2": str(tmp_path / "t2.nii.gz")}
        images.append(LoadModalities(BRATS_MRI, policy="repair")(paths)[0])
    torch.testing.assert_close(images[1], images[0], rtol=1e-5, atol=1e-3)


def test_a_background_far_from_the_image_leaves_no_rim_when_that_is_resampled(tmp_path):
    """An image around 0 in which -99 stands for nothing."""
    data = np.full((16, 16, 16), -99, np.float32)
    data[3:-3, 3:-3, 3:-3] = np.random.default_rng(0).uniform(-2, 2, (10, 10, 10))
    nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / "t1.nii.gz")
    save(tmp_path / "t2.nii.gz", np.random.default_rng(0).random((32, 32, 32)), AFFINE @ np.diag([0.5, 0.5, 0.5, 1]))
    paths = {m: str(tmp_path / f"{m}.nii.gz") for m in ("t1", "t2")}
    image = LoadModalities(BRATS_MRI, policy="repair")(paths)[0][2]
    assert 0 <= float(image.min()) < float(image.max()) < 4.1


def test_an_unknown_policy_is_a_usage_error(files):
    with pytest.raises(UsageError, match="the policy is 'lax'; give strict or repair"):
        LoadModalities(BRATS_MRI, policy="lax")(files)


def test_images_are_brought_onto_the_grid_of_the_label_whichever_is_finer(tmp_path):
    fine = AFFINE @ np.diag([0.5, 1, 1, 1])
    paths = {"t1": save(tmp_path / "t1.nii.gz", np.random.default_rng(0).random(SHAPE))}
    paths["t2"] = save(tmp_path / "t2.nii.gz", np.random.default_rng(1).random((12, 5, 4)), fine)
    label = save(tmp_path / "label.nii.gz", np.indices(SHAPE)[0] % 3)
    item = LoadModalitiesd(BRATS_MRI, policy="repair")({"image": paths, "label": label})
    assert item["image"].shape[1:] == item["label"].shape[1:] == SHAPE


def test_images_are_brought_onto_the_grid_of_a_label_that_is_no_images(tmp_path):
    """As where the sequence is missing on whose grid it was drawn."""
    paths = {"t1": save(tmp_path / "t1.nii.gz", np.random.default_rng(0).random(SHAPE))}
    fine = AFFINE @ np.diag([0.5, 1, 1, 1])
    label = save(tmp_path / "label.nii.gz", np.indices((2 * SHAPE[0], *SHAPE[1:]))[0] % 3, fine)
    item = LoadModalitiesd(BRATS_MRI, policy="repair")({"image": paths, "label": label})
    assert item["image"].shape[1:] == item["label"].shape[1:] == (2 * SHAPE[0], *SHAPE[1:])
    with pytest.raises(InputError):
        LoadModalitiesd(BRATS_MRI, policy="strict")({"image": paths, "label": label})
