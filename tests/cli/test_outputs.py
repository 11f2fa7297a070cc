"""One rule for every command that writes: what is there is not touched unless --overwrite is given, and a place that
cannot be written to is one line before anything is computed."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from monai_passion.cli import main
from monai_passion.commands import COMMANDS, load_command
from monai_passion.system.resources import resource_folder

GRID = str(resource_folder("configs") / "experiments" / "phantom.json")
BUNDLE = "brats_mri_segmentation_rfnet_passion"
FILES = {
    "datalist": ["datalist", ".", "--output", "old.json"],
    "presence": ["presence", "--cases", "3", "--missing-rates", "0", "0", "0", "0", "--output", "old.csv"],
    "convert": ["convert", "x.pth", "--network", "rfnet", "--output", "old.safetensors"],
    "bundles export": ["bundles", "export", BUNDLE, "--weights", "weights", "--output", "old.zip"],
    "task": ["task", ".", "--modalities", "flair", "t1", "--classes", "lesion=1", "--output", "old.json"],
    "verify": ["verify", ".", "--output", "old.json"],
}
FOLDERS = {
    "predict": ["predict", "--t1", "t1.nii.gz", "--output", "old", "--weights", "weights"],
    "compare": ["compare", ".", ".", "--output", "old"],
    "score": ["score", ".", "--datalist", "d.json", "--output", "old", "--weights", "weights"],
    "report": ["report", "runs", "--output", "old"],
    "composite": ["composite", ".", "--output", "old"],
    "train": ["train", ".", "--output", "old"],
    "evaluate": ["evaluate", "weights", "--bundle", BUNDLE, "--data", ".", "--datalist", "d.json", "--output", "old"],
}
ADDED_TO = {
    "predict of a cohort": ["predict", "cohort", "--output", "old", "--weights", "weights"],
    "bundles make": ["bundles", "make", "--task", "brats_mri", "--network", "rfnet", "--output", "old"],
    "phantom": ["phantom", "brats", "old", "--cases", "1", "--size", "24"],
    "experiments run": ["experiments", "run", GRID, "--data", ".", "--output", "old"],
    "demo": ["demo", "--output", "old"],
}
"""Folders that these go on with, or that must be new: there is no --overwrite of what they lack."""
ALL = FILES | FOLDERS | ADDED_TO


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with something for every command to begin with, and to stop at before it takes long."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").touch()
    image = {"t1": "t1.nii.gz", "t1c": None, "flair": None, "t2": None}
    item = {"case": "P", "patient": "P", "group": "unknown", "image": image, "label": "seg.nii.gz"}
    splits = {"training": [], "validation": [], "test": [item]}
    (tmp_path / "d.json").write_text(json.dumps({"task": "brats_mri", "modalities": list(image), **splits}))
    (tmp_path / "t1.nii.gz").touch()
    for patient in "AB":
        (tmp_path / "cohort" / patient).mkdir(parents=True)
        (tmp_path / "cohort" / patient / "t1.nii.gz").touch()
    (tmp_path / "file").touch()
    monkeypatch.setattr("monai_passion.data.phantom.cohort.claim", _stop)
    return tmp_path


def _stop(*_):
    raise SystemExit(99)


def _output(command):
    return next(word for word in ALL[command] if word.startswith("old"))


def _run(command, output=None):
    try:
        return main([output or word if word == _output(command) else word for word in ALL[command]])
    except SystemExit as stop:
        return stop.code


def _names(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_every_command_with_an_output_is_tried():
    functions = {}
    for name in COMMANDS:
        loaded = load_command(name)
        functions |= {name: loaded} if callable(loaded) else {f"{name} {part}": one for part, one in loaded.items()}
    writing = {name for name, function in functions.items() if "output" in inspect.signature(function).parameters}
    assert writing - {"bundles check"} == set(ALL) - {"predict of a cohort"}


@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
def test_an_older_result_is_refused_before_anything_is_computed(command, place, capsys):
    old = place / _output(command)
    if command in FOLDERS:
        old.mkdir()
        old = old / "mine"
    old.write_text("old")
    before = _names(place)
    assert _run(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert old.read_text() == "old"
    assert _names(place) == before


def _below_a_file(place, command):
    return f"file/{_output(command)}"


def _of_the_other_kind(place, command):
    old = place / _output(command)
    old.mkdir() if command in FILES else old.write_text("old")


def _dangling_link(place, command):
    (place / _output(command)).symlink_to(place / "gone")


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (_below_a_file, 5, "cannot write"),
        (_of_the_other_kind, 2, "is a f"),
        (_dangling_link, 2, "is a link to"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_one_line_before_anything_is_computed(
    command, make, code, said, place, capsys
):
    output = make(place, command)
    before = _names(place)
    assert _run(command, output) == code
    out, error = capsys.readouterr()
    assert error.startswith("monai-passion: error: ")
    assert said in error
    assert (out, error.count("\n")) == ("", 1)
    assert _names(place) == before


@pytest.mark.parametrize("command", [*FOLDERS, *ADDED_TO])
@pytest.mark.parametrize("is_link", [False, True], ids=["an empty folder", "a link to a folder"])
def test_a_folder_that_is_there_is_written_into(command, is_link, place, capsys):
    """The commands get past their output, to what is wrong with their inputs."""
    disk = place / "disk" if is_link else place / _output(command)
    disk.mkdir()
    if is_link:
        (place / _output(command)).symlink_to(disk)
    _run(command)
    error = capsys.readouterr().err
    assert "--output" not in error
    assert "cannot write" not in error
    assert (place / _output(command)).is_symlink() == is_link
    assert disk.is_dir()


@pytest.mark.parametrize(
    "command",
    [
        ["presence", "--read", "old.csv"],
        ["presence", "--datalist", "old.csv", "--missing-rates", "0", "0", "0", "0"],
        ["convert", "old.safetensors", "--network", "rfnet"],
        ["bundles", "export", BUNDLE, "--weights", "old.zip"],
        ["task", "old.csv"],
        ["datalist", ".", "--task", "old.csv"],
        ["verify", ".", "--task", "old.csv"],
    ],
    ids=" ".join,
)
def test_an_input_is_not_replaced(place, capsys, command):
    (place / "deep").mkdir()
    file = next(word for word in command if word.startswith("old."))
    (place / file).write_text("mine")
    assert main([*command, "--output", f"deep/../{file}", "--overwrite"]) == 2
    assert capsys.readouterr().err.endswith(f"{file} is an input; give another file\n")
    assert (place / file).read_text() == "mine"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_command_whose_output_nobody_reads_any_more_does_its_work(tmp_path, stream):
    made = ["phantom", "brats", str(tmp_path / "made"), "--cases", "2", "--size", "24"]
    process = subprocess.Popen([sys.executable, "-m", "monai_passion", *made], **{stream: subprocess.PIPE})
    getattr(process, stream).close()
    assert process.wait() == 0
    assert len(list((tmp_path / "made").glob("BraTS20_*"))) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_standard_output_on_a_full_disk_is_a_full_disk(tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "monai_passion", "info"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr
