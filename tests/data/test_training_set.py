import json

import numpy as np
import pytest

from monai_passion.data.datalists import load_datalist
from monai_passion.data.presence import Presence, read_presence, write_presence
from monai_passion.data.training_set import describe_training_set, prepare_datalist
from monai_passion.errors import InputError, UsageError
from tests.data.layouts import BRATS_FILES, touch
from tests.helpers.tasks import BRATS_MRI, MYOPS_CMR


def test_missing_modalities_are_null_in_training_and_nowhere_else(brats, tmp_path):
    rates = {"t1": 0.2, "t1c": 0.4, "flair": 0.6, "t2": 0.8}
    datalist = prepare_datalist(brats, missing_rates=rates, ckpt_dir=tmp_path / "ckpt")
    have = np.array([[item["image"][m] is not None for m in BRATS_MRI] for item in datalist["training"]])
    assert have.sum(axis=0).tolist() == [6, 9, 12, 3]
    assert have.any(axis=1).all()
    assert all(all(item["image"].values()) for split in ("validation", "test") for item in datalist[split])
    stored = read_presence(tmp_path / "ckpt" / "presence.csv")
    assert stored.cases == tuple(item["case"] for item in datalist["training"])
    np.testing.assert_array_equal(stored.table, have)


def test_the_stored_datalist_holds_the_nulls_and_is_used_again(brats, tmp_path):
    arguments = {"dataset_dir": brats, "missing_rates": [0.5] * 4, "ckpt_dir": tmp_path / "ckpt", "seed": 3}
    first = prepare_datalist(**arguments)
    assert load_datalist(tmp_path / "ckpt" / "datalist.json", root=brats)["training"] == first["training"]
    touch(brats / "P99" / "P99_t1.nii.gz")  # a patient who comes later does not change a training under way
    again = prepare_datalist(**arguments)
    assert again == first


def test_a_data_set_may_move_between_calls(brats, tmp_path):
    arguments = {"missing_rates": [0.5] * 4, "ckpt_dir": tmp_path / "ckpt"}
    first = prepare_datalist(brats, **arguments)
    moved = brats.rename(tmp_path / "moved")
    second = prepare_datalist(moved, **arguments)
    assert json.dumps(second) == json.dumps(first).replace(str(brats), str(moved))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seed": 4}, "seed = 3, not 4"),
        ({"missing_rates": [0.5, 0.5, 0.5, 0.6]}, "missing_rates"),
        ({"missing_rates": None}, "missing_rates"),
        ({"fractions": (0.5, 0.25, 0.25)}, "options"),
        ({"dataset_dir": "other"}, "other data"),
    ],
)
def test_what_is_stored_is_not_used_for_other_arguments(brats, tmp_path, change, match):
    arguments = {"dataset_dir": brats, "missing_rates": [0.5] * 4, "ckpt_dir": tmp_path / "ckpt", "seed": 3}
    prepare_datalist(**arguments)
    if "dataset_dir" in change:
        change = {"dataset_dir": tmp_path / "other"}
        touch(tmp_path / "other" / "Q" / "Q_t1.nii.gz")
    with pytest.raises(UsageError, match=match):
        prepare_datalist(**{**arguments, **change})


def test_an_evaluation_takes_the_split_of_a_training(brats, tmp_path):
    trained = prepare_datalist(brats, missing_rates=[0.5] * 4, ckpt_dir=tmp_path, seed=3)
    assert prepare_datalist(brats, datalist=tmp_path / "datalist.json") == trained


def test_a_presence_table_of_patients_serves_each_of_their_cases(myops, tmp_path):
    write_presence(
        tmp_path / "p.csv",
        Presence(tuple(f"m_{n}" for n in range(5)), MYOPS_CMR, np.eye(3, dtype=bool)[[0, 1, 2, 0, 1]]),
    )
    datalist = prepare_datalist(myops, presence=tmp_path / "p.csv", task="myops_cmr", slices=True, fractions=(1, 0, 0))
    assert len(datalist["training"]) == 20
    for item in datalist["training"]:
        kept = [m for m, path in item["image"].items() if path]
        assert kept == [MYOPS_CMR[int(item["patient"][-1]) % 3]]


def test_a_presence_table_of_slices_makes_slices_of_the_training_cases(myops, tmp_path):
    slices = tuple(f"m_{n}_slice_{k}" for n in range(5) for k in range(2 + n))
    write_presence(tmp_path / "p.csv", Presence(slices, MYOPS_CMR, np.eye(3, dtype=bool)[np.arange(20) % 3]))
    datalist = prepare_datalist(myops, presence=tmp_path / "p.csv", task="myops_cmr", fractions=(1, 0, 0))
    assert [item["case"] for item in datalist["training"]] == list(slices)
    for n, item in enumerate(datalist["training"]):
        assert item["case"].endswith(f"_slice_{item['slice']}")
        assert [m for m, path in item["image"].items() if path] == [MYOPS_CMR[n % 3]]


