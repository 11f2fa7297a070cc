"""Transplant random tumors of other patients into a patient or a healthy head.

After CarveMix (Zhang et al., NeuroImage 2023) and TumorCP (Yang et al., MICCAI 2021), which mix lesions between
patients; here donors may be known in part, and unknown values are drawn from their own statistics.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform, RandomizableTransform, Transform
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from monai_passion.data.donors import Donor

__all__ = ["Placement", "RandTransplantTumord", "TransplantTumor", "TransplantTumord", "make_healthy"]

FEATHER = 3.0
"""Width (mm) of the border between donor and host."""
TRIES = 3
"""Donors to try until enough of one lies inside the host's brain."""
LACKING = 0.03
"""Share of a tumor below which it counts as without a class."""


class Placement(NamedTuple):
    """Where and how a donor's tumor is placed; the default is its true place."""

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """mm to the right, front and top."""
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Radians about the three axes."""
    scale: float = 1.0
    mirror: bool = False
    """Whether to mirror it to the other half of the brain."""
    contrast: tuple[float, ...] = ()
    """Factor of each modality's difference from the host's surroundings; all 1 by default."""
    seed: int = 0
    """Seed of the texture where the donor is not known."""


def _share(donor: Donor, k: int) -> float:
    """The part of a donor's tumor that is of class ``k``."""
    return int(np.count_nonzero(donor.label == k)) / max(int(np.count_nonzero(donor.label)), 1)


def _blur(mask: NDArray[Any], width: float, spacing: NDArray[np.float64]) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(mask.astype(np.float32), width / spacing, truncate=3.0)


def _spacing(image: Tensor) -> NDArray[np.float64]:
    pixdim = getattr(image, "pixdim", None)
    return np.ones(image.ndim - 1) if pixdim is None else np.asarray(pixdim, dtype=np.float64)


def make_healthy(image: Tensor, label: Tensor, dilation: float = 6.0) -> tuple[Tensor, Tensor] | None:
    """A head without its tumor: the mirrored other half, blended over the tumor and ``dilation`` mm around it.

    Args:
        image: (M, X, Y, Z), first axis from left to right or back, 0 outside the brain.
        label: (1, X, Y, Z).
        dilation: mm.

    Returns:
        Both, ``label`` all 0; None where the other half does not show the place healthy, as the tumor crosses the
        middle.
    """
    plain, tumor = np.asarray(image), np.asarray(label)[0] > 0
    if not tumor.any():
        return image.clone(), label.clone()
    brain = (plain != 0).any(axis=0)
    across = np.flatnonzero(brain.any(axis=(1, 2)))
    source = across[0] + across[-1] - np.arange(plain.shape[1])
    valid = (source >= 0) & (source < plain.shape[1])
    source = source.clip(0, plain.shape[1] - 1)
    healthy = brain[source] & ~tumor[source] & valid[:, None, None]
    wide = _blur(tumor, dilation, _spacing(image)) > 0.05
    unseen = tumor & ~healthy
    if np.count_nonzero(unseen) > 0.03 * np.count_nonzero(tumor):
        return None
    weight = np.where(brain & healthy, _blur(wide, FEATHER, _spacing(image)), 0)
    weight[wide & healthy & brain] = np.maximum(weight, 2 * weight - 0.5)[wide & healthy & brain].clip(0, 1)
    result, empty = image.clone(), label.clone()
    result[:] = torch.from_numpy(plain * (1 - weight) + plain[:, source] * weight).to(image.dtype)
    empty[:] = 0
    return result, empty


