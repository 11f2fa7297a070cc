import csv
import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_passion.commands.composite import composite
from monai_passion.data.datalists import make_datalist
from monai_passion.errors import InputError, UsageError
from tests.bundles.conftest import write_case


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patients")
    for k in range(3):
        write_case(folder, f"P{k}", "brats_mri", k)
    return folder


def test_composites_are_patients_in_the_layout_of_brats_and_the_same_for_the_same_seed(patients, tmp_path):
    composite(patients, output=tmp_path / "a", cases=2, seed=3)
    composite(patients, output=tmp_path / "b", cases=2, seed=3)
    items = make_datalist(tmp_path / "a", fractions=(1, 0, 0))["training"]
    assert [item["case"] for item in items] == ["Composite_001", "Composite_002"]
    assert all(all(item["image"].values()) and item["label"] for item in items)
    with (tmp_path / "a" / "composites.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for item, row in zip(items, rows, strict=True):
        label = np.asarray(nib.load(tmp_path / "a" / item["label"]).dataobj)
        assert set(np.unique(label)) <= {0, 1, 2, 4}
        assert row["donor"] != row["host"]
        for path in (*item["image"].values(), item["label"]):
            one, other = (np.asarray(nib.load(tmp_path / run / path).dataobj) for run in "ab")
            assert np.array_equal(one, other)


def test_a_folder_with_something_in_it_is_left_alone(patients, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        composite(patients, output=tmp_path, cases=1)
    composite(patients, output=tmp_path, cases=1, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"note", "composites.csv", "Composite_001"}


def test_a_patient_without_label_is_no_healthy_host(patients, tmp_path, capsys):
    for case in patients.iterdir():
        (tmp_path / "in" / case.name).mkdir(parents=True)
        for path in case.iterdir():
            if case.name != "P1" or "seg" not in path.name:
                (tmp_path / "in" / case.name / path.name).symlink_to(path)
    composite(tmp_path / "in", output=tmp_path / "out", cases=6)
    with (tmp_path / "out" / "composites.csv").open(newline="") as file:
        assert {row["host"] for row in csv.DictReader(file)} == {"P0", "P2"}
    assert "not used: P1" in capsys.readouterr().out


@pytest.mark.parametrize(("wrong", "remedy"), [({"cases": 0}, "give 1 case or more"), ({"seed": -1}, "from 0 on")])
def test_no_composites_are_not_written(patients, tmp_path, wrong, remedy):
    with pytest.raises(UsageError, match=remedy):
        composite(patients, output=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_composite_has_the_sequences_of_its_head_and_always_a_tumor(patients, tmp_path):
    """P0 and P1 lack T1, P2 has all: the tumor of P0 or P1 does not suit it."""
    for case in patients.iterdir():
        shutil.copytree(case, tmp_path / "in" / case.name)
    for case in ("P0", "P1"):
        (tmp_path / "in" / case / f"{case}_t1.nii.gz").unlink()
    composite(tmp_path / "in", output=tmp_path / "out", cases=4, seed=1)
    with (tmp_path / "out" / "composites.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["host"] for row in rows} <= {"P0", "P1"}
    assert all(row["donor"] for row in rows)
    for path in (tmp_path / "out").glob("*/*.nii.gz"):
        values = np.asarray(nib.load(path).dataobj)
        if "_seg" not in path.name:
            shown = values[values != 0]
            assert (shown.mean(), shown.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))
        assert values.any(), path
    for case in ("P0", "P2"):
        shutil.rmtree(tmp_path / "in" / case)
    with pytest.raises(InputError, match="no tumor went into any of 50 heads"):
        composite(tmp_path / "in", output=tmp_path / "alone", cases=1)
    assert not (tmp_path / "alone").exists()
