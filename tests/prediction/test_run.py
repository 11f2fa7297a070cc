import json
import os
import re
import shutil
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from monai_passion.bundle.facts import find_bundle
from monai_passion.data.patient import read_patient
from monai_passion.errors import InputError, ResourceError, UsageError
from monai_passion.modalities import combinations
from monai_passion.prediction.output.images import write_labels
from monai_passion.prediction.output.preview import canonical, plane_slice
from monai_passion.prediction.output.report import measure
from monai_passion.prediction.run import Options, predict_patient
from monai_passion.prediction.segmenter import Segmenter
from monai_passion.system.schemas import check_schema
from tests.helpers.images import smooth_noise
from tests.helpers.tasks import BRATS_MRI

SHAPE = (34, 33, 32)
AFFINE = np.array([[-1.0, 0, 0, 20], [0, -1.0, 0, 30], [0, 0, 1.0, -5], [0, 0, 0, 1]])


def head(seed, shape=SHAPE):
    """A ball of noise in an empty box, as a skull-stripped head is."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij"))
    values = smooth_noise(shape, seed, 100, 20)
    return np.where((grid**2).sum(0) < 1, values, 0).astype(np.float32)


def write(path, data, affine=AFFINE):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture(scope="module")
def segmenter(weights):
    return Segmenter(find_bundle(), weights=weights, device="cpu", roi_size=[32], overlap=0.0)


@pytest.fixture
def files(tmp_path):
    return {m: write(tmp_path / f"{m}.nii.gz", head(i)) for i, m in enumerate(BRATS_MRI)}


@pytest.fixture
def predict(segmenter, tmp_path):
    """A function from files to (label map, report, output folder)."""

    def run(files, name="out", **options):
        report = predict_patient(files, tmp_path / name, segmenter.bundle, lambda: segmenter, Options(**options))
        return np.asarray(nib.load(tmp_path / name / "segmentation.nii.gz").dataobj), report, tmp_path / name

    return run


def test_the_output_is_a_segmentation_a_report_that_fits_its_schema_and_a_picture(files, predict, drawn):
    labels, report, folder = predict(files)
    assert sorted(p.name for p in folder.iterdir()) == [
        "preview.png",
        "report.html",
        "report.json",
        "segmentation.nii.gz",
    ]
    assert json.loads((folder / "report.json").read_text()) == report
    check_schema(report, "report", "report.json")
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2, 4}
    assert matplotlib.image.imread(folder / "preview.png").std() > 0.1


@pytest.mark.parametrize("given", [*combinations(BRATS_MRI)[:4], ("t1c", "t2"), BRATS_MRI], ids="+".join)
def test_any_subset_of_the_modalities_will_do_and_the_report_says_which(files, predict, given, drawn):
    labels, report, _ = predict({m: files[m] for m in given})
    assert labels.shape == SHAPE
    assert report["modalities"]["used"] == list(given)
    assert report["modalities"]["absent"] == [m for m in BRATS_MRI if m not in given]


def test_an_absent_modality_changes_no_bit_whatever_its_file_held(files, predict):
    left = {m: files[m] for m in ("flair", "t2")}
    before = predict(left, "before")[2] / "segmentation.nii.gz"
    write(files["t1"], head(99) * 1000)
    files["t1c"].unlink()
    after = predict(left, "after")[2] / "segmentation.nii.gz"
    assert np.array_equal(np.asarray(nib.load(before).dataobj), np.asarray(nib.load(after).dataobj))


def test_a_constant_volume_counts_as_absent_and_is_warned_of(files, predict):
    reference = predict({"flair": files["flair"]}, "without")[0]
    write(files["t2"], np.full(SHAPE, 7, np.float32))
    labels, report, _ = predict({"flair": files["flair"], "t2": files["t2"]}, "constant")
    assert np.array_equal(labels, reference)
    assert "t2" in report["modalities"]["absent"]
    assert "ABSENT" in report["findings"][0]["text"]


def test_predict_gives_what_the_bundle_gives_and_nothing_where_every_image_is_0(files, predict, weights, tmp_path):
    item = {"case": "x", "image": {m: str(files[m]) if m != "t1" else None for m in BRATS_MRI}}
    parser = ConfigParser()
    parser.read_config(str(find_bundle().path / "configs" / "inference.json"))
    changes = {"data": [item], "weights": str(weights), "device": "$torch.device('cpu')", "roi_size": [32, 32, 32]}
    parser.update({**changes, "overlap": 0.0, "output_dir": str(tmp_path / "bundle")})
    parser.get_parsed_content("run")
    (written,) = (tmp_path / "bundle").iterdir()
    (own, report, _), theirs = predict({m: f for m, f in files.items() if m != "t1"}), nib.load(written)
    shown, found = head(0) != 0, np.asarray(theirs.dataobj).squeeze()
    assert np.array_equal(own, found)
    assert not found[~shown].any()
    assert "voxels" in (text := " ".join(one["text"] for one in report["findings"]))
    assert "were segmented where every image is 0, and removed" in text
    assert np.allclose(theirs.affine, AFFINE)


OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.1) * [1.0, 0.9, 0.8], [-30.7, 12.1, 5.3])


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_the_grid_is_the_inputs_to_the_bit(predict, tmp_path, axes, kind):
    affine = OBLIQUE[:, [*axes, 3]]
    image = kind(head(0), affine)
    image.set_sform(affine, 2)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "flair.nii.gz")
    given = nib.load(tmp_path / "flair.nii.gz")
    written = nib.load(predict({"flair": tmp_path / "flair.nii.gz"})[2] / "segmentation.nii.gz")
    assert type(written) is type(given)
    assert written.shape == SHAPE
    assert np.array_equal(written.affine, given.affine)
    for field in ("sform_code", "qform_code", "quatern_b", "qoffset_x", "srow_x", "pixdim"):
        assert np.array_equal(written.header[field], given.header[field]), field


def test_a_file_without_orientation_gives_one_without(predict, tmp_path):
    image = nib.Nifti1Image(head(0), None)
    image.header.set_zooms((1.0, 1.1, 1.2))
    nib.save(image, tmp_path / "flair.nii.gz")
    _, report, folder = predict({"flair": tmp_path / "flair.nii.gz"})
    header = nib.load(folder / "segmentation.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)
    assert np.allclose(header.get_zooms(), (1, 1.1, 1.2))
    assert any("orientation unknown" in finding["text"] for finding in report["findings"])


@pytest.mark.parametrize("decode", ["fused", "all"])
def test_the_share_that_is_done_rises_to_one(segmenter, tmp_path, decode):
    from monai_passion.data.nifti import read_volume

    volumes = [read_volume(write(tmp_path / f"{m}.nii.gz", head(m))) for m in range(2)]
    shares = []
    segmenter.segment([*volumes, None, None], decode, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1


def test_the_mark_of_a_voxel_stays_where_it_was(segmenter, tmp_path, monkeypatch):
    """Preprocessing turns and crops; what the network says of one place must come back to that place."""
    import torch

    from monai_passion.data.nifti import read_volume

    data = head(0)
    data[10, 12, 20] = 1e5
    volume = read_volume(write(tmp_path / "flair.nii.gz", data))

    def brightest(item, masks, effort, progress):
        scores = torch.zeros_like(item["image"])
        scores[3] = item["image"][0] >= item["image"][0].max()
        return [scores]

    monkeypatch.setattr(segmenter, "_infer", brightest)
    labels = segmenter.segment([volume, None, None, None]).labels
    assert np.argwhere(labels == 4).tolist() == [[10, 12, 20]]


def test_another_grid_is_resampled_to_the_reference_and_noted(predict, tmp_path, drawn):
    """A ramp along x stays the same ramp in space; the finest grid is the reference."""
    coarse = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.0]), [-1, -1, -1])
    fine = write(tmp_path / "t2.nii.gz", head(0), np.eye(4))
    x = np.arange(18) * 2.0 - 1
    ramp = write(tmp_path / "flair.nii.gz", np.tile(x[:, None, None] + 5, (1, 18, 18)).astype(np.float32), coarse)
    patient = read_patient({"flair": ramp, "t2": fine}, BRATS_MRI)
    assert patient.reference_name == "t2"
    assert np.allclose(patient.used["flair"].data[1:33, 5, 5], np.arange(1, 33) + 5, atol=1e-4)
    note, warning = patient.findings
    assert "resampled to the grid of t2" in note.text
    assert "t2, whose grid the result has, covers 75 % of what flair shows" in warning.text  # 17 x 16 x 16 of 18^3
    labels, report, folder = predict({"flair": ramp, "t2": fine}, reference="flair")
    assert labels.shape == (18, 18, 18)
    assert report["modalities"]["reference"] == "flair"
    assert np.array_equal(nib.load(folder / "segmentation.nii.gz").affine, coarse)


@pytest.mark.parametrize("lacking", [np.s_[:, :, 12:], np.s_[::2]])
@pytest.mark.parametrize("m", ["flair", "t2"])
def test_a_sequence_without_an_image_in_some_slices_is_warned_of(tmp_path, m, lacking):
    data = {"flair": head(0), "t1": head(1), "t2": head(2)}
    data[m][lacking] = 0
    patient = read_patient({k: write(tmp_path / f"{k}.nii.gz", v) for k, v in data.items()}, BRATS_MRI)
    (warning,) = patient.findings
    assert warning.level == "warning"
    assert re.fullmatch(rf"{m} covers \d\d % of what .* it is 0 in the rest", warning.text), warning.text


def test_files_of_different_places_are_refused_and_partial_overlap_is_warned_of(tmp_path):
    files = {"flair": write(tmp_path / "flair.nii.gz", head(0), np.eye(4))}
    for shift, level in ((500, None), (17, "warning"), (1, "note")):
        affine = nib.affines.from_matvec(np.eye(3), [shift, 0, 0])
        files["t2"] = write(tmp_path / "t2.nii.gz", head(1), affine)
        if level is None:
            with pytest.raises(InputError, match="do not show the same place"):
                read_patient(files, BRATS_MRI)
        else:
            assert level in {finding.level for finding in read_patient(files, BRATS_MRI).findings}
            assert ("warning" in {finding.level for finding in read_patient(files, BRATS_MRI).findings}) == (
                level == "warning"
            )


@pytest.mark.parametrize("decode", ["alone", "all"])
def test_more_decodes_leave_the_segmentation_as_it_is_to_the_bit(files, predict, decode):
    given = {m: files[m] for m in ("flair", "t1", "t2")}
    alone, (labels, report, folder) = predict(given, "plain")[0], predict(given, decode=decode)
    assert np.array_equal(labels, alone)
    check_schema(report, "report", "report.json")
    others = combinations(("flair", "t1", "t2"))[:-1] if decode == "all" else []
    assert [tuple(row["modalities"]) for row in report["combinations"]] == others
    assert {p.name for p in folder.glob("segmentation_*")} == {f"segmentation_{'+'.join(c)}.nii.gz" for c in others}
    assert set(report["uncertainty"]["agreement"]) == {"flair", "t1", "t2"}


def test_a_combination_of_many_is_what_it_would_be_alone(files, predict):
    _, _, folder = predict({m: files[m] for m in ("flair", "t1", "t2")}, decode="all")
    alone = predict({m: files[m] for m in ("flair", "t2")}, "alone")[0]
    # The crop to the foreground is that of all images; these share one head.
    assert np.array_equal(np.asarray(nib.load(folder / "segmentation_flair+t2.nii.gz").dataobj), alone)


def test_uncertainty_is_the_entropy_of_the_mean_of_the_decodes(segmenter, files, monkeypatch):
    """Fused says class 1, T1 alone class 2: ln 2 / ln 4 within the head, and they agree about the union only."""
    import torch

    from monai_passion.data.nifti import read_volume

    def infer(item, masks, effort, progress):
        decodes = [torch.zeros(4, *item["image"].shape[1:]) for _ in masks]
        for k, p in enumerate(decodes):
            p[1 if k != 2 else 2] = 1.0
        return [MetaTensor(p) for p in decodes]

    monkeypatch.setattr(segmenter, "_infer", infer)
    volumes = [read_volume(files["flair"]), None, read_volume(files["t1"]), None]
    result = segmenter.segment(volumes, "alone")
    share = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(4)
    assert np.allclose(result.uncertainty[17, 16, 16], share, atol=1e-5)
    assert result.uncertainty[0, 0, 0] == 0
    assert result.agreement["flair"] == {"WT": 1, "TC": 1, "ET": 1}
    assert result.agreement["t1"] == {"WT": 1, "TC": 0, "ET": 1}


def test_a_sequence_alone_agrees_by_the_rules_of_the_result(segmenter, files, monkeypatch):
    """T1 alone has a little enhancing tumor in the core, which the rules take for core in both."""
    import torch

    from monai_passion.data.nifti import read_volume

    def infer(item, masks, effort, progress):
        decodes = [torch.zeros(4, *item["image"].shape[1:]) for _ in masks]
        for p in decodes:
            p[1] = 1.0
        decodes[2][:, 17, 16, 16] = torch.tensor([0.0, 0, 0, 1])
        return [MetaTensor(p) for p in decodes]

    monkeypatch.setattr(segmenter, "_infer", infer)
    volumes = [read_volume(files["flair"]), None, read_volume(files["t1"]), None]
    assert segmenter.segment(volumes, "alone").agreement["t1"]["ET"] == 0
    monkeypatch.setitem(segmenter.parser.config, "minimum_et_share", 0.1)
    segmenter.parser.parse(True)
    assert segmenter.segment(volumes, "alone").agreement["t1"]["ET"] == 1


def test_a_stripped_skull_leaves_its_mask_a_note_and_a_picture_of_each_stage(files, predict, monkeypatch):
    """The mask keeps one half; what lies outside of it is not segmented, and masks that disagree are warned of."""
    from monai_passion.data import stripping

    halves = iter([slice(0, 17), slice(0, 17), slice(0, 30)])

    def half(volume):
        mask = np.zeros(volume.shape, bool)
        mask[next(halves)] = True
        return mask

    monkeypatch.setattr(stripping, "brain_mask", half)
    labels, report, folder = predict({m: files[m] for m in ("flair", "t1", "t2")}, skull_strip=True)
    assert np.asarray(nib.load(folder / "brain_mask.nii.gz").dataobj)[:17].all()
    assert not labels[17:].any()
    texts = [finding["text"] for finding in report["findings"]]
    assert any("skull stripped by the mask of flair" in text for text in texts)
    assert any("agree by a mean Dice" in text for text in texts)
    assert any("which no adult brain has" in text for text in texts)
    page = (folder / "report.html").read_text()
    assert [title in page for title in ("As given", "On the grid of", "Brain, skull removed")] == [True] * 3


def test_neither_names_nor_paths_are_in_the_report_unless_asked_for(files, predict, tmp_path):
    os.rename(files["flair"], tmp_path / "SURNAME.nii.gz")
    given = {"flair": tmp_path / "SURNAME.nii.gz", "t2": write(files["t2"], np.zeros(SHAPE, np.float32))}
    folder = predict(given)[2]
    for name in ("report.json", "report.html"):
        assert "SURNAME" not in (folder / name).read_text()
        assert str(tmp_path) not in (folder / name).read_text()
    assert predict(given, "named", keep_names=True)[1]["files"]["flair"].endswith("SURNAME.nii.gz")


def test_volumes_are_in_millilitres_and_components_touch_at_corners_too():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[4, 4, 4] = 1
    labels[3, 0, 0] = 4
    assert measure(labels, [1], ml=0.5) == {"volume_ml": 1.5, "components": 2}
    assert measure(labels, [1, 4], ml=0.5) == {"volume_ml": 2.0, "components": 3}
    assert measure(labels, [2], ml=0.5) == {"volume_ml": 0.0, "components": 0}


def test_slices_are_shown_as_radiologists_look_at_them():
    """Patient's right on the left, anterior and superior on top, whatever order the file has."""
    for axes, signs in (((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))):
        affine = nib.affines.from_matvec(np.diag(signs)[:, axes], [0, 0, 0]).astype(float)
        volume = np.zeros((4, 4, 4), np.float32)
        right_anterior_superior = np.where((affine[:3, :3].T @ [1, 1, 1]) > 0, 3, 0)
        volume[tuple(right_anterior_superior)] = 1
        image = canonical({"t1": volume}, volume.astype(np.uint8), affine).images["t1"]
        for plane in ("axial", "coronal", "sagittal"):
            assert plane_slice(image, plane, 3)[0, 0] == 1


