"""Drop modalities of an image, and find the available ones."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform, RandomizableTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_passion.errors import InputError

__all__ = [
    "DropModalities",
    "EnsureAvailabled",
    "RandDropModalities",
    "RandDropModalitiesd",
    "RandMaskModalitiesd",
    "zero_absent",
]


def zero_absent(image: Tensor, available: Tensor) -> Tensor:
    """``image`` (M, *spatial) with exact zeros in the channels where ``available`` (M,) is False."""
    absent = ~available.to(image.device)
    return image.masked_fill(absent.reshape(-1, *[1] * (image.ndim - 1)), 0)


class DropModalities(Transform):
    """Keep only some modalities of an image.

    Args:
        kept: one bool per modality, in channel order; those that are not available stay so.
    """

    def __init__(self, kept: Sequence[bool]) -> None:
        self.kept = tuple(bool(keep) for keep in kept)

    def __call__(self, image: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """``image`` (M, *spatial) and ``available`` (M,) bool -> both, without the other modalities.

        Raises:
            ValueError: ``kept`` is of another length, or leaves nothing.
        """
        if len(self.kept) != len(available) or len(available) != len(image):
            raise ValueError(f"kept has {len(self.kept)} and available {len(available)} flags, image {len(image)}")
        left = available & torch.tensor(self.kept, device=available.device)
        if not left.any():
            raise ValueError(f"kept {self.kept} leaves nothing of available {available.tolist()}; keep one of them")
        return zero_absent(image, left), left


class RandDropModalities(RandomizableTransform):
    """Keep a random subset of an image's available modalities, each non-empty subset equally likely.

    After a call, ``DropModalities(transform.kept)`` repeats it.

    Args:
        prob: probability of dropping any.
    """

    def __init__(self, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.kept: tuple[bool, ...] = ()

    def randomize(self, data: Tensor) -> None:
        """Pick ``kept`` for the flags of what is available, (M,) bool."""
        super().randomize(None)
        self.kept = tuple(bool(flag) for flag in data)
        if self._do_transform and (present := sum(self.kept)):
            subset = iter(format(self.R.randint(1, 2**present), f"0{present}b"))
            self.kept = tuple(flag and next(subset) == "1" for flag in self.kept)

    def __call__(self, image: Tensor, available: Tensor, randomize: bool = True) -> tuple[Tensor, Tensor]:
        """See `DropModalities`."""
        if randomize:
            self.randomize(available)
        return DropModalities(self.kept)(image, available)


class RandDropModalitiesd(RandomizableTransform, MapTransform):
    """Dictionary version of `RandDropModalities`; all ``keys`` lose the same modalities."""

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 1.0,
        available_key: str = "available",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.available_key = available_key
        self.drop = RandDropModalities(prob)

    @property
    def kept(self) -> tuple[bool, ...]:
        """The modalities that the last call kept, (M,) bools."""
        return self.drop.kept

    def set_random_state(self, seed: int | None = None, state: Any = None) -> RandDropModalitiesd:
        super().set_random_state(seed, state)
        self.drop.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        self.drop.randomize(data[self.available_key])
        for key in self.key_iterator(item):
            item[key], item[self.available_key] = self.drop(item[key], data[self.available_key], randomize=False)
        return item


class RandMaskModalitiesd(RandomizableTransform, Transform):
    """Pick the modalities that a training step fuses; all available ones stay visible to the encoders (PDT).

    The item gets ``mask_key`` (M,) bool, each non-empty subset of what is available equally likely.
    """

    def __init__(self, available_key: str = "available", mask_key: str = "mask") -> None:
        super().__init__()
        self.available_key = available_key
        self.mask_key = mask_key
        self.drop = RandDropModalities()

    def set_random_state(self, seed: int | None = None, state: Any = None) -> RandMaskModalitiesd:
        super().set_random_state(seed, state)
        self.drop.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.drop.randomize(data[self.available_key])
        return {**data, self.mask_key: torch.tensor(self.drop.kept)}


class EnsureAvailabled(MapTransform):
    """Add the available modalities to an item that lacks them, such as one from MONAI Label.

    A channel that is constant over the whole volume then counts as absent. Absent channels become 0.

    Raises:
        InputError: an ``available`` of another length than the image has channels, none available, or voxels that are
            not numbers.
    """

    def __init__(
        self, keys: KeysCollection = "image", available_key: str = "available", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.available_key = available_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image = convert_to_tensor(item[key], track_meta=True)
            given = data.get(self.available_key)
            if given is None:
                low, high = torch.aminmax(torch.as_tensor(image).flatten(1), dim=1)
                available = torch.as_tensor(low != high).cpu()
            else:
                available = torch.as_tensor(given).to(dtype=torch.bool, device="cpu").flatten()
            if len(available) != len(image):
                raise InputError(f"available has {len(available)} flags for an image of {len(image)} modalities")
            if not available.any():
                why = "every channel is constant" if given is None else "available is False throughout"
                raise InputError(f"no modality in the image: {why}; give at least one real modality")
            image = zero_absent(image, available)
            if not torch.as_tensor(image).as_subclass(Tensor).sum().isfinite():
                raise InputError("the image has voxels that are not numbers (NaN) or infinite; set them to 0")
            item[key], item[self.available_key] = image, available
        return item
