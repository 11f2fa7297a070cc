"""Labels that are missing or doubtful. Values are changed by MONAI's MapLabelValued."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform, Transform
from torch import Tensor

from monai_passion.data.geometry import voxel_ml
from monai_passion.transforms.decision import most_probable_class

__all__ = [
    "EnsureLabeld",
    "ReplaceDoubtful",
    "ReplaceDoubtfuld",
]


class ReplaceDoubtful(Transform):
    """Take a class that is there for no good reason for another one.

    Whether a glioma has enhancing tumor at all matters more than a few voxels of it, which are more often wrong than
    right; they are taken for core that does not enhance. Of glioblastomas most of the core enhances, of low-grade
    gliomas little or nothing: a small share, or a large one that is hardly brighter than the brain after contrast, is
    what a network that has seen few of these gets wrong. In order: less than ``minimum_ml`` or ``minimum_share`` is
    replaced as a whole; where the median is too low, what is not bright is replaced, and the rest as well if that is
    less than ``minimum_ml``.

    Args:
        label: the class.
        by: the class in its place.
        minimum_ml: mL; 0 changes nothing.
        minimum_share: of ``label`` in ``label`` and ``by``, in [0, 1]; 0 changes nothing.
        channel: of the image that should be bright in ``label``. Zeros, as of an absent modality, say nothing.
        minimum_median: of that image, z-scored over the head, in ``label``; None changes nothing. Partial volumes at
            its rim are dim, so a median that suffices keeps all.
        minimum_intensity: what counts as bright where the median is lower.
    """

    def __init__(
        self,
        label: int,
        by: int,
        minimum_ml: float = 0.0,
        minimum_share: float = 0.0,
        channel: int = 0,
        minimum_median: float | None = None,
        minimum_intensity: float = 0.0,
    ) -> None:
        self.label, self.by, self.channel = label, by, channel
        self.minimum_ml, self.minimum_share = float(minimum_ml), float(minimum_share)
        self.minimum_median, self.minimum_intensity = minimum_median, float(minimum_intensity)

    def allowed(self, pred: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Where ``label`` is the most probable class, and where it may be: (*spatial) bool each.

        Args:
            pred: (K, *spatial), probabilities.
            image: (M, *spatial), on the same grid; voxels are of 1 mm where it does not say their size.
        """
        classes = most_probable_class(pred)
        found = classes == self.label
        everywhere, nowhere = torch.ones_like(found), torch.zeros_like(found)
        affine = getattr(image, "affine", None)
        ml = 0.001 if affine is None else voxel_ml(torch.as_tensor(affine).numpy())
        voxels, others = int(found.sum()), int((classes == self.by).sum())
        if voxels * ml < self.minimum_ml or voxels < self.minimum_share * (voxels + others):
            return found, nowhere
        shown = torch.as_tensor(image[self.channel]).as_subclass(Tensor).to(found.device)
        if self.minimum_median is None or not voxels or not shown.any():
            return found, everywhere
        if float(shown[found].median()) >= self.minimum_median:
            return found, everywhere
        bright = shown >= self.minimum_intensity
        return found, bright if int((found & bright).sum()) * ml >= self.minimum_ml else nowhere

    def __call__(self, pred: Tensor, image: Tensor) -> Tensor:
        """See `allowed`; gives (K, *spatial), each voxel of the same sum.

        Where the class may not be, its probability goes to ``by`` if it was the most probable one, else to the one
        that is, so that the class comes up neither between voxels of a finer grid nor by another decision.
        """
        found, allowed = self.allowed(pred, image)
        if allowed.all():
            return pred
        result = pred.clone()
        plain = torch.as_tensor(result).as_subclass(Tensor)  # the same memory
        to = torch.where(found, self.by, most_probable_class(plain).long())
        moved = torch.where(allowed, 0, plain[self.label])
        plain[self.label] -= moved
        plain.scatter_add_(0, to[None], moved[None])
        return result


class ReplaceDoubtfuld(MapTransform):
    """Dictionary version of `ReplaceDoubtful`; ``keys`` are probabilities.

    They and ``image_key`` are on one grid.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label: int,
        by: int,
        minimum_ml: float = 0.0,
        minimum_share: float = 0.0,
        channel: int = 0,
        minimum_median: float | None = None,
        minimum_intensity: float = 0.0,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.replace = ReplaceDoubtful(label, by, minimum_ml, minimum_share, channel, minimum_median, minimum_intensity)
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
