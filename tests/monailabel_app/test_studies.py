import nibabel as nib
import numpy as np
import pytest

from monai_passion.errors import InputError
from monai_passion.monailabel_app.studies import label_values, training_items
from tests.helpers.tasks import BRATS_MRI

BRATS = ("background", "NCR/NET", "ED", "ET"), (0, 1, 2, 4)


def test_a_patient_labeled_on_two_files_is_one_training_item(tmp_path):
    for name in ("anna_flair", "anna_t2", "ben"):
        shape = (4, 4, 4, 4) if name == "ben" else (4, 4, 4)
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz")
    pairs = [{"image": str(tmp_path / f"{i}.nii.gz"), "label": f"{i}.label"} for i in ("anna_flair", "ben", "anna_t2")]
    anna, ben = training_items(pairs, BRATS_MRI)
    assert anna["case"] == "anna"
    assert anna["image"]["t1"] is None
    assert ben["channels"] == list(BRATS_MRI)
    assert set(ben["image"].values()) == {str(tmp_path / "ben.nii.gz")}


def test_segments_as_slicer_counts_them_get_the_values_of_the_data_set():
    assert label_values([{"name": "ncr/net"}, {"name": "et"}], *BRATS) == {"0": 0, "1": 1, "2": 4, "4": 4}
    assert label_values(None, *BRATS) is None
    with pytest.raises(InputError, match="'segment_4'"):
        label_values([{"name": "Segment_4"}], *BRATS)
