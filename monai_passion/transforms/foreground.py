"""Where a skull-stripped image has anything to say."""

from __future__ import annotations

from torch import Tensor

__all__ = ["is_foreground"]


def is_foreground(image: Tensor) -> Tensor:
    """Voxels that are not exactly zero: for `CropForegroundd`, whose default overlooks negative ones."""
    return image != 0
