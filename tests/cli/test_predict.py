import io
import os
import re
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import rich.console
import torch

from monai_passion.cli import main
from monai_passion.networks.weights import load_weights
from monai_passion.prediction.terminal import speaking
from tests.helpers.images import smooth_noise

SHAPE = (32, 32, 32)


def write(path, data=None, affine=None, seed=0):
    data = np.pad(smooth_noise((28, 28, 28), seed), 2) if data is None else data
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def flair(tmp_path):
    return write(tmp_path / "flair.nii.gz")


@pytest.fixture
def predict(weights, tmp_path, capsys):
    """A function from arguments to (exit code, standard output, standard error); the output is in ``tmp_path/out``."""

    def run(*arguments, weights=weights):
        defaults = {"--weights": weights, "--device": "cpu", "--roi-size": 32} if weights else {}
        given = [word for flag, value in defaults.items() if flag not in arguments for word in (flag, value)]
        code = main(["predict", "--output", *map(str, [tmp_path / "out", *given, *arguments])])
        return code, *capsys.readouterr()

    return run


def failed(result, code, *parts, output):
    """A run that ended as a person deserves: the exit code, one line with all the parts, nothing left behind."""
    lines = [line for line in result[2].splitlines() if not line.endswith(" ...")]
    assert result[0] == code, result
    assert len(lines) == 1, lines
    assert "Traceback" not in result[2]
    for part in parts:
        assert part in lines[0]
    assert not output.exists()
    assert not list(output.parent.glob(".*"))


def test_a_patient_with_one_sequence_is_segmented_and_summed_up(predict, flair, tmp_path):
    code, out, _ = predict("--flair", flair)
    assert code == 0
    assert "used: flair; absent: t1c, t1, t2" in out
    for part in ("WT", "TC", "ET", "volume (mL)", "Research use only"):
        assert part in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "preview.png",
        "report.html",
        "report.json",
        "segmentation.nii.gz",
    ]


def test_quiet_prints_nothing(predict, flair):
    assert predict("--flair", flair, "--quiet") == (0, "", "")


