import json

import pytest

from monai_passion.bundle.arguments import check_arguments
from monai_passion.errors import UsageError

PROGRAM = "/somewhere/monai/bundle/__main__.py"


@pytest.fixture
def run(tmp_path):
    """Checks what follows ``python -m monai.bundle run training --config_file FILE``."""
    content = {
        "epochs": 3,
        "width": 2,
        "dataset_dir": "",
        "datalist": None,
        "ckpt_dir": "",
        "device": "cpu",
        "loss": {"gamma": 1},
        "handlers": [{"a": 1}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "more.json").write_text(json.dumps({"method": "x"}))

    def check(*words, files=f"['{tmp_path}/train.json','{tmp_path}/more.json']"):
        check_arguments([PROGRAM, "run", "training", "--config_file", files, *words])

    return check


@pytest.mark.parametrize(
    "words",
    [
        ("--epochs", "3", "--width=4", "--method", "y"),
        ("--dataset-dir", "/data/x", "--ckpt_dir", "runs/a b"),
        ("--loss#gamma", "0.1", "--loss#temperature", "4", "--handlers#0#a", "2"),
        ("--dataset_dir", "'2024'", "--logging_file", "None", "--tracking", "mlflow"),
        ("--dataset_dir", '$"/data/a\\x231"'),
        ("--dataset_dir", "0024", "--datalist", "None"),
        ("--datalist", "['a/flair.nii.gz','b/flair.nii.gz']"),
        ("--device", "cpu"),
        ("--device", "$torch.device('cuda:77')"),
    ],
)
def test_settings_that_there_are_go_through(run, words):
    run(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "cuda:77"), "device 'cuda:77' cannot be used here"),
        (("--epoch", "3"), "'epoch'; did you mean epochs"),
        (("--epochs", "3", "--widht", "2"), "'widht'; did you mean width"),
        (("--widht=2",), "did you mean width"),
        (("--los#gamma", "2"), "did you mean loss"),
        (("--zzz", "2"), "'zzz'; see the top"),
        (("--epochs", "0"), "epochs: 0 is less than the minimum of 1"),
        (("--epochs=one",), "epochs: 'one' is not of type 'integer'"),
        (("--handlers#3#a", "2"), "handlers#3#a"),
        (("--dataset_dir", "2024"), r"read as 2024.*--dataset_dir \"'2024'\""),
        (("--dataset_dir", "a,b"), r"\"'a,b'\""),
        (("--ckpt_dir", "a#1"), r"""changes # in text; give --ckpt_dir '\$"a\\x231"'"""),
        (("--dataset_dir=[1]",), r"read as \[1\]"),
        (("--dataset_dir", "@home"), r"give \./@home"),
        (("--dataset_dir", "$home"), r"give \./\$home"),
    ],
)
def test_a_mistyped_setting_or_a_path_that_is_read_otherwise_is_refused_with_the_way_out(run, words, said):
    with pytest.raises(UsageError, match=said):
        run(*words)


def test_the_arguments_of_other_programs_are_let_be():
    check_arguments(["pytest", "run", "--config_file", "nowhere.json", "--epoch", "3"])
    check_arguments([PROGRAM, "ckpt_export", "--epoch", "3"])
    check_arguments([])


@pytest.mark.parametrize(
    ("more", "words", "said"),
    [
        ({}, (), None),
        ({"epochs": 4}, ("--width", "3"), None),
        ({"epoch": 4}, (), "'epoch'; did you mean epochs"),
        ({}, ("--epoch", "4"), "'epoch'; did you mean epochs"),
        ({"epochs": 0}, (), "less than the minimum"),
        ({"epochs": 0}, ("--epochs", "1"), None),
    ],
)
def test_settings_in_an_arguments_file_are_looked_at_too(tmp_path, more, words, said):
    (tmp_path / "train.json").write_text(json.dumps({"epochs": 3, "width": 2}))
    (tmp_path / "args.json").write_text(json.dumps({"config_file": [str(tmp_path / "train.json")], **more}))
    arguments = [PROGRAM, "run", "--args_file", str(tmp_path / "args.json"), *words]
    if said is None:
        check_arguments(arguments)
    else:
        with pytest.raises(UsageError, match=said):
            check_arguments(arguments)
