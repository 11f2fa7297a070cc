"""Weights that do not say how they were trained are remarked on by every command that takes them."""

import pytest
import torch

from monai_passion.cli import main
from monai_passion.errors import InputError
from monai_passion.networks.weights import load_weights
from tests.bundles.conftest import write_case

BUNDLE = "brats_mri_segmentation_rfnet_passion"
COMMANDS = {
    "score": ["score", "data", "--output", "scores"],
    "evaluate": ["evaluate", "bare.pt", "--bundle", BUNDLE, "--data", "data", "--output", "out", "--set", "width=8"],
    "zip": ["bundles", "export", BUNDLE, "--output", "b.zip"],
    "TorchScript": ["bundles", "export", BUNDLE, "--output", "b.ts"],
    "ONNX": ["bundles", "export", BUNDLE, "--output", "b.onnx"],
}
STEPS = (
    "prediction.scoring.score_patients",
    "bundle.export.export_torchscript",
    "bundle.export.export_onnx",
    "bundle.steps.networks._check_modalities",
)
"""What follows on the loading of weights, and is not wanted here."""


def stop(*_, **__):
    raise InputError("stopped")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_do_not_say_how_they_were_trained_are_remarked_on(
    command, prefix, tmp_path, weights, monkeypatch, capfd, caplog
):
    monkeypatch.chdir(tmp_path)
    write_case(tmp_path / "data", "P1", "brats_mri", 0)
    state = load_weights(weights)[0]
    torch.save({f"{prefix}{name}": values for name, values in state.items()}, tmp_path / "bare.pt")
    for step in STEPS:
        monkeypatch.setattr(f"monai_passion.{step}", stop)
    main([*COMMANDS[command], *(["--weights", "bare.pt"] if command != "evaluate" else [])])
    said = capfd.readouterr().err + caplog.text
    assert "warning: bare.pt does not say how it was trained" in said
