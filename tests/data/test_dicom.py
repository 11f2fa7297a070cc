"""DICOM series made of a phantom head, as images."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_passion.data import dicom
from monai_passion.data.dicom import as_nifti, find_series, open_series
from monai_passion.data.nifti import read_volume
from monai_passion.data.sources import find_files, find_patients
from monai_passion.errors import InputError
from tests.helpers.tasks import BRATS_MRI

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("dcm2niix", reason="the extra dicom is not installed")

from tests.helpers.dicom import OBLIQUE, SAGITTAL, SHAPE, head, write_series  # noqa: E402


@pytest.mark.parametrize("affine", [OBLIQUE, SAGITTAL], ids=["oblique", "sagittal"])
def test_every_voxel_of_a_series_stays_where_it_was(tmp_path, affine):
    data = head()
    write_series(tmp_path / "in", "t1", data, affine)
    files, series, doubts = as_nifti({"t1": tmp_path / "in"}, tmp_path / "made", 10**6)
    assert (series["t1"].shape, doubts) == ((17, 24, 26), [])
    volume = read_volume(files["t1"])
    index = np.argwhere(data > 0)
    there = nib.affines.apply_affine(np.linalg.inv(volume.affine) @ affine, index)
    assert np.abs(there - np.rint(there)).max() < 1e-3
    assert np.array_equal(volume.data[tuple(np.rint(there).astype(int).T)], data[tuple(index.T)])


def test_series_are_known_by_their_descriptions_and_a_contrast_agent(tmp_path):
    for number, text in enumerate(["AX T2 FLAIR", "AX T1 SE", "AX T2 TSE", "ep2d_diff ADC", "3 plane loc"]):
        write_series(tmp_path / str(number), text)
    write_series(tmp_path / "mixed", "AX T1 SE", ContrastBolusAgent="Gadavist")
    write_series(tmp_path / "mixed", "AX T2 again", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    found = find_files(tmp_path, BRATS_MRI)
    assert {m: path.parent.name for m, path in found.items()} == {"flair": "0", "t1c": "mixed", "t1": "1", "t2": "2"}


def test_two_series_for_one_sequence_are_an_error_that_lists_both_and_a_file_chooses(tmp_path):
    for number, text in enumerate(["AX T1 POST", "SAG T1 POST", "AX FLAIR"]):
        write_series(tmp_path, text, uid=f"1.2.3.{number + 1}00000")
    with pytest.raises(InputError, match=r"2 series for t1c: 'AX T1 POST' \(17 images.*'SAG T1 POST' \(17") as error:
        find_files(tmp_path, BRATS_MRI)
    assert "add --t1c with a file" in str(error.value)
    chosen = next(tmp_path.glob("200000*.dcm"))
    assert open_series(chosen).description == "SAG T1 POST"
    assert find_files(tmp_path, BRATS_MRI, {"t1c": chosen})["t1c"] == chosen
    with pytest.raises(InputError, match="holds 3 series"):
        open_series(tmp_path)


def test_files_that_are_no_images_are_passed_over(tmp_path):
    write_series(tmp_path, "AX FLAIR")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "DICOMDIR").unlink()
    assert len(find_series(tmp_path.iterdir())) == 1


SHEARED = OBLIQUE @ np.array([[1, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def without_preamble(folder):
    for path in folder.glob("*"):
        path.write_bytes(path.read_bytes()[132:])


def enhanced(path, data, affine=OBLIQUE, frames=None, **values):
    """One multi-frame file of the given frames, each with its place in space."""
    source = pydicom.dcmread(next(iter(write_series(path.parent / "single", "AX FLAIR", data, affine).glob("*"))))
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    source.file_meta.MediaStorageSOPClassUID = source.SOPClassUID = pydicom.uid.EnhancedMRImageStorage
    source.SeriesDescription = values.get("description", "AX FLAIR")
    cosines = list(source.ImageOrientationPatient)
    del source.ImageOrientationPatient, source.ImagePositionPatient, source.PixelSpacing

    def item(**content):
        made = pydicom.Dataset()
        for name, value in content.items():
            setattr(made, name, value)
        return made

    measures = item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2])
    shared = item(PlaneOrientationSequence=[item(ImageOrientationPatient=cosines)], PixelMeasuresSequence=[measures])
    source.SharedFunctionalGroupsSequence = [shared]
    frames = range(data.shape[2]) if frames is None else frames
    source.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=list((lps @ [0, 0, k, 1])[:3]))]) for k in frames
    ]
    source.NumberOfFrames = len(frames)
    source.PixelData = b"".join(data[:, :, k].T.tobytes() for k in frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    source.save_as(path, enforce_file_format=True)
    for single in (path.parent / "single").glob("*"):
        single.unlink()
    return path


NO_VOLUME = {
    "frames are missing": (lambda d: enhanced(d / "x.dcm", head(), frames=[*range(5), *range(9, 17)]), "lacks slices"),
    "frames are sheared": (lambda d: enhanced(d / "x.dcm", head(), SHEARED), "sideways by up to"),
    "slices are sheared": (lambda d: write_series(d, "AX FLAIR", affine=SHEARED), "sideways by up to"),
    "a frame is there twice": (lambda d: enhanced(d / "x.dcm", head(), frames=[0, 1, 2, 2, 3]), "several images"),
}


@pytest.mark.parametrize("name", NO_VOLUME)
def test_every_slice_lies_on_the_normal_at_its_distance_or_the_series_is_refused(tmp_path, name):
    make, part = NO_VOLUME[name]
    make(tmp_path / "in")
    with pytest.raises(InputError, match=part):
        find_files(tmp_path / "in", BRATS_MRI)


@pytest.mark.parametrize("name", NO_VOLUME)
def test_a_series_nobody_asked_for_does_not_stop_the_study(tmp_path, name, caplog):
    study = tmp_path / "study"
    if name.startswith("frame"):
        enhanced(study / "bad" / "x.dcm", head(), SHEARED, description="ep2d_diff_DWI")
    else:
        write_series(study / "bad", "ep2d_diff_DWI", affine=SHEARED)
    write_series(study / "good", "AX T2")
    assert list(find_files(study, BRATS_MRI)) == ["t2"]
    assert "not used: 'ep2d_diff_DWI' (a diffusion image" in caplog.text


def test_diffusion_and_localizers_in_the_same_folder_do_not_stop_it_either(tmp_path):
    write_series(tmp_path, "AX FLAIR", uid="1.5.100001")
    for k in range(3):  # three directions of each slice
        write_series(tmp_path, "DWI b1000", head(k), uid="1.5.100002")
    write_series(
        tmp_path, "3-plane loc", head()[:, :, :3], SAGITTAL, uid="1.5.100003", ImageType=["O", "P", "LOCALIZER"]
    )
    found = find_files(tmp_path, BRATS_MRI)
    assert list(found) == ["flair"]
    assert open_series(found["flair"]).shape == (17, 24, 26)


def test_slices_of_one_series_in_two_folders_are_one_volume(tmp_path):
    write_series(tmp_path / "all", "AX FLAIR", uid="1.5.100001")
    for k, path in enumerate(sorted((tmp_path / "all").glob("*"))):
        (tmp_path / "study" / str(k % 2)).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "study" / str(k % 2) / path.name)
    found = find_files(tmp_path / "study", BRATS_MRI)
    assert open_series(found["flair"]).shape[0] == 17
    files, _, _ = as_nifti(found, tmp_path / "made", 10**6)
    assert read_volume(files["flair"]).shape[2] == 17


def test_copies_of_its_files_are_named_and_do_not_stop_a_series(tmp_path, caplog):
    write_series(tmp_path / "study" / "A", "AX FLAIR")
    shutil.copytree(tmp_path / "study" / "A", tmp_path / "study" / "copy of A")
    shutil.copy(next(iter((tmp_path / "study" / "A").glob("*"))), tmp_path / "study" / "A" / "again.dcm")
    files, series, doubts = as_nifti(find_files(tmp_path / "study", BRATS_MRI), tmp_path / "made", 10**6)
    assert read_volume(files["flair"]).shape == SHAPE
    assert (len(series["flair"].files), len(series["flair"].copies), doubts) == (17, 18, [])
    assert "and 17 more (copies of images of 'AX FLAIR')" in caplog.text
    assert open_series(tmp_path / "study" / "A" / "again.dcm").shape[0] == 17


def test_images_of_one_number_that_differ_are_no_copies(tmp_path):
    write_series(tmp_path / "study", "AX FLAIR")
    path = sorted((tmp_path / "study").glob("*"))[8]  # in the middle of the head
    image = pydicom.dcmread(path)
    image.PixelData = bytes(len(image.PixelData))
    image.save_as(tmp_path / "study" / "other.dcm")
    with pytest.raises(InputError, match="several images of one slice"):
        find_files(tmp_path / "study", BRATS_MRI)


def test_a_complete_multi_frame_file_keeps_its_place(tmp_path):
    path = enhanced(tmp_path / "in" / "x.dcm", head())
    assert open_series(path).shape == (17, 24, 26)


def test_files_without_preamble_are_read(tmp_path):
    write_series(tmp_path / "in", "AX FLAIR")
    without_preamble(tmp_path / "in")
    found = find_files(tmp_path / "in", BRATS_MRI)
    files, _, _ = as_nifti(found, tmp_path / "made", 10**6)
    assert read_volume(files["flair"]).shape == SHAPE


@pytest.mark.parametrize("who", ["", "ANONYMOUS", "anon"])
def test_two_nameless_patients_are_not_segmented_as_one(tmp_path, who):
    nobody = {"PatientID": who, "PatientName": who, "PatientBirthDate": ""}
    write_series(tmp_path / "a", "AX FLAIR", StudyInstanceUID="1.2.3", **nobody)
    write_series(tmp_path / "b", "AX T1", StudyInstanceUID="1.2.4", **nobody)
    with pytest.raises(InputError, match=r"different examinations .* no header says whose"):
        find_files(tmp_path, BRATS_MRI)
    with pytest.raises(InputError, match="no header says whose"):
        as_nifti({"flair": tmp_path / "a", "t1": tmp_path / "b"}, tmp_path / "made", 10**6)


def two_patients(
    folder, *, same_folder=False, nested=False, same_id=False, nameless=False, files=("AX FLAIR", "AX T1")
):
    for k, name in enumerate(("a", "b")):
        who = "" if nameless else "P1" if same_id else f"P{k}"
        home = folder if same_folder else folder / name
        for number, text in enumerate(files):
            place = home / str(number) if nested else home
            uid = f"1.5.{100000 + 10 * k + number}"
            tags = {"PatientID": who, "PatientName": who, "StudyInstanceUID": f"1.2.{k}"}
            write_series(place, text, uid=uid, **tags)
    return folder


SEVERAL = {
    "a folder for each": {},
    "a folder for each series of each": {"nested": True},
    "two examinations of one": {"same_id": True},
    "two examinations of nobody": {"nameless": True},
}


@pytest.mark.parametrize("name", SEVERAL)
def test_folders_of_several_patients_are_a_cohort(tmp_path, name):
    found = find_patients(two_patients(tmp_path, **SEVERAL[name]), BRATS_MRI)
    assert found == {"a": tmp_path / "a", "b": tmp_path / "b"}
    for folder in found.values():
        assert {m: path.is_relative_to(folder) for m, path in find_files(folder, BRATS_MRI).items()} == {
            "flair": True,
            "t1": True,
        }


@pytest.mark.parametrize("options", [{}, {"same_id": True}, {"nameless": True}, {"files": ["AX FLAIR"]}])
def test_several_patients_in_one_folder_are_refused_and_named(tmp_path, options):
    with pytest.raises(InputError, match=r"several patients or examinations .*'AX FLAIR' \(17 images, .*'AX FLAIR'"):
        find_patients(two_patients(tmp_path, same_folder=True, **options), BRATS_MRI)


def test_the_series_of_one_patient_are_no_cohort_whatever_their_folders(tmp_path):
    for number, text in enumerate(["AX FLAIR", "AX T1", "AX T2"]):
        write_series(tmp_path / str(number), text, StudyInstanceUID=f"1.2.{number % 2}")
    assert find_patients(tmp_path, BRATS_MRI) == {}


def test_patients_in_dicom_beside_patients_in_nifti_are_not_passed_over(tmp_path):
    write_series(tmp_path / "in_dicom", "AX FLAIR")
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "p1_flair.nii.gz").touch()
    assert sorted(find_patients(tmp_path, BRATS_MRI)) == ["in_dicom", "p1"]


def test_one_series_number_for_two_patients_is_refused(tmp_path):
    write_series(tmp_path / "a", "AX FLAIR", uid="1.5.100001", PatientID="P1")
    for path in write_series(tmp_path / "b", "AX FLAIR", uid="1.5.100001", PatientID="P2").glob("*"):
        path.rename(tmp_path / "a" / f"b{path.name}")
    with pytest.raises(InputError, match="images of several patients"):
        find_files(tmp_path / "a", BRATS_MRI)


def test_series_without_any_number_of_patient_or_study_are_doubted(tmp_path):
    nobody = {"PatientID": "", "PatientName": "", "StudyInstanceUID": ""}
    for name, text in (("a", "AX FLAIR"), ("b", "AX T1")):
        write_series(tmp_path / name, text, **nobody)
    _, _, doubts = as_nifti({"flair": tmp_path / "a", "t1": tmp_path / "b"}, tmp_path / "made", 10**6)
    assert "no header says whose they are" in doubts[0]


def test_dicom_files_beside_nifti_files_are_named(tmp_path, caplog):
    nib.save(nib.Nifti1Image(head(), OBLIQUE), tmp_path / "flair.nii.gz")
    write_series(tmp_path / "a" / "t1", "AX T1")
    write_series(tmp_path / "t2", "AX T2")
    assert list(find_files(tmp_path, BRATS_MRI)) == ["flair"]
    assert "not used: DICOM files in a/t1, t2 (beside NIfTI files; give a series by --t1c, --t1, --t2)" in caplog.text
    caplog.clear()
    assert list(find_files(tmp_path, BRATS_MRI, {"t1": tmp_path / "a" / "t1"})) == ["flair", "t1"]
    assert "not used: DICOM files in t2 (" in caplog.text


def test_who_has_no_series_of_a_known_sequence_is_named(tmp_path, caplog):
    for name, description in (("P1", "AX FLAIR"), ("P2", "AX FLAIR"), ("P3", "AX BRAIN")):
        write_series(tmp_path / name, description, PatientID=name)
    assert sorted(find_patients(tmp_path, BRATS_MRI)) == ["P1", "P2"]
    assert "not used: P3 (DICOM, with no series" in caplog.text


def test_of_other_patients_beside_one_s_own_folder_one_image_each_is_read(tmp_path, monkeypatch):
    for name in ("P1", "P2", "P3"):
        write_series(tmp_path / name, "AX FLAIR", PatientID=name, StudyInstanceUID=f"1.{name[1]}")
    read, plain = [], dicom._header.__wrapped__
    monkeypatch.setattr(dicom, "_header", lambda path, changed: read.append(path.parent.name) or plain(path, changed))
    first = next((tmp_path / "P2").iterdir())
    series = dicom.open_series(first)
    assert {file.parent.name for file in series.files} == {"P2"}
    assert (read.count("P1"), read.count("P3")) == (1, 1)


def test_slices_of_one_examination_are_brought_together_from_several_folders(tmp_path):
    write_series(tmp_path / "a", "AX FLAIR")
    files = sorted((tmp_path / "a").iterdir())
    (tmp_path / "b").mkdir()
    for file in files[::2]:
        file.rename(tmp_path / "b" / file.name)
    assert len(dicom.open_series(next((tmp_path / "b").iterdir())).files) == len(files)
