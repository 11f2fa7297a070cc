import nibabel as nib
import numpy as np
import pytest

from monai_passion.data.studies import find_study
from monai_passion.errors import InputError, UsageError
from tests.helpers.tasks import BRATS_MRI


@pytest.fixture
def studies(tmp_path):
    """Anna lacks T1; Ben has one file of all volumes; Anna_2 is somebody else; tmp1 is one image without a name."""
    shapes = {"ben": (4, 4, 4, 4)}
    for name in ("anna_flair", "anna_t1ce", "anna_t2", "anna_2_t1", "ben", "anna_seg", "tmp1"):
        nib.save(
            nib.Nifti1Image(np.zeros(shapes.get(name, (4, 4, 4)), np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz"
        )
    return tmp_path


@pytest.mark.parametrize("sequence", [None, "T1Gd"])
def test_any_file_of_a_patient_gives_all_of_them_and_none_of_another(studies, sequence):
    names = {"flair": "anna_flair", "t1c": "anna_t1ce", "t1": None, "t2": "anna_t2"}
    for named in ("anna_t1ce",) if sequence else ("anna_flair", "anna_t2"):
        found = find_study(studies / f"{named}.nii.gz", BRATS_MRI, sequence)
        assert found == {m: name and str(studies / f"{name}.nii.gz") for m, name in names.items()}


def test_a_4d_file_whose_name_tells_no_sequence_is_one_of_all(studies):
    assert find_study(studies / "ben.nii.gz", BRATS_MRI) == str(studies / "ben.nii.gz")


def test_one_image_without_a_name_is_what_it_is_said_to_be_and_nothing_else(studies):
    path = str(studies / "tmp1.nii.gz")
    assert find_study(path, BRATS_MRI, "T2w") == {"flair": None, "t1c": None, "t1": None, "t2": path}
    with pytest.raises(InputError, match="does not tell its sequence"):
        find_study(path, BRATS_MRI)


def test_what_a_file_is_said_to_be_must_be_a_sequence_and_not_against_its_name(studies):
    with pytest.raises(InputError, match="is flair by its name, but the sequence given is t2"):
        find_study(studies / "anna_flair.nii.gz", BRATS_MRI, "t2")
    with pytest.raises(UsageError, match="unknown modality"):
        find_study(studies / "tmp1.nii.gz", BRATS_MRI, "dwi")


def test_files_named_by_their_sequence_alone_are_those_of_the_folders_patient(tmp_path):
    for name in ("flair", "T1w", "seg"):
        (tmp_path / f"{name}.nii.gz").touch()
    found = find_study(tmp_path / "flair.nii.gz", BRATS_MRI)
    assert found == {
        **dict.fromkeys(BRATS_MRI),
        "flair": str(tmp_path / "flair.nii.gz"),
        "t1": str(tmp_path / "T1w.nii.gz"),
    }


def test_two_files_for_one_modality_are_an_error(studies):
    (studies / "anna_t1c.nii").touch()
    with pytest.raises(InputError, match="both t1c"):
        find_study(studies / "anna_flair.nii.gz", BRATS_MRI)


def test_a_patient_is_the_same_in_capitals_and_what_is_no_nifti_file_is_named(studies, caplog):
    (studies / "anna_t2.nii.gz").rename(studies / "Anna_t2.nii.gz")
    (studies / "anna_t1.nrrd").touch()
    (studies / "anna_t1w").mkdir()
    found = find_study(studies / "anna_flair.nii.gz", BRATS_MRI)
    assert (found["t2"], found["t1"]) == (str(studies / "Anna_t2.nii.gz"), None)
    assert [record.args[0].name for record in caplog.records] == ["anna_t1.nrrd", "anna_t1w"]
