"""Labels -> the overlapping regions that are scored. To change label values use MONAI's MapLabelValued."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from torch import Tensor

__all__ = [
    "EnsureLabeld",
    "LabelsToRegions",
    "LabelsToRegionsd",
    "ReplaceDim",
    "ReplaceDimd",
    "ReplaceSmall",
    "ReplaceSmalld",
]


class LabelsToRegions(Transform):
    """A label map as one binary channel per region.

    Args:
        regions: region -> the labels whose union it is, as ``{"wt": [1, 2, 4], "tc": [1, 4], "et": [4]}``.
    """

    def __init__(self, regions: Mapping[str, Sequence[int]]) -> None:
        self.regions = {name: torch.tensor(sorted(set(labels))) for name, labels in regions.items()}

    def __call__(self, label: Tensor) -> Tensor:
        """(1, *spatial) -> (regions, *spatial) float32 of 0 and 1, in the order of ``regions``."""
        if len(label) != 1:
            raise ValueError(f"the label has {len(label)} channels; give the label map itself, (1, *spatial)")
        plain = torch.as_tensor(label).as_subclass(Tensor)
        stack = torch.cat([torch.isin(plain, labels.to(plain.device)) for labels in self.regions.values()]).float()
        return MetaTensor(stack).copy_meta_from(label) if isinstance(label, MetaTensor) else stack


class LabelsToRegionsd(MapTransform):
    """Dictionary version of `LabelsToRegions`."""

    def __init__(
        self, keys: KeysCollection, regions: Mapping[str, Sequence[int]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.to_regions = LabelsToRegions(regions)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.to_regions(item[key])
        return item


class ReplaceSmall(Transform):
    """Take a label that has less than some volume in all, or some share of the two together, for another one.

    Whether a glioma has enhancing tumor at all matters more than a few voxels of it, which are more often wrong than
    right; they are taken for core that does not enhance. Of glioblastomas most of the core enhances, of low-grade
    gliomas little or nothing: a small share is what a network that has seen few of these gets wrong.

    Args:
        label: the one that may be too small.
        by: the one in its place.
        minimum_ml: mL; 0 changes nothing.
        minimum_share: of ``label`` in ``label`` and ``by``, in [0, 1]; 0 changes nothing.
    """

    def __init__(self, label: int, by: int, minimum_ml: float, minimum_share: float = 0.0) -> None:
        self.label, self.by = label, by
        self.minimum_ml, self.minimum_share = float(minimum_ml), float(minimum_share)

    def __call__(self, labels: Tensor) -> Tensor:
        """(1, *spatial) -> (1, *spatial). Voxels are of 1 mm where ``labels`` does not say their size."""
        plain = torch.as_tensor(labels).as_subclass(Tensor)
        there = plain == self.label
        voxels, others = int(there.sum()), int((plain == self.by).sum())
        pixdim = getattr(labels, "pixdim", None)
        voxel = 1.0 if pixdim is None else float(torch.as_tensor(pixdim).prod())
        if voxels * voxel / 1000 >= self.minimum_ml and voxels >= self.minimum_share * (voxels + others):
            return labels
        result = labels.clone()
        result[there] = self.by
        return result


class ReplaceSmalld(MapTransform):
    """Dictionary version of `ReplaceSmall`."""

    def __init__(
        self,
        keys: KeysCollection,
        label: int,
        by: int,
        minimum_ml: float,
        minimum_share: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.replace = ReplaceSmall(label, by, minimum_ml, minimum_share)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.replace(item[key])
        return item


class ReplaceDim(Transform):
    """Take a class that is dim where it should be bright for another one, voxel by voxel.

    Enhancing tumor is by definition brighter after contrast. A network that has seen few low-grade gliomas finds it in
    cores that are hardly brighter than the brain: where the median says so, only what is bright is kept. Where the
    median is as it should be, nothing changes: next to the rim, partial volumes are dim, too.

    Args:
        label: the class that should be bright.
        by: the class in its place.
        channel: of the image that shows it.
        minimum_median: median of that image in ``label``, z-scored over the head, from which on all is kept; None
            changes nothing.
        minimum_intensity: below such a median, only voxels of at least this are kept.
    """

    def __init__(
        self, label: int, by: int, channel: int, minimum_median: float | None, minimum_intensity: float | None
    ) -> None:
        self.label, self.by, self.channel = label, by, channel
        self.minimum_median, self.minimum_intensity = minimum_median, minimum_intensity

    def dim(self, pred: Tensor, image: Tensor) -> Tensor | None:
        """Probabilities (K, *spatial) and image (M, *spatial) -> what is to be replaced, (*spatial) bool, or None.

        An image of zeros, as of a modality that is absent, says nothing.
        """
        if self.minimum_median is None or self.minimum_intensity is None:
            return None
        shown = torch.as_tensor(image[self.channel]).as_subclass(Tensor).to(pred.device)
        there = torch.as_tensor(pred).as_subclass(Tensor).argmax(0) == self.label
        if not shown.any() or not there.any() or float(shown[there].median()) >= self.minimum_median:
            return None
        return there & (shown < self.minimum_intensity)

    def __call__(self, pred: Tensor, image: Tensor) -> Tensor:
        """See `dim`; gives the probabilities, those of ``label`` added to those of ``by`` where it is replaced."""
        dim = self.dim(pred, image)
        if dim is None:
            return pred
        result = pred.clone()
        result[self.by] += torch.where(dim, result[self.label], 0)
        result[self.label][dim] = 0
        return result


class ReplaceDimd(MapTransform):
    """Dictionary version of `ReplaceDim`; ``keys`` are probabilities, on the grid of ``image_key``."""

    def __init__(
        self,
        keys: KeysCollection,
        label: int,
        by: int,
        channel: int,
        minimum_median: float | None,
        minimum_intensity: float | None,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.replace = ReplaceDim(label, by, channel, minimum_median, minimum_intensity)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.replace(item[key], item[self.image_key])
        return item


class EnsureLabeld(MapTransform):
    """Give an item without a label, as a healthy head, a label map of zeros on the grid of its image.

    Args:
        keys: of the label.
        image_key: of the image (M, *spatial).
    """

    def __init__(self, keys: KeysCollection = "label", image_key: str = "image") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.keys:
            if item.get(key) is None:
                item[key] = torch.zeros_like(item[self.image_key][:1])
        return item