@pytest.mark.parametrize(("per", "distinct"), [("patient", 5), ("case", 20)])
def test_presence_is_drawn_for_patients_or_for_cases(myops, per, distinct):
    datalist = prepare_datalist(
        myops, missing_rates=[0.0, 0.0, 0.5], per=per, task="myops_cmr", slices=True, fractions=(1, 0, 0)
    )
    rows = {item["case"]: bool(item["image"]["t2"]) for item in datalist["training"]}
    by_patient = {(item["patient"], rows[item["case"]]) for item in datalist["training"]}
    assert len(by_patient) == 5 if per == "patient" else sum(rows.values()) == 10


def test_training_patients_whom_the_table_does_not_name_are_an_error(brats, tmp_path):
    write_presence(tmp_path / "p.csv", Presence(("P00",), BRATS_MRI, np.ones((1, 4), dtype=bool)))
    with pytest.raises(InputError, match=r"p.csv does not name 19 of 20 training cases \(P01, P02, P03, ...\)"):
        prepare_datalist(brats, presence=tmp_path / "p.csv", fractions=(1, 0, 0))


@pytest.mark.parametrize("seed", range(5))
def test_rates_leave_every_patient_something_of_what_it_has(brats, seed):
    """Also those who lack files themselves, whatever the rates; a modality that nobody has stays away."""
    for n in range(20):
        for m, name in enumerate(BRATS_FILES.values()):
            if name == "t2" or (name != "seg" and n % 3 == m):
                (brats / f"P{n:02d}" / f"P{n:02d}_{name}.nii.gz").unlink()
        if n % 4 == 0:
            for name in ("flair", "t1ce"):
                (brats / f"P{n:02d}" / f"P{n:02d}_{name}.nii.gz").unlink(missing_ok=True)
    rates = {"flair": 0.2, "t1c": 0.2, "t1": 0.9, "t2": 0.9}
    found = prepare_datalist(brats, fractions=(1, 0, 0))
    drawn = prepare_datalist(brats, missing_rates=rates, seed=seed, fractions=(1, 0, 0))
    for before, after in zip(found["training"], drawn["training"], strict=True):
        kept = {m for m, path in after["image"].items() if path}
        assert kept
        assert kept | set(drawn["removed"].get(after["case"], ())) == {m for m, path in before["image"].items() if path}
    assert {m for item in drawn["training"] for m, path in item["image"].items() if path} == {"flair", "t1c", "t1"}


def test_the_table_of_a_training_set_counts_what_was_found_taken_out_and_is_used(brats):
    (brats / "P03" / "P03_t2.nii.gz").unlink()
    rates = {"flair": 0.0, "t1c": 0.0, "t1": 0.5, "t2": 0.0}
    text = describe_training_set(prepare_datalist(brats, missing_rates=rates, fractions=(1, 0, 0)))
    rows = {line[:16].strip(): list(map(int, line[16:].split())) for line in text.splitlines() if line[-1].isdigit()}
    assert rows["t1"] == [20, 10, 10]
    assert rows["t2"] == [19, 0, 19]
    assert rows["all"] == [79, 10, 69]
    assert rows["4 of 4"][0] == 19
    assert sum(used for name, (_, used) in ((n, r) for n, r in rows.items() if " of " in n)) == 20


@pytest.mark.parametrize("rates", [[0.6, 0.4, 0.2, 0.8], {"t2": 0.8, "t1": 0.2, "t1ce": 0.4, "flair": 0.6}])
def test_rates_in_a_list_and_by_name_are_the_same_rates(brats, tmp_path, rates):
    first = prepare_datalist(brats, missing_rates={"flair": 0.6, "t1c": 0.4, "t1": 0.2, "t2": 0.8}, ckpt_dir=tmp_path)
    assert prepare_datalist(brats, missing_rates=rates, ckpt_dir=tmp_path) == first


def test_a_patient_left_with_nothing_is_an_error(brats, tmp_path):
    (brats / "P07" / "P07_t1.nii.gz").unlink()
    table = np.tile([False, False, True, False], (20, 1))
    write_presence(tmp_path / "p.csv", Presence(tuple(f"P{n:02d}" for n in range(20)), BRATS_MRI, table))
    with pytest.raises(InputError, match="leaves P07 with nothing"):
        prepare_datalist(brats, presence=tmp_path / "p.csv", fractions=(1, 0, 0), ckpt_dir=tmp_path / "ckpt")
    assert not (tmp_path / "ckpt").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"task": "liver"}, UsageError),
        ({"task": "myops_cmr"}, InputError),
        ({"per": "week"}, UsageError),
        ({"presence": "p.csv", "missing_rates": [0.1] * 4}, UsageError),
        ({"missing_rates": [0.1] * 3}, UsageError),
        ({"dataset_dir": "nowhere"}, InputError),
        ({"datalist": "nowhere.json"}, InputError),
        ({"presence": "nowhere.csv"}, InputError),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(brats, tmp_path, change, error):
    with pytest.raises(error):
        prepare_datalist(**{"dataset_dir": brats, "ckpt_dir": tmp_path / "ckpt", **change})
    assert not (tmp_path / "ckpt").exists()
