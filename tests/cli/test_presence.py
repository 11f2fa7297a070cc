import json

import numpy as np
import pytest

from monai_passion.cli import main
from monai_passion.data.presence import read_presence
from tests.helpers.tasks import BRATS_MRI


@pytest.fixture
def datalist(tmp_path):
    """Eight training patients of two cases each, of two sites, and one for validation."""
    image = {m: f"{m}.nii.gz" for m in BRATS_MRI}
    items = [
        {"case": f"P{n}_{k}", "patient": f"P{n}", "group": "north" if n < 4 else "south", "image": image}
        for n in range(9)
        for k in "ab"
    ]
    content = {
        "task": "brats_mri",
        "modalities": BRATS_MRI,
        "training": items[:16],
        "validation": items[16:],
        "test": [],
    }
    path = tmp_path / "d.json"
    path.write_text(json.dumps(content))
    return path


def test_drawn_for_a_number_of_cases_and_shown_as_tables(tmp_path, capsys):
    output = tmp_path / "p.csv"
    rates = ["t1=0.2", "t1c=0.4", "flair=0.6", "t2=0.8"]
    assert main(["presence", "--cases", "219", "--missing-rates", *rates, "--seed", "1", "--output", str(output)]) == 0
    presence = read_presence(output, BRATS_MRI)
    assert presence.table.sum(axis=0).tolist() == [91, 137, 183, 45]
    drawn = capsys.readouterr().out
    assert "137" in drawn
    assert "flair+t1c+t1+t2" in drawn
    assert main(["presence", "--read", str(output)]) == 0
    assert capsys.readouterr().out in drawn


@pytest.mark.parametrize(("per", "names"), [("patient", ["P0", "P1"]), ("case", ["P0_a", "P0_b"])])
def test_drawn_for_the_training_patients_of_a_datalist(datalist, tmp_path, per, names):
    output = tmp_path / "p.csv"
    arguments = ["--datalist", str(datalist), "--missing-rates", *["0.5"] * 4, "--per", per, "--output", str(output)]
    assert main(["presence", *arguments]) == 0
    cases = read_presence(output).cases
    assert list(cases[:2]) == names
    assert len(cases) == (8 if per == "patient" else 16)


def test_groups_have_rates_of_their_own(datalist, tmp_path):
    output = tmp_path / "p.csv"
    rates = ["--group-rates", "north=0,0,0,0", "south=0.5,0,0,0.5"]
    assert main(["presence", "--datalist", str(datalist), *rates, "--output", str(output)]) == 0
    table = read_presence(output, BRATS_MRI).table
    assert table[:4].all()
    np.testing.assert_array_equal(table[4:].sum(axis=0), [2, 4, 4, 2])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--cases", "9"], 2, "--missing-rates"),
        (["--cases", "9", "--missing-rates", "0.1", "0.1"], 2, "2 values for 4 modalities"),
        (["--cases", "9", "--missing-rates", "0.1", "0.1", "0.1", "x"], 2, "are not missing rates"),
        (["--cases", "9", "--missing-rates", "t1=0.1", "0.1"], 2, "with and without name"),
        (["--cases", "9", "--missing-rates", "0.1", "0.1", "0.1", "1"], 2, "1.0 of t2"),
        (["--cases", "0", "--missing-rates", "0", "0", "0", "0"], 2, "at least one"),
        (["--cases", "9", "--missing-rates", "0", "0", "0", "0.5", "--seed", "-1"], 2, "seed is -1"),
        (["--read", "nowhere.csv"], 3, "nowhere.csv"),
        (["--datalist", "nowhere.json", "--missing-rates", "0"], 3, "nowhere.json"),
    ],
)
def test_what_cannot_be_ends_with_one_line(arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["presence", *arguments, "--output", "p.csv"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_of_a_datalist_only_files_that_there_are_are_drawn(datalist, tmp_path):
    content = json.loads(datalist.read_text())
    for item in content["training"][:8]:
        item["image"] = {m: path if m == "t2" else None for m, path in item["image"].items()}
    datalist.write_text(json.dumps(content))
    rates = ["0.5", "0.5", "0.5", "0.5"]
    command = ["presence", "--datalist", datalist, "--missing-rates", *rates, "--output", tmp_path / "p.csv"]
    assert main([*map(str, command)]) == 0
    table = read_presence(tmp_path / "p.csv", BRATS_MRI)
    few = {item["patient"] for item in content["training"][:8]}
    assert all(
        row.tolist() == [False, False, False, True] for case, row in zip(*table[::2], strict=True) if case in few
    )


@pytest.mark.parametrize("cases", ["0", "-3"])
def test_fewer_than_one_case_is_refused(cases, capsys):
    assert main(["presence", "--cases", cases, "--missing-rates", "t1=0.2"]) == 2
    assert f"--cases is {cases}; give at least one" in capsys.readouterr().err
