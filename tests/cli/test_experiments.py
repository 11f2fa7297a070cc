import json

import pytest

from monai_passion.cli import main
from tests.cli.test_train import cohort
from tests.experiment.fake import write_project


@pytest.fixture
def command(tmp_path):
    grid = write_project(tmp_path)
    data = ["--data", str(tmp_path / "data"), "--datalist", str(tmp_path / "data" / "datalist.json")]
    return lambda *more: main(["experiments", "run", str(grid), "--output", str(tmp_path / "runs"), *data, *more])


def test_a_dry_run_prints_the_chosen_cells_and_writes_nothing(command, tmp_path, capsys):
    assert command("--dry-run", "--only", "one", "--only", "seed2") == 0
    assert capsys.readouterr().out.split() == [
        *("idt-one-seed2", "One,", "seed", "2,", "3", "steps", "1", "cells,", "3", "steps")
    ]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_counts_the_patients_of_the_lists_that_the_runs_have(tmp_path, capsys):
    grid, runs = write_project(tmp_path), tmp_path / "runs"
    runs.mkdir()
    listed = json.loads((tmp_path / "data" / "datalist.json").read_text())
    command = ["experiments", "run", str(grid), "--output", str(runs), "--data", str(tmp_path / "data")]
    for length in (1, 2):
        training = [{**listed["training"][0], "case": name, "patient": name} for name in "ab"[:length]]
        (runs / "datalist.json").write_text(json.dumps({**listed, "training": training}))
        main([*command, "--dry-run", "--only", "one", "--only", "seed2"])
        assert f" {3 * length} steps" in capsys.readouterr().out


def test_set_goes_before_what_the_grid_says(command, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_passion.experiment.runner.run_cells", lambda *args: {})
    assert command("--set", "loss#beta=true", "--set", "epochs=2", "--only", "one", "--device", "cpu") == 0
    args = json.loads((tmp_path / "runs" / "idt-one-seed1" / "train_args.json").read_text())
    assert (args["loss#beta"], args["epochs"], args["device"]) == (True, 2, "cpu")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "nobody"], "no cell"),
        (["--set", "epochs"], "KEY=VALUE"),
        (["--set", "epoch=2"], "unknown setting 'epoch'; did you mean epochs?"),
        (["--set", "epoch=2", "--dry-run"], "unknown setting 'epoch'; did you mean epochs?"),
        (["--set", "seed=5"], "--set seed: the grid has the seeds"),
        (["--set", "presence=x.csv"], "--set presence: the grid names the tables"),
        (["--split-dir", "x"], "--datalist and --split-dir"),
        (["--jobs", "0"], "--jobs"),
        (["--gpus", "0.5"], "--engine ray"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(command, capsys, more, message):
    assert command(*more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_split_without_patients_is_refused_before_any_training(command, tmp_path, capsys):
    path = tmp_path / "data" / "datalist.json"
    datalist = json.loads(path.read_text())
    path.write_text(json.dumps({**datalist, "validation": []}))
    assert command() == 3
    assert "datalist.json has no validation patients to score; choose another --split" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_lists_without_patients_to_score_leave_no_datalist_behind(tmp_path, capsys):
    grid = write_project(tmp_path)
    lists = tmp_path / "lists"
    lists.mkdir()
    for n in range(2):
        (tmp_path / "patients" / f"P{n}").mkdir(parents=True)
        (tmp_path / "patients" / f"P{n}" / f"P{n}_flair.nii.gz").touch()
        (lists / ("train.txt" if n else "test.txt")).write_text(f"P{n}\n")
    options = ["--data", str(tmp_path / "patients"), "--split-dir", str(lists)]
    assert main(["experiments", "run", str(grid), "--output", str(tmp_path / "runs"), *options]) == 3
    assert "lists has no validation patients to score; choose another --split" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_status_lists_every_cell(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("monai_passion.experiment.runner.run_cells", lambda *args: {})
    command()
    assert main(["experiments", "status", str(tmp_path / "runs")]) == 0
    text = capsys.readouterr().out
    assert "4 waiting" in text
    assert text.count("0/3") == 4


def test_status_of_another_folder_is_exit_code_3(tmp_path, capsys):
    assert main(["experiments", "status", str(tmp_path)]) == 3
    assert "holds no cells" in capsys.readouterr().err


def test_other_lists_than_those_of_an_earlier_run_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("monai_passion.experiment.runner.run_cells", lambda *args: {})
    grid, data = write_project(tmp_path), cohort(tmp_path / "images", "ABC")
    command = ["experiments", "run", str(grid), "--output", str(tmp_path / "runs"), "--data", str(data)]
    for name, order in (("one", "ABC"), ("other", "BAC")):
        (tmp_path / name).mkdir()
        for split, patient in zip(("train", "val", "test"), order, strict=True):
            (tmp_path / name / f"{split}.txt").write_text(patient)
    first = [*command, "--split-dir", str(tmp_path / "one")]
    assert main(first) == main(first) == main(command) == 0
    assert main([*command, "--split-dir", str(tmp_path / "other")]) == 2
    assert "datalist.json has other splits than" in capsys.readouterr().err
