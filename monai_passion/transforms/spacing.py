"""MONAI's `Spacingd`, but exact where an image is 0, faster to invert, and without effect on nearly right spacings."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import monai.transforms as mt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.utils.enums import TraceKeys
from torch import Tensor

from monai_passion.data.geometry import is_near

__all__ = ["Spacingd", "interpolate_axes", "turns"]

TOLERANCE = 1e-3
"""Shift (voxels) that counts as none, as in MONAI."""
TRACE = 1e-5
"""Smaller weights of a voxel are rounding, and would leave a trace of the head where the image is 0."""


def interpolate_axes(image: Tensor, affine: Tensor, size: tuple[int, ...]) -> Tensor:
    """Linear interpolation, one axis after the other, each a product with a matrix of two numbers per row.

    The values are those of ``grid_sample`` with its padding mode "border", in a fifth of the time (`make bench`), but 0
    where all voxels around are 0: there ``grid_sample`` leaves 1e-7 and less of others, which would count as brain.

    Args:
        image: (C, *spatial), float.
        affine: (n + 1, n + 1), from voxels of the result to voxels of the image.
        size: of the result, one per axis.

    Returns:
        (C, *size), of the image's type.

    Raises:
        ValueError: the axes of the two grids are not parallel.
    """
    if turns(affine, size):
        raise ValueError("the axes of the two grids are not parallel")
    scale = affine.diagonal()[:-1]
    for axis in range(image.ndim - 1, 0, -1):  # the last, which is the quickest on a small image, first
        length, wanted = image.shape[axis], size[axis - 1]
        here, place = torch.arange(length), torch.arange(wanted) * scale[axis - 1] + affine[axis - 1, -1]
        if length == wanted and bool(((place - here).abs() < TOLERANCE).all()):
            continue
        matrix = (1 - (place.clamp(0, length - 1)[:, None] - here).abs()).clamp(min=0)
        matrix[matrix < TRACE] = 0
        matrix = (matrix / matrix.sum(dim=1, keepdim=True)).to(image)
        if axis == image.ndim - 1:
            image = image @ matrix.T
        else:
            image = (matrix @ image.flatten(axis + 1)).unflatten(-1, image.shape[axis + 1 :])
    return image


def turns(affine: Tensor, size: tuple[int, ...]) -> bool:
    """Whether an affine (n + 1, n + 1) moves a voxel of a grid of ``size`` along another axis than its own."""
    matrix = affine[:-1, :-1]
    return bool(((matrix - matrix.diag().diag()).abs() * torch.tensor(size)).max() > TOLERANCE)


class Spacingd(mt.Spacingd):
    """MONAI's `Spacingd`, with linear interpolation and its inverse along one axis after the other.

    So no trace of the head is left where an image is 0, and resampling the probabilities of every combination to the
    grid of the files takes less time than the network.

    Args:
        tolerance: images whose voxels differ by no more than this share from ``pixdim`` are not resampled.
    """

    def __init__(self, *args: Any, tolerance: float = 0.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tolerance = tolerance

    def __call__(self, data: Mapping[Hashable, Tensor], *args: Any, **options: Any) -> dict[Hashable, Tensor]:
        image = data[self.first_key(dict(data))]
        if self.tolerance and isinstance(image, MetaTensor) and self._is_near(image):
            return dict(data)
        result: dict[Hashable, Tensor] = super().__call__(data, *args, **options)
        for key in self.key_iterator(result):
            result[key] = self._exact(data[key], result[key])
        return result

    def _exact(self, image: Tensor, resampled: Tensor) -> Tensor:
        if (
            not isinstance(image, MetaTensor)
            or not isinstance(resampled, MetaTensor)
            or not resampled.applied_operations
        ):
            return resampled
        info, size = resampled.applied_operations[-1][TraceKeys.EXTRA_INFO], tuple(resampled.shape[1:])
        affine = torch.linalg.solve(image.affine.double(), resampled.affine.double())
        if not _is_linear(info) or turns(affine, size):
            return resampled
        return MetaTensor(interpolate_axes(image.as_subclass(Tensor).float(), affine, size)).copy_meta_from(resampled)

    def _is_near(self, image: MetaTensor) -> bool:
        return is_near(affine_to_spacing(image.affine).tolist(), self.spacing_transform.pixdim, self.tolerance)

    def inverse(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._back(item[key])
        return item

    def _back(self, image: Tensor) -> Tensor:
        resampling = self.spacing_transform.sp_resample
        done_last = image.applied_operations[-1:] if isinstance(image, MetaTensor) else []
        if self.tolerance and [step[TraceKeys.CLASS_NAME] for step in done_last] != [type(resampling).__name__]:
            return image  # it was near enough
        done = resampling.get_most_recent_transform(image)
        info, size = done[TraceKeys.EXTRA_INFO], tuple(map(int, done[TraceKeys.ORIG_SIZE]))
        before = torch.as_tensor(info["src_affine"], dtype=torch.float64)
        if _is_linear(info) and isinstance(image, MetaTensor):
            plain = image.as_subclass(Tensor).float()
            affine = torch.linalg.solve(torch.as_tensor(image.affine, dtype=torch.float64), before)
            if not turns(affine, size):
                resampling.pop_transform(image)
                result = MetaTensor(interpolate_axes(plain, affine, size)).copy_meta_from(image)
                result.affine = before
                return result
        return self.spacing_transform.inverse(image)


def _is_linear(info: Mapping[str, Any]) -> bool:
    return (info.get("mode"), info.get("padding_mode")) == ("bilinear", "border")
