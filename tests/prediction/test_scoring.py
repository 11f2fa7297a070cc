import json

import nibabel as nib
import numpy as np
import pytest

from monai_passion.commands.score import score
from monai_passion.errors import InputError, UsageError
from monai_passion.evaluation.summary import read_metrics
from monai_passion.networks import precision


def write(folder, case, files):
    (folder / case).mkdir(parents=True)
    for name in files:
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij"))
        head = (grid**2).sum(axis=0) < 0.9
        values = np.random.default_rng(len(name)).normal(100, 20, head.shape) * head
        data = (values > 110).astype(np.uint8) if name == "seg" else values.astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])), folder / case / f"{case}_{name}.nii.gz")


def test_each_combination_that_a_patient_has_is_scored_at_the_spacing_of_the_files(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda device: False)
    write(tmp_path / "data", "P1", ["flair", "t1ce", "seg"])
    write(tmp_path / "data", "P2", ["t2"])
    summary = score(tmp_path / "data", output=tmp_path / "out", weights=weights, device="cpu", roi_size=32, overlap=0)
    rows = read_metrics(tmp_path / "out" / "metrics.csv")
    assert set(rows["case"]) == {"P1"}
    assert set(rows["combination"]) == {"flair", "t1c", "flair+t1c"}
    truth = np.asarray(nib.load(tmp_path / "data" / "P1" / "P1_seg.nii.gz").dataobj)
    whole = rows[rows["region"] == "WT"]["reference_ml"]
    assert whole.to_numpy() == pytest.approx((truth > 0).sum() * 8 / 1000)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["weights_sha256"]) == 64
    assert (summary["roi_size"], summary["overlap"], summary["precision"]) == ([32, 32, 32], 0, "fp32")
    assert "| FLAIR + T1c | " in (tmp_path / "out" / "tables.md").read_text()


def test_volumes_are_right_where_the_axes_of_a_file_are_not_perpendicular(tmp_path, weights):
    write(tmp_path / "data", "P1", ["flair", "seg"])
    shear = np.eye(4)
    shear[1, 2] = 0.5
    for path in (tmp_path / "data" / "P1").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), shear @ image.affine), path)
    score(tmp_path / "data", output=tmp_path / "out", weights=weights, device="cpu", roi_size=32, overlap=0)
    truth = np.asarray(nib.load(tmp_path / "data" / "P1" / "P1_seg.nii.gz").dataobj)
    rows = read_metrics(tmp_path / "out" / "metrics.csv")
    whole = rows[rows["region"] == "WT"]["reference_ml"]
    assert whole.to_numpy() == pytest.approx((truth > 0).sum() * 8 / 1000)


def test_label_values_mean_what_the_data_set_says(tmp_path, weights):
    """BraTS since 2023 has 3 for enhancing tumor, which 4 is to the task."""
    case = "BraTS-GLI-00001-000"
    write(tmp_path / "data", case, ["flair", "seg"])
    path = tmp_path / "data" / case / f"{case}_seg.nii.gz"
    mask = np.asarray(nib.load(path).dataobj)
    nib.save(nib.Nifti1Image((mask * 2.9999).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    score(tmp_path / "data", output=tmp_path / "out", weights=weights, device="cpu", roi_size=32, overlap=0)
    rows = read_metrics(tmp_path / "out" / "metrics.csv").set_index("region")
    assert rows["reference_ml"].to_dict() == pytest.approx(dict.fromkeys(("WT", "TC", "ET"), mask.sum() * 8 / 1000))
    for name, value in (("brats2015", 0.0), ("1=ED,2=ED,3=ET", mask.sum() * 8 / 1000)):
        out = tmp_path / name
        score(tmp_path / "data", output=out, labels=name, weights=weights, device="cpu", roi_size=32, overlap=0)
        assert read_metrics(out / "metrics.csv").set_index("region")["reference_ml"]["ET"] == pytest.approx(value)


def test_who_has_no_label_is_named(tmp_path, weights, capsys):
    write(tmp_path / "data", "P1", ["flair", "seg"])
    write(tmp_path / "data", "P2", ["flair"])
    score(tmp_path / "data", output=tmp_path / "out", weights=weights, device="cpu", roi_size=32, overlap=0)
    assert "not scored for lack of a label: P2" in capsys.readouterr().out


def test_a_folder_without_label_maps_cannot_be_scored(tmp_path, weights):
    write(tmp_path / "data", "P1", ["flair"])
    with pytest.raises(InputError, match="no patients with a label map"):
        score(tmp_path / "data", output=tmp_path / "out", weights=weights)


def test_labels_are_not_given_beside_a_datalist(tmp_path, weights):
    with pytest.raises(UsageError, match="leave one out"):
        score(tmp_path, output=tmp_path / "out", datalist=tmp_path / "list.json", labels="brats2015", weights=weights)


def test_a_file_that_cannot_be_used_is_found_before_anybody_is_scored(tmp_path, weights, monkeypatch):
    for case in ("P1", "P2"):
        write(tmp_path / "data", case, ["flair", "seg"])
    damaged = tmp_path / "data" / "P2" / "P2_flair.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    monkeypatch.setattr("monai_passion.prediction.scoring.read_patient", lambda *_: pytest.fail("somebody is scored"))
    with pytest.raises(InputError, match=r"P2_flair\.nii\.gz is cut short"):
        score(tmp_path / "data", output=tmp_path / "out", weights=weights, device="cpu", roi_size=32, overlap=0)
