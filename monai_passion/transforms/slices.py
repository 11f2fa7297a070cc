"""The part of a volume that a network for slices sees: the center of each slice, one slice at a time."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import monai.transforms as mt
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from torch import Tensor

from monai_passion.errors import InputError

__all__ = ["MiddleOfSlicesd", "TakeSliced"]

logger = logging.getLogger(__name__)


class MiddleOfSlicesd(mt.ResizeWithPadOrCropd):
    """MONAI's center crop, with a warning if it cuts off a part of the label, which is neither learned nor scored.

    Args:
        label_key: of the label map, background 0.
    """

    def __init__(self, *args: Any, label_key: str = "label", **options: Any) -> None:
        super().__init__(*args, **options)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any], *args: Any, **options: Any) -> dict[Hashable, Any]:
        item: dict[Hashable, Any] = super().__call__(data, *args, **options)
        if self.label_key in item:
            before, after = (int(torch.as_tensor(x[self.label_key]).count_nonzero()) for x in (data, item))
            if after < before:
                logger.warning(
                    "%s: %.1f %% of its label lie outside the middle of the slices, which is all that the network sees;"
                    " that part is neither learned nor scored (the command score counts it)",
                    item.get("case", "a label map"), 100 * (1 - after / before),
                )  # fmt: skip
        return item


class TakeSliced(MapTransform):
    """Take the item's slice of 3-D images, (C, X, Y, Z) -> (C, X, Y), for networks that see slices.

    It follows transforms that need the whole volume, such as normalization.

    Args:
        slice_key: the item's number of the slice along the third axis.

    Raises:
        InputError: there is no such slice.
    """

    def __init__(self, keys: KeysCollection, slice_key: str = "slice", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.slice_key = slice_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        k = int(data[self.slice_key])
        for key in self.key_iterator(item):
            depth = item[key].shape[-1]
            if not 0 <= k < depth:
                raise InputError(f"{item.get('case', 'this image')} has {depth} slices, none with the number {k}")
            # The plane has no place in space of its own that MONAI could use; its volume keeps it.
            item[key] = MetaTensor(torch.as_tensor(item[key]).as_subclass(Tensor)[..., k].clone())
        return item
