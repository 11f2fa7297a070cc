"""Degraded images in place of absent ones: thick slices, noise, ghosts, bias fields, another contrast, cut-off ends."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from monai.config import KeysCollection
from monai.transforms import RandBiasField, RandRicianNoise
from monai.transforms.transform import MapTransform, Randomizable, Transform
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["KINDS", "Degradation", "DegradeModality", "DegradeModalityd", "RandDegradeModalityd"]


class Degradation(NamedTuple):
    """The degradation of one modality; `DegradeModality` with it repeats it."""

    kind: str
    strength: float
    """From 0 (none) to 1 (an image that a reader would reject)."""
    seed: int = 0
    axis: int = -1
    """Spatial axis: across the slices, or of the phase encoding."""


def thick_slices(image: Tensor, degradation: Degradation) -> Tensor:
    """Mean over slabs of up to 6 voxels along the axis, interpolated back."""
    axis = degradation.axis % (image.ndim - 1)
    size = list(image.shape[1:])
    size[axis] = max(1, round(size[axis] / (1 + 5 * degradation.strength)))
    slabs = interpolate(image[None], size, mode="area")
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return interpolate(slabs, image.shape[1:], mode=linear)[0]


def noise(image: Tensor, degradation: Degradation) -> Tensor:
    """Rician noise of up to 30 % of the mean signal."""
    std = 0.3 * degradation.strength * float(image[image > 0].mean())
    transform = RandRicianNoise(prob=1, mean=0, std=std, sample_std=False).set_random_state(degradation.seed)
    return torch.as_tensor(transform(image))


def ghosts(image: Tensor, degradation: Degradation) -> Tensor:
    """Ghosts of periodic motion: every fourth line along the axis of k-space loses up to all of its signal."""
    axis = degradation.axis % (image.ndim - 1) + 1
    lines = torch.ones(image.shape[axis])
    lines[4::4] = 1 - degradation.strength
    shape = [1] * image.ndim
    shape[axis] = -1
    return torch.fft.ifft(torch.fft.fft(image, dim=axis) * lines.reshape(shape), dim=axis).abs()


def bias(image: Tensor, degradation: Degradation) -> Tensor:
    """A smooth multiplicative field, the exponential of a cubic with coefficients up to 0.3."""
    limit = 0.3 * degradation.strength
    transform = RandBiasField(prob=1, degree=3, coeff_range=(-limit, limit)).set_random_state(degradation.seed)
    return torch.as_tensor(transform(image))


def contrast(image: Tensor, degradation: Degradation) -> Tensor:
    """Another gray-level curve: intensities between the 1st and 99th percentile to a power of up to 2, or of 1/2."""
    values = image[image > 0]
    if not len(values):
        return image
    if len(values) > 100_000:
        values = values[:: len(values) // 50_000]
    low, high = torch.quantile(values, values.new_tensor([0.01, 0.99]))
    power = 2 ** (degradation.strength * (1 if degradation.seed % 2 else -1))
    unit = (image - low) / (high - low).clamp_min(1e-6)
    return low + torch.where(unit > 0, unit.clamp_min(1e-6) ** power, unit) * (high - low)


def cut_off(image: Tensor, degradation: Degradation) -> Tensor:
    """NaN, which becomes 0, in up to a quarter of the slices at one end."""
    axis = degradation.axis % (image.ndim - 1) + 1
    size = image.shape[axis]
    number = round(0.25 * degradation.strength * size)
    poorer = image.clone()
    poorer.narrow(axis, size - number if degradation.seed % 2 else 0, number).fill_(torch.nan)
    return poorer


KINDS: dict[str, Callable[[Tensor, Degradation], Tensor]] = {
    "thick_slices": thick_slices,
    "noise": noise,
    "ghosts": ghosts,
    "bias": bias,
    "contrast": contrast,
    "cut_off": cut_off,
}


class DegradeModality(Transform):
    """Show one modality as a poorer scan would. Zeros, the background of a stripped head, stay zero.

    In an image with negative values, such as a z-scored one, intensities count from the minimum.

    Args:
        kind: one of ``KINDS``.
        strength: 0 to 1.
        seed: of noise and bias; its parity sets the direction of contrast, and the end that is cut off.
        axis: spatial axis of thick slices, ghosts and the end that is cut off.

    Raises:
        ValueError: an unknown kind, or a strength outside [0, 1].
    """

    def __init__(self, kind: str, strength: float, seed: int = 0, axis: int = -1) -> None:
        if kind not in KINDS or not 0 <= strength <= 1:
            raise ValueError(f"no degradation {kind!r} of strength {strength}; give one of {list(KINDS)}, from 0 to 1")
        self.degradation = Degradation(kind, strength, seed, axis)

    def __call__(self, image: Tensor) -> Tensor:
        """(1, *spatial) float -> the same shape."""
        plain = torch.as_tensor(image).as_subclass(Tensor)
        inside = plain != 0
        if not self.degradation.strength or not inside.any():
            return image.clone()
        lowest = plain.min().clamp(max=0)
        signal = torch.where(inside, plain - lowest, 0)
        poorer = KINDS[self.degradation.kind](signal, self.degradation) + lowest
        result = image.clone()
        result[:] = torch.where(inside & poorer.isfinite(), poorer, 0).to(plain.dtype)
        return result


class DegradeModalityd(MapTransform):
    """Dictionary version of `DegradeModality`, for the modality with number ``channel``."""

    def __init__(
        self,
        keys: KeysCollection,
        channel: int,
        kind: str,
        strength: float,
        seed: int = 0,
        axis: int = -1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channel = channel
        self.degrade = DegradeModality(kind, strength, seed, axis)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = item[key].clone()
            item[key][self.channel] = self.degrade(data[key][self.channel][None])[0]
        return item


class RandDegradeModalityd(Randomizable, MapTransform):
    """Degrade each available modality with a chance of its own, in a random way.

    After a call, ``transform.degradations`` has channel -> `Degradation`; ``DegradeModalityd(keys, channel,
    *degradation)`` for each repeats them.

    Args:
        keys: of the image (M, *spatial).
        prob: one chance for all modalities, or one per modality.
        kinds: to choose from, all equally likely.
        strength: the range to draw from, uniformly.
        available_key: of the flags (M,); without it in the item, all are available.
        allow_missing_keys: see MapTransform.

    Raises:
        ValueError: an unknown kind; when called, a number of chances that is neither 1 nor M.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float | Sequence[float] = 0.1,
        kinds: Sequence[str] = tuple(KINDS),
        strength: tuple[float, float] = (0.3, 1.0),
        available_key: str = "available",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"no degradation {', '.join(unknown)}; give some of {list(KINDS)}")
        self.prob = prob
        self.kinds = tuple(kinds)
        self.strength = strength
        self.available_key = available_key
        self.degradations: dict[int, Degradation] = {}

    def randomize(self, data: Tensor, spatial_dims: int) -> None:
        """Pick the degradations for the flags of what is available, (M,) bool."""
        chances = [self.prob] * len(data) if isinstance(self.prob, int | float) else self.prob
        if len(chances) != len(data):
            raise ValueError(f"prob has {len(chances)} values for {len(data)} modalities; give one, or one for each")
        self.degradations = {
            m: Degradation(
                self.kinds[self.R.randint(len(self.kinds))],
                float(self.R.uniform(*self.strength)),
                int(self.R.randint(2**31)),
                int(self.R.randint(spatial_dims)),
            )
            for m, chance in enumerate(chances)
            if data[m] and self.R.uniform() < chance
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        keys = list(self.key_iterator(item))
        if keys:
            image = data[keys[0]]
            flags = data.get(self.available_key)
            self.randomize(torch.ones(len(image)) if flags is None else flags, image.ndim - 1)
            for channel, degradation in self.degradations.items():
                item = DegradeModalityd(keys, channel, *degradation)(item)
        return item
