"""One rule for every command that writes: what is there is not touched unless --overwrite is given."""

import json

import pytest

from monai_passion.cli import main

BUNDLE = "brats_mri_segmentation_rfnet_passion"
FILES = {
    "datalist": ["datalist", ".", "--output", "old.json"],
    "presence": ["presence", "--cases", "3", "--missing-rates", "0", "0", "0", "0", "--output", "old.csv"],
    "convert": ["convert", "x.pth", "--network", "rfnet", "--output", "old.safetensors"],
    "export": ["bundles", "export", BUNDLE, "--output", "old.zip"],
}
FOLDERS = {
    "predict": ["predict", ".", "--output", "old", "--weights", "weights"],
    "compare": ["compare", ".", ".", "--output", "old"],
    "score": ["score", ".", "--datalist", "d.json", "--output", "old", "--weights", "weights"],
    "report": ["report", "runs", "--output", "old"],
    "composite": ["composite", ".", "--output", "old"],
    "train": ["train", ".", "--output", "old"],
    "evaluate": ["evaluate", "weights", "--bundle", BUNDLE, "--data", ".", "--datalist", "d.json", "--output", "old"],
}


def _write_inputs(folder):
    (folder / "weights").touch()
    image = {"t1": "t1.nii.gz", "t1c": None, "flair": None, "t2": None}
    item = {"case": "P", "patient": "P", "group": "unknown", "image": image, "label": "seg.nii.gz"}
    splits = {"training": [], "validation": [], "test": [item]}
    (folder / "d.json").write_text(json.dumps({"task": "brats_mri", "modalities": list(image), **splits}))
    (folder / "t1.nii.gz").touch()


@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
def test_an_older_result_is_refused_before_anything_is_computed(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = (FILES | FOLDERS)[command]
    old = tmp_path / words[words.index("--output") + 1]
    if command in FOLDERS:
        old.mkdir()
        old = old / "mine"
    old.write_text("old")
    _write_inputs(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert old.read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", [*FILES, *FOLDERS, "phantom"])
def test_a_place_that_cannot_be_written_to_is_one_line_before_anything_is_computed(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = (FILES | FOLDERS | {"phantom": ["phantom", "brats", "old"]})[command]
    _write_inputs(tmp_path)
    (tmp_path / "file").touch()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert main([f"file/{word}" if word.startswith("old") else word for word in words]) == 5
    out, error = capsys.readouterr()
    assert error.startswith("monai-passion: error: cannot write")
    assert (out, error.count("\n")) == ("", 1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