def test_strict_turns_warnings_into_exit_code_6_and_still_writes(predict, flair, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_passion.prediction.checks.FILLS_IMAGE", 2)  # as random weights do
    empty = write(tmp_path / "t2.nii.gz", np.zeros(SHAPE, np.float32))
    assert predict("--flair", flair, "--strict")[0] == 0
    code, out, error = predict("--flair", flair, "--t2", empty, "--strict", "--overwrite")
    assert code == 6
    assert "warning: t2: every voxel is 0" in out
    assert "(--strict): t2: every voxel is 0" in error.splitlines()[-1]
    assert error.index("warning: t2: every voxel") < error.index("segmenting")
    assert (tmp_path / "out" / "segmentation.nii.gz").is_file()


@pytest.mark.parametrize("alias", ["--t1ce", "--t1gd", "--T1c", "--t2w"])
def test_other_names_of_a_sequence_are_understood_or_suggested(predict, flair, alias):
    if alias == "--T1c":
        code, _, error = predict(alias, flair)
        assert code == 2
        assert "did you mean --t1c?" in error
        return
    used = predict(alias, flair)[1].splitlines()
    assert any(line.startswith(f"used: {'t2' if 't2' in alias else 't1c'};") for line in used)


def test_the_windows_are_counted_in_quarters_where_there_is_no_terminal(predict, tmp_path):
    image = np.random.default_rng(0).random((80, 48, 48), dtype=np.float32)
    _, _, error = predict("--flair", write(tmp_path / "wide.nii.gz", image))
    lines = [line for line in error.splitlines() if line.startswith("segmenting")]
    assert [re.sub(r", about \d+ s left", "", line) for line in lines] == [
        "segmenting ...",
        *(f"segmenting, {part} % ..." for part in (25, 50, 75)),
    ]
    assert all("left" in line for line in lines[1:])


def test_in_a_terminal_a_bar_shows_them(monkeypatch):
    shown, terminal = io.StringIO(), rich.console.Console
    monkeypatch.setattr(
        "rich.console.Console", lambda **given: terminal(file=shown, force_terminal=True, width=100, _environ={})
    )
    with speaking(quiet=False) as voice:
        voice.stage("reading")
        voice.stage("segmenting")
        voice.stage("segmenting", 0.4)
    assert "segmenting ..." in shown.getvalue()
    assert "40%" in shown.getvalue()


@pytest.mark.parametrize("more", [[], ["--weights", "nowhere.pt"]])
def test_missing_weights_are_found_out_before_an_image_is_read(predict, tmp_path, more, monkeypatch):
    monkeypatch.setattr("monai_passion.bundle.weights.shipped_weights", lambda name: None)
    result = predict("--flair", tmp_path / "nowhere.nii.gz", *more, weights=None)
    failed(result, 4, "no weights", *([] if more else ["monai-passion train DATA --bundle"]), output=tmp_path / "out")


def test_weights_that_do_not_say_how_they_were_trained_are_remarked_on(predict, flair, tmp_path, weights):
    bare = {f"module.{name}": values for name, values in load_weights(weights)[0].items()}
    torch.save(bare, tmp_path / "bare.pt")
    assert (
        "warning: bare.pt does not say how it was trained" in predict("--flair", flair, weights=tmp_path / "bare.pt")[1]
    )


def test_a_check_says_what_is_doubtful_and_computes_and_writes_nothing(predict, flair, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_passion.prediction.segmenter.Segmenter.__init__", None)
    empty = write(tmp_path / "t2.nii.gz", np.zeros(SHAPE, np.float32))
    code, out, error = predict("--flair", flair, "--t2", empty, "--check")
    assert code == 0
    assert "warning: t2: every voxel is 0" in error
    assert "note: expected quality unknown: evaluate these weights" in error
    assert out == "used: flair; absent: t1c, t1, t2; grid of flair\n"
    assert predict("--flair", flair, "--t2", empty, "--check", "--strict")[0] == 6
    assert not (tmp_path / "out").exists()


def test_a_check_of_a_cohort_names_each_patient_and_says_what_holds_for_several_once(predict, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "in" / name).mkdir(parents=True)
        write(tmp_path / "in" / name / "flair.nii.gz")
        write(tmp_path / "in" / name / "t2.nii.gz", np.zeros(SHAPE, np.float32))
    (tmp_path / "in" / "c" / "flair.nii.gz").write_bytes(b"broken")
    code, out, error = predict(tmp_path / "in", "--check")
    assert code == 3
    assert "error: c: " in error
    assert [line for line in error.splitlines() if "every voxel is 0" in line] == [
        "a: warning: t2: every voxel is 0; there is no image in this file, t2 counts as ABSENT",
        "b too: warning: t2: every voxel is 0; there is no image in this file, t2 counts as ABSENT",
    ]
    assert [line.split(":")[0] for line in out.splitlines()] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ((), 2, ["--flair", "--t1c", "--t1", "--t2"]),
        (("--lge", "{flair}"), 2, ["lge", "flair, t1c, t1, t2"]),
        (("--t1c", "{flair}", "--t1ce", "{t2}"), 2, ["t1c is given 2 times"]),
        (("--flair", "{tmp}/nowhere.nii.gz"), 3, ["nowhere.nii.gz", "does not exist"]),
        (("--flair", "{tmp}"), 2, ["is a folder"]),
        (("--flair", "{flair}", "--t2", "{flair}"), 3, ["flair and t2 are the same file", "--allow-duplicate"]),
        (("--flair", "{flair}", "--t2", "{copy}"), 3, ["flair and t2 are the same file"]),
        (("--flair", "{flat}"), 3, ["2-D"]),
        (("--flair", "{nan}"), 3, ["affine"]),
        (("--flair", "{empty}"), 3, ["every voxel has the same value"]),
        (("--flair", "{flair}", "--bundle", "no_such"), 2, ["no_such", "brats_mri_segmentation_rfnet_passion"]),
        (("--flair", "{flair}", "--device", "abacus"), 2, ["abacus", "--device cpu"]),
        (("--flair", "{flair}", "--roi-size", "30"), 2, ["30", "multiples of"]),
        (("--flair", "{flair}", "--reference", "t2w"), 2, ["--reference t2"]),
        (("--flair", "{flair}", "--overlap", "1"), 2, ["--overlap"]),
        (("--flair", "{flair}", "--weights", "{flair}"), 4, ["flair.nii.gz"]),
        (("--flair", "{flair}", "--max-voxels", "1000"), 3, ["1000"]),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(predict, flair, tmp_path, arguments, code, parts):
    files = {
        "tmp": tmp_path,
        "flair": flair,
        "copy": tmp_path / "copy.nii.gz",
        "t2": write(tmp_path / "t2.nii.gz", seed=2),
        "flat": write(tmp_path / "flat.nii.gz", np.ones((32, 32), np.float32)),
        "empty": write(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.float32)),
    }
    files["copy"].write_bytes(flair.read_bytes())
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4))
    image.header["srow_x"] = np.nan
    image.header["qform_code"] = 0
    with open(tmp_path / "nan.nii", "wb") as file:
        image.header["magic"], image.header["vox_offset"] = b"n+1\0", 352
        file.write(image.header.binaryblock + b"\0" * 4 + image.get_fdata().astype(np.float32).tobytes())
    files["nan"] = tmp_path / "nan.nii"
    failed(predict(*(a.format(**files) for a in arguments)), code, *parts, output=tmp_path / "out")


