"""Where the weights of a bundle or of a training are; without loading torch."""

from __future__ import annotations

import os
from pathlib import Path

from monai_passion.errors import WeightsError

__all__ = ["find_weights", "trained_unknown"]


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


def trained_unknown(weights: str | os.PathLike[str]) -> str:
    """The warning about a file of weights that says nothing of how they were trained."""
    return (
        f"{Path(weights).name} does not say how it was trained; the bundle's own settings (order of the modalities, "
        "spacing, window) are taken, which must be those of its training"
    )
