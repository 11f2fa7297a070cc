"""DICOM series through `predict`, and DICOM SEG out of it."""

import json

import nibabel as nib
import numpy as np
import pytest

from monai_passion.cli import main
from monai_passion.errors import InputError
from monai_passion.prediction import segmenter as bundle_module
from monai_passion.prediction.output import dicom_seg
from tests.helpers.segmenter import Threshold

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pytest.importorskip("dcm2niix", reason="the extra dicom is not installed")

from tests.helpers.dicom import OBLIQUE, SAGITTAL, SHAPE, head, write_series  # noqa: E402


class TwoLabels(Threshold):
    """The upper half of the values are two labels."""

    def label(self, data):
        return np.select([data > 800, data > 600], [4, 2], 0)


@pytest.fixture
def predict(tmp_path, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.setattr(bundle_module, "Segmenter", TwoLabels)
    weights = tmp_path_factory.mktemp("weights") / "w"
    weights.touch()

    def run(*arguments):
        code = main(["predict", *map(str, arguments), "--output", str(tmp_path / "out"), "--weights", str(weights)])
        return code, *capsys.readouterr()

    return run


def test_a_folder_of_series_gives_a_segmentation_that_dicom_viewers_place_on_the_images(predict, tmp_path):
    import highdicom

    data, study = head(), tmp_path / "study"
    write_series(study / "a", "AX FLAIR", data)
    write_series(study / "b", "AX T2", head(1))
    code, out, error = predict(study, "--dicom-seg", "--reference", "flair")
    assert code == 0, error
    assert "used: flair, t2" in out
    expected = np.select([data > 800, data > 600], [4, 2], 0)
    made = pydicom.dcmread(tmp_path / "out" / "segmentation.dcm")
    assert (made.Modality, made.PatientID, made.FrameOfReferenceUID) == ("SEG", "P1", "1.2.3.4")
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == ["NCR/NET", "ED", "ET"]
    found = np.zeros((*SHAPE, 4), bool)
    inverse = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ OBLIQUE)
    for frame, pixels in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array, strict=True):
        corner = inverse @ [*frame.PlanePositionSequence[0].ImagePositionPatient, 1]
        assert np.abs(corner[:2]).max() < 1e-3
        segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[:, :, round(corner[2]), segment] = pixels.T
    assert np.array_equal(found[..., 2], expected == 2)
    assert np.array_equal(found[..., 3], expected == 4)
    assert not found[..., 1].any()
    assert highdicom.seg.segread(tmp_path / "out" / "segmentation.dcm").number_of_segments == 3
    assert "Doe" not in (tmp_path / "out" / "report.json").read_text()
    labels = nib.load(tmp_path / "out" / "segmentation.nii.gz")
    assert sorted(np.unique(labels.get_fdata())) == [0, 2, 4]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["modalities"]["reference"] == "flair"


def cut(folder):
    path = sorted(folder.glob("*"))[3]
    path.write_bytes(path.read_bytes()[:-500])


def garble(folder):
    for path in folder.glob("*"):
        path.write_bytes(path.read_bytes()[:132] + b"\xff\x13" * 300)


