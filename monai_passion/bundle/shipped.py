"""Weights that come with this package."""

from __future__ import annotations

from pathlib import Path

from monai_passion.errors import PassionError
from monai_passion.system.resources import resource_folder

__all__ = ["PHANTOM", "shipped_weights"]

PHANTOM = "phantom"
"""Name of the weights that were trained on phantoms alone."""


def shipped_weights(name: str) -> Path | None:
    """The weights of a bundle, or `PHANTOM`; None where none came with this package.

    ``model.safetensors`` has its checksum, ``summary.json`` (what to expect of each combination of modalities) and
    ``README.md`` (the model card) beside it.
    """
    try:
        path = resource_folder("weights") / name / "model.safetensors"
    except PassionError:
        return None
    return path if path.is_file() else None
