import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_passion.bundle.facts import find_bundle
from monai_passion.data.patient import read_patient
from monai_passion.errors import InputError
from monai_passion.monailabel_app.studies import label_values, training_items
from monai_passion.transforms import load
from tests.helpers.tasks import BRATS_MRI

BRATS = ("background", "NCR/NET", "ED", "ET"), (0, 1, 2, 4)


def test_a_patient_labeled_on_two_files_is_one_training_item(tmp_path, caplog):
    for name in ("anna_flair", "anna_t2", "ben"):
        shape = (4, 4, 4, 4) if name == "ben" else (4, 4, 4)
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz")
    pairs = []
    for age, name in ((1, "anna_flair"), (3, "ben"), (2, "anna_t2")):
        label = tmp_path / f"{name}.label"
        label.touch()
        os.utime(label, (1e9 - age, 1e9 - age))
        pairs.append({"image": str(tmp_path / f"{name}.nii.gz"), "label": str(label)})
    anna, ben = training_items(pairs, BRATS_MRI)
    assert Path(anna["label"]).name == "anna_flair.label"  # the newest
    assert f"{tmp_path / 'anna_t2.label'} is not used" in caplog.text
    assert anna["case"] == "anna"
    assert anna["image"]["t1"] is None
    assert ben["channels"] == list(BRATS_MRI)
    assert set(ben["image"].values()) == {str(tmp_path / "ben.nii.gz")}


def test_segments_as_slicer_counts_them_get_the_values_of_the_data_set():
    assert label_values([{"name": "ncr/net"}, {"name": "et"}], *BRATS) == {"0": 0, "1": 1, "2": 4, "4": 4}
    assert label_values(None, *BRATS) is None
    with pytest.raises(InputError, match="'segment_4'"):
        label_values([{"name": "Segment_4"}], *BRATS)


def test_the_file_that_label_names_is_read_as_predict_reads_the_patient(tmp_path, monkeypatch):
    """Label runs the transforms of the bundle's inference.json on the path of one file."""
    parser = ConfigParser()
    parser.read_config(str(find_bundle().path / "configs" / "inference.json"))
    head = np.pad(np.random.default_rng(0).uniform(200, 900, (8, 8, 8)), 4).astype(np.float32)
    for name, data in (("flair", head), ("t1", np.zeros_like(head)), ("t2", np.where(head > 0, head[::-1], 0))):
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"anna_{name}.nii.gz")
    read = []
    monkeypatch.setattr(
        load, "read_patient", lambda *given, **more: read.append(read_patient(*given, **more)) or read[-1]
    )
    item = parser.get_parsed_content("load")({"image": str(tmp_path / "anna_t2.nii.gz")})
    assert len(read) == 1
    assert (
        item["available"].tolist() == [volume is not None for volume in read[0].volumes] == [True, False, False, True]
    )
