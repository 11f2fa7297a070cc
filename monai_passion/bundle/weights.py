"""Where the weights of a bundle, of a training or of this package are; without loading torch."""

from __future__ import annotations

import os
from pathlib import Path

from monai_passion.errors import PassionError, WeightsError
from monai_passion.system.resources import resource_folder

__all__ = ["PHANTOM", "find_weights", "shipped_weights", "trained_unknown", "weights_of"]

PHANTOM = "phantom"
"""Name of the weights that were trained on phantoms alone."""


def find_weights(ckpt_dir: str | os.PathLike[str]) -> str:
    """The weights in a folder: the newer of ``model.safetensors`` (as shipped) and ``model.pt`` (as trained), else
    ``model_last.pt``.

    Raises:
        WeightsError: there are none; the message holds the command that makes them.
    """
    folder = Path(ckpt_dir)
    best = [path for name in ("model.safetensors", "model.pt") if (path := folder / name).is_file()]
    if best:
        return str(max(best, key=lambda path: path.stat().st_mtime))
    if (folder / "model_last.pt").is_file():
        return str(folder / "model_last.pt")
    if (folder.parent / "configs" / "train.json").is_file():
        remedy = f"monai-passion train DATA --bundle {folder.parent} --output RUN, then add --weights RUN/model.pt"
    else:
        remedy = f"monai-passion train DATA --output {folder}"
    raise WeightsError(f"no weights in {folder}; make them with: {remedy}")


def shipped_weights(name: str) -> Path | None:
    """The weights for the bundle ``name``, or `PHANTOM`, that came with this package; None where none did.

    ``model.safetensors`` has its checksum, ``summary.json`` (what to expect of each combination of modalities) and
    ``README.md`` (the model card) beside it.
    """
    try:
        path = resource_folder("weights") / name / "model.safetensors"
    except PassionError:
        return None
    return path if path.is_file() else None


def weights_of(bundle: str | os.PathLike[str], name: str) -> str:
    """What `predict` takes when it is given no weights: those in the bundle's ``models``, else those of this package.

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
    """The warning about a file of weights that says nothing of how they were trained."""
    return (
        f"{Path(weights).name} does not say how it was trained; the bundle's own settings (order of the modalities, "
        "spacing, window) are taken, which must be those of its training"
    )
