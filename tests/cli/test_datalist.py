import pytest

from monai_passion.cli import main
from monai_passion.data.datalists import load_datalist
from tests.data.layouts import write_image


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "patients"
    for n in range(10):
        for name in ("flair", "t1", "t1ce", "seg"):
            write_image(home / f"P{n}" / f"P{n}_{name}.nii.gz")
    return home


def test_a_folder_becomes_a_datalist_and_a_table_of_counts(folder, tmp_path, capsys):
    output = tmp_path / "d.json"
    assert main(["datalist", str(folder), "--output", str(output), "--fractions", "0.6", "0.1", "0.3"]) == 0
    datalist = load_datalist(output)
    assert [len(datalist[split]) for split in ("training", "validation", "test")] == [6, 1, 3]
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if "training" in line]
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["6", "6", "6", "6", "6", "0", "6"]
    assert f"wrote {output}" in shown
    assert "nobody has t2" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 3, "nowhere is not a folder"),
        (["patients", "--fractions", "1", "1", "1"], 2, "add to 1"),
        (["patients", "--split-dir", "patients"], 3, "train.txt"),
        (["patients", "--layout", "nnunet"], 3, "no dataset.json"),
    ],
)
def test_what_cannot_be_ends_with_one_line_and_no_file(folder, tmp_path, arguments, code, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["datalist", *arguments, "--output", "d.json"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "d.json").exists()


def test_a_folder_that_cannot_be_written_to(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["datalist", str(folder), "--output", str(tmp_path / "file" / "d.json")]) == 5
    assert "cannot write" in capsys.readouterr().err
