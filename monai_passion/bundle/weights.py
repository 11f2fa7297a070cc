"""Find the weights of a bundle, of a training or of this package; torch is loaded only to compare two files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_passion.bundle.arguments import setting_flag
from monai_passion.errors import PassionError, WeightsError
from monai_passion.system.resources import resource_folder
from monai_passion.tasks import Task

__all__ = [
    "PHANTOM",
    "check_settings",
    "check_task",
    "find_weights",
    "shipped_weights",
    "trained_settings",
    "trained_unknown",
    "weights_of",
]

logger = logging.getLogger(__name__)

PHANTOM = "phantom"
"""Name of the weights that were trained on phantoms alone."""


def find_weights(ckpt_dir: str | os.PathLike[str]) -> str:
    """The weights in a folder: ``model.safetensors`` (as shipped), ``model.pt`` (as trained) or ``model_last.pt``.

    An export has the first two with the same weights. If they differ, a training went on from them, so ``model.pt`` is
    used, with a warning. Times of files do not survive a copy, so they are not compared.

    Raises:
        WeightsError: there are none; the message holds the command that makes them.
    """
    folder = Path(ckpt_dir)
    shipped, trained = folder / "model.safetensors", folder / "model.pt"
    if shipped.is_file() and trained.is_file():
        if _hold_the_same(shipped, trained):
            return str(shipped)
        logger.warning("%s and %s hold different weights; the latter, of a training, are used", shipped, trained.name)
        return str(trained)
    for path in (shipped, trained, folder / "model_last.pt"):
        if path.is_file():
            return str(path)
    if (folder.parent / "configs" / "train.json").is_file():
        remedy = f"monai-passion train DATA --bundle {folder.parent} --output RUN, then add --weights RUN/model.pt"
    else:
        remedy = f"monai-passion train DATA --output {folder}"
    raise WeightsError(f"no weights in {folder}; make them with: {remedy}")


def _hold_the_same(one: Path, other: Path) -> bool:
    import torch

    from monai_passion.networks.weights import load_weights

    first, second = (load_weights(path)[0] for path in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def shipped_weights(name: str) -> Path | None:
    """The weights for the bundle ``name``, or `PHANTOM`, that came with this package; None if there are none.

    ``model.safetensors`` has its checksum, ``summary.json`` (what to expect of each combination of modalities) and
    ``README.md`` (the model card) beside it.
    """
    try:
        path = resource_folder("weights") / name / "model.safetensors"
    except PassionError:
        return None
    return path if path.is_file() else None


def weights_of(bundle: str | os.PathLike[str], name: str) -> str:
    """The default weights of `predict`: those in the bundle's ``models``, else those of this package.

    Args:
        bundle: its folder.
        name: of the bundle.

    Raises:
        WeightsError: see `find_weights`.
    """
    try:
        return find_weights(Path(bundle) / "models")
    except WeightsError:
        shipped = shipped_weights(name)
        if shipped is None:
            raise
        return str(shipped)


def trained_unknown(weights: str | os.PathLike[str]) -> str:
    """The warning about weights without information on their training."""
    return (
        f"{Path(weights).name} does not say how it was trained; the bundle's own settings (order of the modalities, "
        "spacing, window) are taken, which must be those of its training"
    )


def trained_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings (spacing, width, sizes) that weights were trained with and need.

    `predict` and exports use them in place of the bundle's; evaluations and inferences compare them (`check_settings`).

    Args:
        facts: the metadata of the weights, which `monai_passion.networks.weights.load_weights` has checked.
    """
    return dict(facts.get("settings", {}))


def check_task(weights: str | os.PathLike[str], facts: Mapping[str, Any], task: Task) -> None:
    """Refuse weights of another task: with another name, or with other classes or another order of them.

    Args:
        weights: the file, for the message.
        facts: the metadata of the weights; what they do not say is not checked.
        task: what is segmented with them.

    Raises:
        WeightsError: they are of another task.
    """
    if (name := facts.get("task", task.name)) != task.name:
        raise WeightsError(f"{weights} were trained for the task {name}, not {task.name}; give a bundle of that task")
    own = [label.name for label in task.classes]
    if (names := list(facts.get("class_names", own))) != own:
        raise WeightsError(
            f"{weights} were trained for the classes {', '.join(names)}, in this order, not {', '.join(own)}; give the "
            "bundle that they were trained with"
        )


def check_settings(weights: str | os.PathLike[str], facts: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a configuration with other settings than the weights were trained with; only the window may differ.

    Raises:
        WeightsError: settings differ; the message has the flags that correct them.
    """
    wrong = {
        key: value
        for key, value in trained_settings(facts).items()
        if key in here and key != "roi_size" and _plain(here[key]) != _plain(value)
    }
    if wrong:
        found = ", ".join(f"{key} {_plain(value)}, not {_plain(here[key])}" for key, value in wrong.items())
        flags = " ".join(setting_flag(key, json.dumps(value)) for key, value in wrong.items())
        raise WeightsError(f"{weights} was trained with {found}; add {flags}")


def _plain(value: Any) -> Any:
    return [float(item) for item in value] if isinstance(value, list | tuple) else value