def test_a_disk_that_fills_up_is_a_resource_error_and_leaves_nothing(files, predict, monkeypatch, tmp_path):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(ResourceError, match="No space left"):
        predict(files)
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{m}.nii.gz" for m in BRATS_MRI)


def test_overwriting_replaces_the_old_files_and_keeps_foreign_ones(files, predict, tmp_path):
    folder = predict(files)[2]
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        predict({"flair": files["flair"]})
    assert predict({"flair": files["flair"]}, overwrite=True)[1]["modalities"]["used"] == ["flair"]
    assert (folder / "mine.txt").read_text() == "keep"
    assert len(list(folder.iterdir())) == 5


def test_an_input_is_never_overwritten(files, predict, tmp_path):
    (tmp_path / "out").mkdir()
    source = Path(shutil.copy(files["flair"], tmp_path / "out" / "segmentation.nii.gz"))
    before = source.read_bytes()
    with pytest.raises(UsageError, match="is an input"):
        predict({"flair": source}, overwrite=True)
    assert source.read_bytes() == before


def test_label_maps_are_read_back_after_writing(tmp_path, monkeypatch):
    like = write(tmp_path / "flair.nii.gz", head(0))
    save = nib.save
    monkeypatch.setattr(nib, "save", lambda image, path: save(nib.Nifti1Image(image.dataobj, np.eye(4)), path))
    with pytest.raises(AssertionError, match="affine"):
        write_labels(tmp_path / "seg.nii.gz", np.zeros(SHAPE, np.uint8), like)


