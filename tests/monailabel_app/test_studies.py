import pytest

from monai_passion.errors import InputError
from monai_passion.modalities import BRATS_MRI
from monai_passion.monailabel_app.studies import FindStudy, find_study, training_items


@pytest.fixture
def studies(tmp_path):
    """Anna lacks T1; Ben has one file of all volumes; Anna_2 is somebody else."""
    for name in ("anna_flair", "anna_t1ce", "anna_t2", "anna_2_t1", "ben", "anna_seg"):
        (tmp_path / f"{name}.nii.gz").touch()
    return tmp_path


@pytest.mark.parametrize("named", ["anna_flair", "anna_t2"])
def test_any_file_of_a_patient_gives_all_of_them_and_none_of_another(studies, named):
    found = find_study(str(studies / f"{named}.nii.gz"), BRATS_MRI)
    names = {"flair": "anna_flair", "t1c": "anna_t1ce", "t1": None, "t2": "anna_t2"}
    assert found == {m: name and str(studies / f"{name}.nii.gz") for m, name in names.items()}


def test_a_file_whose_name_tells_no_sequence_is_one_of_all(studies):
    assert find_study(str(studies / "ben.nii.gz"), BRATS_MRI) == str(studies / "ben.nii.gz")


def test_two_files_for_one_modality_are_an_error(studies):
    (studies / "anna_t1c.nii").touch()
    with pytest.raises(InputError, match="both t1c"):
        find_study(str(studies / "anna_flair.nii.gz"), BRATS_MRI)


def test_a_patient_labelled_on_two_files_is_one_training_item(studies):
    images = ("anna_flair", "ben", "anna_t2")
    pairs = [{"image": str(studies / f"{i}.nii.gz"), "label": f"{i}.label"} for i in images]
    anna, ben = training_items(pairs, BRATS_MRI)
    assert anna["case"] == "anna"
    assert anna["image"]["t1"] is None
    assert ben["channels"] == list(BRATS_MRI)
    assert set(ben["image"].values()) == {str(studies / "ben.nii.gz")}


def test_the_rest_of_a_request_stays(studies):
    request = {"image": str(studies / "anna_t2.nii.gz"), "model": "x"}
    assert FindStudy(BRATS_MRI)(request) == {"model": "x", "image": find_study(request["image"], BRATS_MRI)}