def test_the_same_file_twice_is_allowed_when_asked_for(predict, flair):
    code, out, _ = predict("--flair", flair, "--t2", flair, "--allow-duplicate")
    assert code == 0
    assert "warning: flair and t2 are the same file" in out


def test_an_unknown_flag_is_a_usage_error(predict, flair, tmp_path):
    failed(predict("--flair", flair, "--overwite"), 2, "did you mean --overwrite?", output=tmp_path / "out")


def test_a_folder_with_something_in_it_is_not_touched(predict, flair, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    code, _, error = predict("--flair", flair)
    assert code == 2
    assert "--overwrite" in error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_written_to_is_a_resource_error(flair, weights, capsys):
    assert main(["predict", "--flair", str(flair), "--output", "/proc/out", "--weights", str(weights)]) == 5
    assert "cannot write to /proc/out" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(weights, tmp_path):
    file = write(tmp_path / "flair.nii.gz", np.random.default_rng(0).random((96, 96, 96), dtype=np.float32))
    command = [sys.executable, "-m", "monai_passion", "predict", "--flair", file, "--output", tmp_path / "out"]
    process = subprocess.Popen([*map(str, command), "--weights", str(weights)], stderr=subprocess.PIPE, text=True)
    while "segmenting" not in process.stderr.readline():
        pass
    time.sleep(0.5)
    process.send_signal(2)
    assert process.wait(60) == 130
    assert os.listdir(tmp_path) == ["flair.nii.gz"]


def test_a_folder_of_one_patient_and_a_folder_of_patients(predict, tmp_path, weights):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        write(tmp_path / "in" / name / f"{name}_t1ce.nii.gz")
    (tmp_path / "in" / "b" / "b_flair.nii.gz").write_bytes(b"broken")
    code, out, error = predict(tmp_path / "in")
    assert code == 3
    assert "error: b: " in error
    assert "1 of 2 patients" in out
    assert (tmp_path / "out" / "a" / "segmentation.nii.gz").is_file()
    assert (
        main(["predict", str(tmp_path / "in" / "a"), "--output", str(tmp_path / "one"), "--weights", str(weights)]) == 0
    )
    assert (tmp_path / "one" / "preview.png").is_file()


@pytest.mark.parametrize(
    ("name", "code", "part"),
    [("nowhere", 3, "does not exist"), ("flair.nii.gz", 2, "as in --flair"), ("empty", 3, "no NIfTI files")],
)
def test_an_input_that_is_no_patient_says_what_to_give(predict, flair, tmp_path, name, code, part):
    (tmp_path / "empty").mkdir()
    failed(predict(tmp_path / name), code, part, output=tmp_path / "out")
