"""``train`` and ``evaluate``, on patients of a few voxels."""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fire.parser import DefaultParseValue

from monai_passion.bundle.facts import find_bundle
from monai_passion.bundle.run import ARGUMENTS, command_line
from monai_passion.bundle.run_folder import run_folder
from monai_passion.bundle.settings import as_text
from monai_passion.cli import main
from monai_passion.commands.train import train as train_command
from monai_passion.errors import InputError, UsageError
from monai_passion.networks.weights import load_weights
from tests.bundles.conftest import write_case

LOCKED = """
import sys
from monai_passion.system.locks import RunLock
RunLock(sys.argv[1]).acquire()
print("locked", flush=True)
sys.stdin.readline()
"""
"""A training that does nothing but keep others out."""
SMALL = ["width=2", "crop_size=[32,32,32]", "roi_size=[32,32,32]", "spacing=[-1,-1,-1]", "val_interval=1"]


def cohort(folder, names, label=True):
    for k, name in enumerate(names):
        write_case(folder, name, "brats_mri", k)
        if k == 1:
            (folder / name / f"{name}_t1ce.nii.gz").unlink()
        if not label and k == 0:
            (folder / name / f"{name}_seg.nii.gz").unlink()
    return folder


def train(data, run, *more, epochs=1):
    return main(
        ["train", str(data), "--output", str(run), "--device", "cpu", "--set", *SMALL, f"epochs={epochs}", *more]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = cohort(folder / "data, 2024#1", [f"P{k}" for k in range(5)])
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train(data, folder / "run", epochs=2) == 0
    (folder / "said.txt").write_text(said.getvalue())
    return data, folder / "run"


def test_a_training_says_one_line_an_epoch_and_the_rest_to_its_log(trained):
    run = trained[1]
    said, log = (run.parent / "said.txt").read_text(), (run / "log.txt").read_text()
    lines = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("loss " in line and "mean dice " in line for line in lines)
    assert "Engine run" in log
    assert "Engine run" not in said
    assert lines[0] in log


def test_the_printed_line_gives_monai_the_same_settings(trained):
    data, run = trained
    arguments = json.loads((run / ARGUMENTS).read_text())
    settings = {key: value for key, value in arguments.items() if key not in ("run_id", "config_file")}
    words = shlex.split(command_line(arguments["run_id"], arguments["config_file"], settings))
    assert words[:5] == ["python", "-m", "monai.bundle", "run", "training"]
    read = {words[k].removeprefix("--"): DefaultParseValue(words[k + 1]) for k in range(5, len(words), 2)}
    assert read == {**settings, "config_file": arguments["config_file"][0]}
    assert eval(settings["dataset_dir"][1:]) == str(data)
    assert load_weights(run / "model.pt")[1]["settings"]["width"] == 2


def test_the_printed_line_has_lists_and_words_as_fire_reads_them():
    settings = {"a": True, "b": None, "c": [1, "x"], "d": "two words", "e": 0.5, "f": False}
    words = shlex.split(command_line("training", ["one.json", "two.json"], settings))
    read = {words[k].removeprefix("--"): DefaultParseValue(words[k + 1]) for k in range(5, len(words), 2)}
    assert read == {**settings, "config_file": ["one.json", "two.json"]}


def test_the_same_command_goes_on_and_another_one_is_refused(trained, tmp_path, capsys):
    data, run = trained
    mine = tmp_path / "run"
    mine.mkdir()
    (mine / "notes").touch()
    assert train(data, mine) == 2
    assert "is not empty" in capsys.readouterr().err
    (mine / ARGUMENTS).write_text((run / ARGUMENTS).read_text().replace(str(run), str(mine)))
    assert train(data, mine, "seed=1") == 2
    assert "seed None -> 1" in capsys.readouterr().err
    assert sorted(os.listdir(mine)) == ["notes", ARGUMENTS]


@pytest.mark.parametrize("given", ["--datalist {}", "--set initial_weights={}"])
def test_starting_anew_keeps_what_the_training_is_given(tmp_path, capsys, given):
    (tmp_path / "data").mkdir()
    run = tmp_path / "run #1"
    run.mkdir()
    file = run / {"--d": "datalist.json", "--s": "model.safetensors"}[given[:3]]
    file.write_text("mine")
    more = [word.format(file) for word in given.split()]
    if "initial" in given:
        more[1] = "initial_weights=" + as_text(str(file))
    assert main(["train", str(tmp_path / "data"), "--output", str(run), *more, "--overwrite"]) == 2
    assert f"{file} ({'datalist' if 'datalist' in given else 'initial_weights'}) is an input" in capsys.readouterr().err
    assert file.read_text() == "mine"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("begins", [False, True])
def test_starting_anew_replaces_an_earlier_training_once_the_new_one_has_begun(trained, tmp_path, monkeypatch, begins):
    data, run = trained
    mine = shutil.copytree(run, tmp_path / "run")
    (mine / "notes.md").write_text("mine")
    before = content(mine)

    def run_bundle(*given):
        locked = subprocess.run(
            [sys.executable, "-c", LOCKED, str(mine)], stdin=subprocess.DEVNULL, capture_output=True
        )
        assert b"in use by another training" in locked.stderr
        (mine / "curves.csv").write_text("new")
        if begins:
            (mine / "checkpoint_epoch=1.pt").write_text("new")
        raise InputError("a bad patient")

    monkeypatch.setattr("monai_passion.commands.train.run_bundle", run_bundle)
    assert main(["train", str(data), "--output", str(mine), "--overwrite", "--set", *SMALL]) == 3
    if begins:
        assert set(content(mine)) == {"notes.md", "checkpoint_epoch=1.pt", "curves.csv", ARGUMENTS}
    else:
        assert content(mine) == before


def test_an_earlier_training_comes_back_after_a_kill_before_the_new_one_began(trained, tmp_path, monkeypatch):
    data, run = trained
    mine = shutil.copytree(run, tmp_path / "run")
    arguments = (run / ARGUMENTS).read_text().replace(str(run), str(mine))
    (mine / ARGUMENTS).write_text(arguments)
    before = content(mine)

    def killed(*given):
        raise Killed

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        patch.setattr("monai_passion.commands.train.run_bundle", killed)
        patch.setattr("monai_passion.bundle.run_folder._settle", lambda *given: None)  # nothing comes back
        with pytest.raises(Killed):
            train_command(data, output=mine, overwrite=True, set={"epochs": "7"})
    assert not list(mine.glob("*.pt"))
    monkeypatch.setattr("monai_passion.commands.train.run_bundle", lambda *given: None)
    assert train(data, mine, epochs=2) == 0
    assert content(mine).keys() == before.keys()
    assert not (mine / ".earlier").exists()


@pytest.mark.parametrize("moves", range(0, 9, 2))
def test_a_kill_while_an_earlier_training_is_put_aside_or_back_loses_nothing(trained, tmp_path, monkeypatch, moves):
    _, run = trained
    mine = shutil.copytree(run, tmp_path / "run")
    (mine / "resnet50.pt").write_text("not of a training")
    before, arguments = content(mine), json.loads((mine / ARGUMENTS).read_text())
    rename, left = Path.rename, [moves]

    def killed(path, target):
        left[0] -= 1
        if left[0] < 0:
            raise SystemExit("killed")
        return rename(path, target)

    def start(back):
        with run_folder(mine, arguments, True, None):
            (mine / "curves.csv").write_text("of a training without a checkpoint")
            left[0] = moves if back else 99
            raise SystemExit("ends")

    for back in (False, True):
        left[0] = 99 if back else moves
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(SystemExit):
                start(back)
        with pytest.raises(UsageError, match="seed"), run_folder(mine, {**arguments, "seed": 9}, False, None):
            pytest.fail("other settings are refused")  # but the next start has put things right
        assert content(mine) == before


def test_starting_anew_removes_nothing_that_no_training_wrote(trained, tmp_path, capsys):
    data, _ = trained
    mine = tmp_path / "run"
    mine.mkdir()
    (mine / "datalist.json").write_text("mine")
    (mine / "resnet50.pt").write_text("mine")
    assert main(["train", str(data), "--output", str(mine), "--overwrite", "--set", *SMALL]) == 2
    assert "has no training that --overwrite could replace, but datalist.json" in capsys.readouterr().err
    assert content(mine) == {"datalist.json": b"mine", "resnet50.pt": b"mine"}


def test_a_bundle_within_the_output_stays_when_the_training_does_not_begin(tmp_path):
    (tmp_path / "data").mkdir()
    mine = shutil.copytree(find_bundle().path, tmp_path / "run" / "mine")
    assert (
        main(["train", str(tmp_path / "data"), "--bundle", str(mine), "--output", str(mine.parent), "--overwrite"]) == 3
    )
    assert (mine / "configs" / "train.json").is_file()
    assert os.listdir(mine.parent) == ["mine"]


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_running_training_keeps_its_files_when_it_is_started_again(trained, tmp_path, capsys, more):
    data, run = trained
    mine = tmp_path / "run"
    mine.mkdir()
    (mine / ARGUMENTS).write_text((run / ARGUMENTS).read_text().replace(str(run), str(mine)))
    (mine / "curves.csv").write_text("header\n")
    with subprocess.Popen(
        [sys.executable, "-c", LOCKED, str(mine)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        before = sorted(os.listdir(mine))
        assert (
            main(["train", str(data), "--output", str(mine), "--device", "cpu", *more, "--set", *SMALL, "epochs=2"])
            == 2
        )
        assert f"in use by another training (process {other.pid} " in capsys.readouterr().err
        assert sorted(os.listdir(mine)) == before
        other.communicate("\n")


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--set", "epoch=3"], 2, "unknown setting 'epoch'; did you mean epochs?"),
        (["--set", "loss#gama=3"], 2, "loss has no 'gama'; did you mean gamma?"),
        (["--set", "epochs=three"], 2, "the setting epochs is 'three', not a number"),
        (["--method", "pasion"], 2, "did you mean passion?"),
        (["--missing", "idt_2468_"], 2, "did you mean idt_2468?"),
        (["--network", "mmforme"], 2, "did you mean mmformer?"),
        (["--task", "brats"], 2, "no bundle for the task brats"),
        (["--network", "transunet", "--task", "myops_cmr"], 2, "its networks are"),
        (["--datalist", "nowhere.json"], 3, "nowhere.json does not exist"),
        (["--bundle", "nowhere"], 2, "no bundle 'nowhere'"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_runs(tmp_path, capsys, more, code, said):
    (tmp_path / "data").mkdir()
    assert main(["train", str(tmp_path / "data"), "--output", str(tmp_path / "run"), *more]) == code
    out, error = capsys.readouterr()
    assert said in error
    assert (out, error.count("\n")) == ("", 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_bundle_whose_configuration_runs_another_program_is_refused(tmp_path, capsys, command):
    bundle = shutil.copytree(find_bundle().path, tmp_path / "bundle")
    path = bundle / "configs" / f"{command}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "initialize": ["$print('run')"]}))
    (tmp_path / "weights").touch()
    what = {"train": [tmp_path], "evaluate": [tmp_path / "weights", "--data", tmp_path]}[command]
    assert main([command, *map(str, what), "--bundle", str(bundle), "--output", str(tmp_path / "out")]) == 2
    out, error = capsys.readouterr()
    assert "add --trust" in error
    assert out == ""


def test_a_folder_without_patients_leaves_nothing(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert train(tmp_path / "data", tmp_path / "run") == 3
    assert "Traceback" not in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["data"]


def test_an_outside_cohort_is_scored_as_a_whole(trained, tmp_path, capsys):
    _, run = trained
    outside = cohort(tmp_path / "hospital", ["H0", "H1", "P2"], label=False)
    (outside / "phantom.json").write_text("{}")
    scores = tmp_path / "scores"
    label = "$exit() #2"  # MONAI runs and changes such texts
    given = ["--data", str(outside), "--output", str(scores), "--device", "cpu", "--label", label]
    assert main(["evaluate", str(run), *given]) == 0
    said = capsys.readouterr().out
    assert "not scored for lack of a label: H0" in said
    assert set(pd.read_csv(scores / "metrics.csv")["case"]) == {"H1", "P2"}
    facts = json.loads((scores / "run.json").read_text())
    assert (facts["split"], facts["data"], facts["label"]) == ("test", "phantom", label)
    assert main(["evaluate", str(run), "--data", str(outside), "--output", str(scores)]) == 2
    assert "add --overwrite" in capsys.readouterr().err


def test_of_the_own_patients_those_of_a_split_are_scored(trained, capsys):
    _, run = trained
    assert main(["evaluate", str(run), "--device", "cpu", "--split", "validation"]) == 0
    held_out = [item["case"] for item in json.loads((run / "datalist.json").read_text())["validation"]]
    assert set(pd.read_csv(run / "scores_validation" / "metrics.csv")["case"]) == set(held_out)


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--data", "{data}/P0", "--split", "test"], 2, "leave --split out"),
        (["--data", "{data}/nowhere"], 3, "nowhere is not a folder"),
        (["--set", "widht=2"], 2, "did you mean width?"),
        (["--datalist", "nowhere.json"], 3, "nowhere.json"),
    ],
)
def test_what_cannot_be_scored_is_one_line(trained, tmp_path, capsys, more, code, said):
    data, run = trained
    more = [word.format(data=data) for word in more]
    assert main(["evaluate", str(run), "--output", str(tmp_path / "scores"), *more]) == code
    out, error = capsys.readouterr()
    assert said in error
    assert (out, error.count("\n")) == ("", 1)
    assert not (tmp_path / "scores").exists()


def test_a_run_and_its_data_may_be_moved(trained, tmp_path, capsys):
    data, run = trained
    shutil.copytree(data, tmp_path / "new data")
    shutil.copytree(run, tmp_path / "new run")
    arguments = json.loads((run / ARGUMENTS).read_text())
    elsewhere = [path.replace("/bundles/", "/venv/other/bundles/") for path in arguments["config_file"]]
    before = {**arguments, "config_file": elsewhere, "dataset_dir": str(tmp_path / "gone")}
    (tmp_path / "new run" / ARGUMENTS).write_text(json.dumps(before))
    evaluate = ["evaluate", str(tmp_path / "new run"), "--data", str(tmp_path / "new data"), "--device", "cpu"]
    shutil.rmtree(tmp_path / "new run" / "scores_test", ignore_errors=True)
    assert main(evaluate) == 0
    held_out = [item["case"] for item in json.loads((run / "datalist.json").read_text())["test"]]
    assert set(pd.read_csv(tmp_path / "new run" / "scores_test" / "metrics.csv")["case"]) == set(held_out)
    assert train(tmp_path / "new data", tmp_path / "new run", epochs=2) == 0
    assert json.loads((tmp_path / "new run" / ARGUMENTS).read_text())["dataset_dir"] == str(tmp_path / "new data")
    capsys.readouterr()
    assert train(cohort(tmp_path / "others", ["X", "Y", "Z"]), tmp_path / "new run", epochs=2) == 2
    assert "holds a training with other settings (dataset_dir" in capsys.readouterr().err


def test_patients_of_the_training_give_no_summary_to_its_weights(trained, tmp_path, caplog):
    """Two cohorts whose patients have the same names are two, as long as both are there."""
    data, run = trained
    shutil.copytree(data, tmp_path / "copy")
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink(missing_ok=True)
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "copy"), "--device", "cpu"]) == 0
    scored = pd.read_csv(tmp_path / "run" / "scores_copy" / "metrics.csv")["case"]
    assert set(scored) == {f"P{k}" for k in range(5)}
    assert not (tmp_path / "run" / "summary.json").exists()