def test_a_slab_is_not_the_reference_and_what_it_does_not_cover_is_told(tmp_path):
    """T2 has the finer voxels, and a quarter of FLAIR's slices."""
    whole = write(tmp_path / "flair.nii.gz", head(0), np.eye(4))
    slab = nib.affines.from_matvec(np.diag([0.5, 0.5, 1.0]), [0, 0, 4])
    values = np.repeat(np.repeat(head(1)[:, :, 4:12], 2, 0), 2, 1)
    fine = write(tmp_path / "t2.nii.gz", values, slab)
    patient = read_patient({"flair": whole, "t2": fine}, BRATS_MRI)
    assert patient.reference_name == "flair"
    assert any("t2 covers" in finding.text for finding in patient.findings if finding.level == "warning")
    patient = read_patient({"flair": whole, "t2": fine}, BRATS_MRI, reference="t2")
    (told,) = (finding.text for finding in patient.findings if "whose grid the result has" in finding.text)
    assert told.startswith("t2, whose grid the result has, covers ")
    assert told.endswith("--reference flair takes its grid")


def test_a_file_named_as_another_sequence_is_doubted(predict, tmp_path, drawn):
    files = {"t1c": "case_t1.nii.gz", "flair": "scan7.nii.gz", "t2": "x_T2w.nii.gz"}
    given = {m: write(tmp_path / name, head(k)) for k, (m, name) in enumerate(files.items())}
    texts = [finding["text"] for finding in predict(given)[1]["findings"]]
    assert [text for text in texts if "name of its file" in text] == [
        "t1c: the name of its file says T1; is it the right file?"
    ]
