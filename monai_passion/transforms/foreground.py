"""Where a skull-stripped image shows something."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms.transform import Transform
from torch import Tensor

__all__ = ["KeepShownd", "is_foreground"]


def is_foreground(image: Tensor) -> Tensor:
    """Voxels that are not exactly zero, for `CropForegroundd`, whose default ignores negative ones."""
    return image != 0


class KeepShownd(Transform):
    """Keep a mask of where any image is not 0, on the current grid of the images, for `MaskIntensityd`.

    Args:
        image_key: (M, *spatial).
        shown_key: gets (1, *spatial) bool.
    """

    def __init__(self, image_key: str = "image", shown_key: str = "shown") -> None:
        self.image_key = image_key
        self.shown_key = shown_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = torch.as_tensor(data[self.image_key]).as_subclass(Tensor)
        return {**data, self.shown_key: is_foreground(image).any(dim=0, keepdim=True)}