BAD = {
    "a slice is missing": (lambda d: sorted(d.glob("*"))[5].unlink(), "lacks slices"),
    "a file is cut short": (cut, "cut short"),
    "headers are garbage": (garble, ""),
    "a slice is there twice": (
        lambda d: write_series(d, "AX FLAIR", head()[:, :, :1], uid="1.5.123456"),
        "several images",
    ),
    "another orientation": (
        lambda d: write_series(d, "AX FLAIR", head()[:, :, :3], SAGITTAL, uid="1.5.123456"),
        "not parallel",
    ),
    "no place in space": (
        lambda d: write_series(d, "AX FLAIR", head()[:, :, :3], uid="1.5.123456", ImagePositionPatient=None),
        "where its slices lie",
    ),
    "a series of another patient": (lambda d: write_series(d, "AX T2", PatientID="P2"), "several patients"),
    "no description": (
        lambda d: [path.unlink() for path in d.glob("*")] and write_series(d, "Series 3"),
        "no series whose description tells",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_series_end_in_one_line_and_leave_nothing(predict, tmp_path, name):
    spoil, part = BAD[name]
    write_series(tmp_path / "in", "AX FLAIR", uid="1.5.123456")
    spoil(tmp_path / "in")
    code, _, error = predict(tmp_path / "in")
    lines = [line for line in error.splitlines() if line.startswith("monai-passion: error: ")]
    assert (code, len(lines)) == (3, 1), error
    assert part in lines[0]
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_dicom_seg_without_a_dicom_reference_is_a_usage_error(predict, tmp_path):
    nib.save(nib.Nifti1Image(head().astype(np.float32), OBLIQUE), tmp_path / "f.nii.gz")
    code, _, error = predict("--flair", tmp_path / "f.nii.gz", "--dicom-seg")
    assert code == 2
    assert "--dicom-seg wants the reference, flair, as a DICOM series" in error


def test_an_error_in_a_converted_file_names_the_series_and_no_temporary_file(predict, tmp_path):
    write_series(tmp_path / "in", "AX FLAIR", np.where(head() > 0, 4, 0).astype(np.uint16))
    code, _, error = predict(tmp_path / "in")
    assert code == 3
    assert f"{tmp_path / 'in'}" in error
    assert "image.nii" not in error


def strip_tags(folder, *keywords):
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        for keyword in keywords:
            if keyword in image:
                delattr(image, keyword)
        image.save_as(path)


def test_de_identified_images_have_a_dicom_seg_too(predict, tmp_path):
    write_series(tmp_path / "in", "AX FLAIR")
    strip_tags(tmp_path / "in", *dicom_seg.COPIED, "SliceThickness")
    code, _, error = predict(tmp_path / "in", "--dicom-seg")
    assert code == 0, error
    assert "empty" not in error
    made = pydicom.dcmread(tmp_path / "out" / "segmentation.dcm")
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert made.PatientBirthDate in ("", None)
    assert float(measures.SliceThickness) == pytest.approx(np.linalg.norm(OBLIQUE[:3, 2]), rel=1e-3)


@pytest.mark.parametrize(("keyword", "value"), [("PatientSex", "U"), ("StudyDate", "2020-01-01"), ("StudyTime", "x")])
def test_what_was_put_in_place_of_a_patient_s_data_is_left_out(predict, tmp_path, keyword, value):
    write_series(tmp_path / "in", "AX FLAIR", **{keyword: value})
    code, _, error = predict(tmp_path / "in", "--dicom-seg")
    assert code == 0, error
    assert not pydicom.dcmread(tmp_path / "out" / "segmentation.dcm").get(keyword)


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_images_without_an_identifier_have_none_and_it_is_said_at_once(predict, tmp_path, keyword):
    write_series(tmp_path / "in", "AX FLAIR")
    strip_tags(tmp_path / "in", keyword)
    code, _, error = predict(tmp_path / "in", "--dicom-seg")
    assert code == 2
    assert f"wants a {keyword}" in error
    assert "segmenting" not in error


def test_what_no_dicom_seg_can_be_made_of_is_said_at_once(predict, tmp_path, monkeypatch):
    import highdicom

    def refuse(**_):
        raise ValueError("not with these")

    monkeypatch.setattr(highdicom.seg, "Segmentation", refuse)
    write_series(tmp_path / "in", "AX FLAIR")
    code, _, error = predict(tmp_path / "in", "--dicom-seg")
    assert code == 2
    assert "(not with these); leave --dicom-seg out" in error
    assert "segmenting" not in error


def test_results_that_name_dicom_images_can_be_compared(predict, tmp_path):
    from monai_passion.prediction.compare import open_examination

    write_series(tmp_path / "in", "AX FLAIR")
    assert predict(tmp_path / "in", "--keep-names")[0] == 0
    opened = open_examination(tmp_path / "out")
    assert opened.images["flair"].shape == opened.labels.shape == SHAPE
    np.testing.assert_allclose(opened.images["flair"].affine, opened.labels.affine, atol=1e-3)
    assert opened.patient
    middle = sorted((tmp_path / "in").iterdir())[8]
    image = pydicom.dcmread(middle)
    image.PixelData = image.PixelData[::-1]
    image.save_as(middle)
    with pytest.raises(InputError, match="its content has changed"):
        open_examination(tmp_path / "out")


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_any_meta_information_are_read(predict, tmp_path, implicit):
    write_series(tmp_path / "in", "AX FLAIR")
    assert predict(tmp_path / "in")[0] == 0
    (tmp_path / "out").rename(tmp_path / "whole")
    for path in (tmp_path / "in").iterdir():
        bare = pydicom.Dataset(dict(pydicom.dcmread(path).items()))
        pydicom.dcmwrite(path, bare, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    code, _, error = predict(tmp_path / "in")
    assert code == 0, error
    whole, bare = (nib.load(tmp_path / name / "segmentation.nii.gz").get_fdata() for name in ("whole", "out"))
    assert np.array_equal(whole, bare)
