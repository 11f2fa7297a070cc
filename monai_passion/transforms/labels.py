"""Handle missing or doubtful labels. MONAI's MapLabelValued changes their values."""

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
    """Replace a doubtful class by another one.

    Whether a glioma has any enhancing tumor matters more than a few voxels of it, which are more often wrong than
    right; they become non-enhancing core. In glioblastomas most of the core enhances, in low-grade gliomas little or
    nothing. A network that has seen few low-grade gliomas wrongly finds a small share in them, or a large one that is
    hardly brighter than the brain after contrast. The rules, in order: if the class has less than ``minimum_ml`` or
    ``minimum_share``, all of it is replaced; if its median is too low, voxels that are not bright are replaced, and the
    rest too if it is less than ``minimum_ml``.

    Args:
        label: the class.
        by: the class in its place.
        minimum_ml: mL; 0 changes nothing.
        minimum_share: of ``label`` in ``label`` and ``by``, in [0, 1]; 0 changes nothing.
        channel: of the image that should be bright in ``label``. Zeros, for example of an absent modality, are ignored.
        minimum_median: of that image, z-scored over the head, in ``label``; None changes nothing. Partial volumes at
            its rim are dim, so a sufficient median keeps all voxels.
        minimum_intensity: least intensity of a bright voxel, used if the median is too low.
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
        """Where ``label`` is the most probable class, and where it is allowed: (*spatial) bool each.

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
        """Probabilities (K, *spatial) with the rules applied, see `allowed`; the sum of each voxel stays.

        Where the class is not allowed, its probability goes to ``by`` if it was the most probable class, else to the
        most probable one. So it reappears neither between voxels of a finer grid nor by another decision.
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
    """Give an item without a label, such as a healthy head, a label map of zeros on the grid of its image.

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
