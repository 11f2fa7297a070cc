"""`predict` runs this package's own configurations only, unless told to trust another."""

import copy
import json
import shutil

import pytest

from monai_passion.bundle.facts import DEFAULT_BUNDLE, find_bundle
from monai_passion.bundle.trust import check_trusted, is_plain, program_digest
from monai_passion.cli import main
from monai_passion.errors import UsageError, WeightsError
from monai_passion.networks import RFNet
from monai_passion.networks.weights import save_weights
from monai_passion.prediction.segmenter import Segmenter

SHIPPED = find_bundle(DEFAULT_BUNDLE).path
CONFIG = json.loads((SHIPPED / "configs" / "inference.json").read_text())
RUNS = "$__import__('pathlib').Path('{flag}').touch()"


@pytest.fixture
def changed(tmp_path):
    """A function: change the configuration of a copy of a bundle of ours; returns the copy."""
    copied = shutil.copytree(SHIPPED, tmp_path / SHIPPED.name, ignore=shutil.ignore_patterns("models", "eval"))

    def change(**keys):
        (copied / "configs" / "inference.json").write_text(json.dumps({**CONFIG, **keys}))
        return copied

    return change


def test_every_bundle_of_ours_is_trusted():
    for config in SHIPPED.parent.glob("*/configs/inference.json"):
        check_trusted(config.parents[1])


def test_knobs_of_ours_may_have_other_plain_values(changed):
    check_trusted(changed(width=2, roi_size=[32, 32, 32], spacing=[-1, -1, -1], split="training", dataset_dir="x"))
    check_trusted(changed(network_def={**CONFIG["network_def"]}))


@pytest.mark.parametrize(
    "keys",
    [
        {"width": RUNS},
        {"regions": {"WT": [1, RUNS]}},
        {"regions": {"_target_": "os.getcwd"}},
        {"regions": {"WT": [{"_target_": "os.getcwd"}]}},
        {"modalities": "%other.json#modalities"},
        {"modalities": ["flair", "@network_def"]},
        {"initialize": [RUNS]},
        {"initialize": [*CONFIG["initialize"], RUNS]},
        {"imports": [*CONFIG["imports"], "$import antigravity"]},
        {"network_def": {**CONFIG["network_def"], "_target_": "subprocess.run"}},
        {"network_def": {**CONFIG["network_def"], "_target_": "monai.bundle.run"}},
        {"network_def": {**CONFIG["network_def"], "_disabled_": True}},
        {"load": {**CONFIG["load"], "_requires_": RUNS}},
        {"another": RUNS},
        {"another": 1},
        {"network_def::_target_": "os.getcwd"},
        {"network_def#_target_": "os.getcwd"},
        {"weights": "other.pt"},
    ],
)
def test_a_configuration_that_could_run_anything_else_is_refused(changed, keys):
    with pytest.raises(UsageError, match="--trust"):
        check_trusted(changed(**keys))


def test_a_number_may_change_within_a_component_but_text_may_not(changed):
    refined = copy.deepcopy(CONFIG["refine"])
    check_trusted(changed(refine={**refined, "label": 2}))
    with pytest.raises(UsageError, match="--trust"):
        check_trusted(changed(refine={**refined, "keys": "image"}))


def test_what_a_configuration_runs_does_not_depend_on_the_order_of_its_keys():
    assert program_digest(dict(reversed(CONFIG.items()))) == program_digest(CONFIG)


@pytest.mark.parametrize("value", ["$x", "a$x", "@x", "%x", "x@y", ["@x"], {"_target_": "x"}, {"a": {"b::c": 1}}, {1}])
def test_what_the_parser_would_act_on_is_not_plain(value):
    assert not is_plain(value)


def test_predict_refuses_in_one_line_runs_nothing_and_takes_trust(changed, tmp_path, capsys):
    flag = tmp_path / "ran"
    bundle = changed(initialize=[RUNS.format(flag=flag)])
    flair = tmp_path / "flair.nii.gz"
    flair.touch()
    arguments = ["predict", "--bundle", str(bundle), "--flair", str(flair), "--output", str(tmp_path / "out")]
    weights = tmp_path / "model.safetensors"
    save_weights(RFNet(4, 4, width=8), weights, {})
    assert main([*arguments, "--weights", str(weights)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--trust" in line
    assert str(bundle) in line
    assert not flag.exists()
    assert not (tmp_path / "out").exists()
    # What is trusted runs, if only to find that the file is no image.
    assert main([*arguments, "--weights", str(weights), "--trust"]) != 2


@pytest.mark.parametrize("option", ["--bundle", "--ensemble"])
@pytest.mark.parametrize("command", ["predict", "score"])
def test_a_member_of_an_ensemble_and_what_is_scored_are_judged_alike(command, option, changed, tmp_path, capsys):
    bundle = changed(initialize=[RUNS.format(flag=tmp_path / "ran")])
    (bundle / "models").mkdir()
    save_weights(RFNet(4, 4, width=8), bundle / "models" / "model.safetensors", {})
    (tmp_path / "data").mkdir()
    words = [command, str(tmp_path / "data"), option, str(bundle), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--trust" in capsys.readouterr().err
    assert main([*words, "--trust"]) != 2
    assert not (tmp_path / "ran").exists()


def test_export_as_onnx_refuses_such_a_bundle_too(changed, tmp_path, capsys):
    bundle = changed(initialize=[RUNS.format(flag=tmp_path / "ran")])
    assert main(["bundles", "export", str(bundle), "--output", str(tmp_path / "x.onnx")]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_settings_of_weights_cannot_run_anything(tmp_path):
    flag = tmp_path / "ran"
    weights = tmp_path / "model.safetensors"
    save_weights(RFNet(4, 4, width=8), weights, {"settings": {"seed": RUNS.format(flag=flag)}})
    with pytest.raises(WeightsError, match="settings"):
        Segmenter(find_bundle(), weights=weights, device="cpu")
    assert not flag.exists()