def _smooth_noise(seed: int, channels: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """(channels, *shape), about normal, alike over some voxels."""
    coarse = np.random.default_rng(seed).standard_normal((channels, *(n // 2 + 2 for n in shape)), np.float32)
    noise = interpolate(torch.from_numpy(coarse)[None], tuple(shape), mode="trilinear", align_corners=True)[0].numpy()
    return noise * np.float32(1.5)  # what the interpolation takes away


class TransplantTumor(Transform):
    """Transplant a donor's tumor into a head.

    The donor's voxels replace the host's inside the tumor and fade over ``FEATHER`` mm outside it, as far as they are
    known; elsewhere in the tumor, values are drawn from the donor's mean and deviation of each class. Both are shifted
    by the difference between the surroundings of donor and host at the same place.

    Args:
        donor: see `Donor`.
        placement: see `Placement`.
        min_volume: mL of tumor inside the host's brain below which nothing is done.
    """

    def __init__(self, donor: Donor, placement: Placement | None = None, min_volume: float = 0.3) -> None:
        self.donor = donor
        self.placement = placement or Placement()
        self.min_volume = min_volume

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor] | None:
        """``image`` (M, X, Y, Z) in RAS+ and z-scored, ``label`` (1, X, Y, Z) of classes -> both with the tumor.

        Modalities that are zero everywhere stay so.

        Returns:
            None where too little of the tumor would lie inside the brain.
        """
        spacing, host = _spacing(image), np.asarray(image)
        brain = (host != 0).any(axis=0)
        box, sampled = self._sample(brain, spacing)
        if sampled is None:
            return None
        channels = len(host)
        inside = brain[box]
        known, share = sampled[channels], sampled[channels + 1 :]
        whole = share.sum(axis=0)
        tumor = (whole > 0.5) & inside
        if np.count_nonzero(tumor) * spacing.prod() / 1000 < self.min_volume:
            return None
        every = (slice(None), *box)
        below = host[every]
        values = sampled[:channels] / np.maximum(known, 1e-3)
        mean, deviation = (
            np.einsum("km,k...->m...", part, share) / np.maximum(whole, 1e-3) for part in self.donor.statistics
        )
        fill = mean + deviation * _smooth_noise(self.placement.seed, channels, tumor.shape)
        wide = _blur(tumor, FEATHER, spacing)
        old = np.asarray(label)[0][box]
        ring = (wide > 0.02) & ~tumor & (known > 0.5) & inside & (old == 0)
        inner = np.where(known > 0, known, 0)
        new = inner * values + (1 - inner) * fill
        if np.count_nonzero(ring) > 20:
            around = below[:, ring].mean(axis=1)
            new += np.clip(around - values[:, ring].mean(axis=1), -1, 1)[:, None, None, None]
            if self.placement.contrast:
                factors = np.asarray(self.placement.contrast, np.float32)[:, None, None, None]
                around = around[:, None, None, None]
                new = around + factors * (new - around)
        weight = inner * np.clip(2 * wide, 0, 1) + (1 - inner) * _blur(tumor, 0.6 * spacing.min(), spacing)
        weight = np.where(inside, weight, 0)
        seen = (below != 0).any(axis=(1, 2, 3))[:, None, None, None]
        mixed = np.where(seen, below + weight * (new - below), below)
        result, labels = image.clone(), label.clone()
        result[every] = torch.from_numpy(mixed.astype(np.float32)).to(image.dtype)
        classes = np.where(tumor, share.argmax(axis=0) + 1, old)
        labels[0][box] = torch.from_numpy(classes).to(label.dtype)
        return result, labels

    def _sample(
        self, brain: NDArray[np.bool_], spacing: NDArray[np.float64]
    ) -> tuple[tuple[slice, ...], NDArray[np.float32] | None]:
        """The part of the host that the donor covers, and there (M + 1 + K - 1, x, y, z): image times known, known,
        and the share of each class."""
        donor, place = self.donor, self.placement
        extents = ndimage.find_objects(brain.astype(np.uint8))
        if not extents:
            return (), None
        low, high = np.array([(part.start, part.stop) for part in extents[0]]).T * spacing[:, None].T
        sign = np.array([-1.0 if place.mirror else 1.0, 1.0, 1.0])
        middle = (low + high) / 2 + sign * donor.place * (high - low) + np.asarray(place.shift)
        turn = Rotation.from_euler("xyz", place.rotation).as_matrix() @ np.diag(sign) * place.scale
        half = np.array(donor.label.shape) * donor.spacing / 2
        reach = np.abs(turn) @ half
        first = np.maximum(np.floor((middle - reach) / spacing), 0).astype(int)
        last = np.minimum(np.ceil((middle + reach) / spacing), brain.shape).astype(int)
        if (last <= first).any():
            return (), None
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        axes = [(np.arange(a, b) + 0.5) * s for a, b, s in zip(first, last, spacing, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - middle
        inside = points @ np.linalg.inv(turn).T
        # grid_sample: -1 and 1 are the outer faces of the array, and its last axis comes first
        grid = torch.from_numpy((inside / half)[..., ::-1].astype(np.float32))[None]
        known = donor.known.astype(np.float32)
        shares = [(donor.label == k + 1).astype(np.float32) for k in range(donor.statistics.shape[1])]
        stack = torch.from_numpy(np.stack([*(donor.image.astype(np.float32) * known), known, *shares]))[None]
        sampled = grid_sample(stack, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        return box, sampled.numpy()


class TransplantTumord(MapTransform):
    """Dictionary version of `TransplantTumor` for ``keys`` = (image, label); where nothing fits, nothing is done."""

    def __init__(
        self,
        keys: KeysCollection,
        donor: Donor,
        placement: Placement | None = None,
        min_volume: float = 0.3,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transplant = TransplantTumor(donor, placement, min_volume)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        image, label = self.keys
        found = self.transplant(item[image], item[label])
        if found is not None:
            item[image], item[label] = found
        return item


class RandTransplantTumord(RandomizableTransform, MapTransform):
    """With some probability, transplant a random donor's tumor into the patient, who may be made healthy before.

    After a call, ``donor`` and ``placement`` describe the transplant (None: none), and ``healthy`` is whether the
    patient's own tumor was removed before; `make_healthy` and `TransplantTumord` with them repeat it.

    Only donors with every modality of the patient are drawn, so that no missing image has to be made up.

    Args:
        keys: of the image (M, X, Y, Z) in RAS+, z-scored, and of the label (1, X, Y, Z) of classes.
        donors: see `monai_passion.data.donors.load_donors`.
        prob: of a transplant.
        healthy_prob: of removing the patient's own tumor before it.
        shift: standard deviation in mm of the distance from the donor's true place.
        rotation: standard deviation in radians.
        scale: range of the size.
        contrast: standard deviation of the logarithm of a modality's contrast.
        lacking: a class of tumor, such as that of enhancing tumor; None: all donors are drawn alike.
        lacking_share: share of the draws that are among donors with less than ``LACKING`` of their tumor in that class,
            where there are any; the others are among all. A network that sees few tumors without a class segments it in
            every tumor.
        patient_key: of the patient's name; patients are not their own donors.
        allow_missing_keys: see MapTransform.
    """

    def __init__(
        self,
        keys: KeysCollection,
        donors: Sequence[Donor],
        prob: float = 0.5,
        healthy_prob: float = 0.5,
        shift: float = 8.0,
        rotation: float = 0.15,
        scale: tuple[float, float] = (0.6, 1.15),
        contrast: float = 0.15,
        lacking: int | None = None,
        lacking_share: float = 0.0,
        patient_key: str = "patient",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.donors = tuple(donors)
        self.healthy_prob = healthy_prob
        self.shift, self.rotation, self.scale, self.contrast = shift, rotation, scale, contrast
        self.without = {donor.patient for donor in donors if lacking is not None and _share(donor, lacking) < LACKING}
        self.lacking_share = lacking_share
        self.patient_key = patient_key
        self.healthy = False
        self.donor: Donor | None = None
        self.placement: Placement | None = None
        self._choices: list[tuple[Donor, Placement]] = []

    def randomize(self, data: tuple[str, NDArray[np.bool_]]) -> None:
        """Draw the transplants that `__call__` tries, for a patient's name and available modalities, (M,)."""
        super().randomize(None)
        patient, seen = data
        self.healthy, self._choices = False, []
        if not self._do_transform:
            return
        every = [donor for donor in self.donors if donor.available[seen].all()]
        if not every:
            return
        self.healthy = bool(self.R.uniform() < self.healthy_prob)
        without = [donor for donor in every if donor.patient in self.without]
        for _ in range(TRIES):
            donors = without if self.R.uniform() < self.lacking_share and without else every
            donor = donors[self.R.randint(len(donors))]
            place = Placement(
                tuple(self.R.normal(0, self.shift, 3)),
                tuple(self.R.normal(0, self.rotation, 3)),
                float(np.exp(self.R.uniform(*np.log(self.scale)))),
                bool(self.R.randint(2)),
                tuple(np.exp(self.R.normal(0, self.contrast, len(seen)))),
                int(self.R.randint(2**31)),
            )
            if donor.patient != patient:
                self._choices.append((donor, place))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        image, label = self.keys
        seen = (np.asarray(item[image]) != 0).any(axis=(1, 2, 3))
        self.randomize((str(item.get(self.patient_key, "")), np.asarray(seen)))
        self.donor = self.placement = None
        if self.healthy:
            without = make_healthy(item[image], item[label])
            self.healthy = without is not None
            if without is not None:
                item[image], item[label] = without
        for donor, place in self._choices:
            found = TransplantTumor(donor, place)(item[image], item[label])
            if found is not None:
                item[image], item[label] = found
                self.donor, self.placement = donor, place
                break
        return item
