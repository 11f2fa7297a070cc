"""Plausibility of a patient's images of a head: no skulls, all aligned, none mirrored or mistaken for another."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from itertools import combinations

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import rankdata

from monai_passion.data.nifti import Volume
from monai_passion.data.patient import Finding
from monai_passion.tasks import Task

__all__ = ["SAME_HEAD", "STRIPPED", "check_images"]

STRIPPED = 0.7
"""A skull-stripped head fills less of its volume."""
SAME_HEAD = 0.8
"""Overlap (intersection over union) of the brain masks of co-registered images."""
LONGER_TAIL = 0.2
"""Difference from which a tail of bright voxels counts as longer, see `_tail`; a T2 differs by 0.6 and more."""
MANY = 100_000
"""Voxels that suffice to compare two images by."""
MIRRORED = 1.3
"""Factor by which mirroring one of two images must raise their mutual information for a warning. It was at most 0.5 for
five patients, and 1.04 for a raw one.
"""
BINS = 32
FINE = 96
"""Voxels along an axis that suffice to see which way round a head is."""
SIDES = ("left-right", "front-back", "upside down")


def check_images(volumes: Mapping[str, Volume], task: Task) -> list[Finding]:
    """Warnings about images on one grid: not skull-stripped, not aligned, mirrored, or mistaken for another sequence.

    The checks are about heads without skulls; for other tasks there are none.
    """
    if task.anatomy != "brain" or not task.skull_stripped:
        return []
    heads = {m: volume.data != 0 for m, volume in volumes.items()}
    share = {m: float(head.mean()) for m, head in heads.items()}
    findings = [
        Finding(
            "warning",
            f"{m}: {100 * part:.0f} % of its voxels are not 0; is the skull not stripped? (predict --skull-strip)",
        )
        for m, part in share.items()
        if part > STRIPPED
    ]
    apart = set()
    for a, b in combinations([m for m in volumes if share[m] <= STRIPPED], 2):
        union = int((heads[a] | heads[b]).sum())
        overlap = int((heads[a] & heads[b]).sum()) / max(union, 1)
        if overlap < SAME_HEAD:
            apart.add((a, b))
            text = f"the heads in {a} and {b} overlap by {100 * overlap:.0f} % only; are they co-registered, and whole?"
            findings.append(Finding("warning", text))
    images = {m: volume.data for m, volume in volumes.items()}
    for m in images:
        if m != "t2" and "t2" in images and _fluid_is_brighter(images[m], images["t2"]):
            text = f"{m} looks like T2 and t2 does not (fluid is bright in {m}); are the two files swapped?"
            findings.append(Finding("warning", text))
    return findings + _check_places(volumes, apart)


def _check_places(volumes: Mapping[str, Volume], apart: AbstractSet[tuple[str, str]]) -> list[Finding]:
    """Warnings about images that fit the others better when mirrored or moved; what all share is not to be seen.

    No two halves of a head are alike, so images of one head, whatever their contrast, tell more of each other (mutual
    information) the same way round than mirrored. What is mirrored is laid on the middle of the other, and is compared
    with what was only moved there: an image that lies to the side is not a mirrored one.

    Args:
        apart: pairs of which that is known.
    """
    ranks = {m: _ranks(volume) for m, volume in volumes.items()}
    affine = next(iter(volumes.values())).affine if volumes else np.eye(4)
    axes = nib.io_orientation(affine)[:, 0].astype(int)
    doubted: dict[tuple[str, str], str] = {}
    findings = []
    for a, b in combinations(ranks, 2):
        plain = _shared(ranks[a], ranks[b])
        moved, mirrored = [(plain, 0.0)], []
        for k, axis in enumerate(axes):
            there, way = _laid_on(ranks[b], ranks[a], k)
            if way:
                moved.append((_shared(ranks[a], there), abs(way) * _step(volumes[b]) * voxel_sizes(affine)[k]))
            mirrored.append((_shared(ranks[a], _laid_on(np.flip(ranks[b], k), ranks[a], k)[0]), SIDES[axis]))
        (best, mm), (turned, sides) = max(moved), max(mirrored)
        if turned > MIRRORED * best:
            doubted[a, b] = sides
        elif best > MIRRORED * plain and (a, b) not in apart:
            text = (
                f"{a} and {b} fit better when one is moved by {mm:.0f} mm; are they co-registered? (predict --register)"
            )
            findings.append(Finding("warning", text))
    for m in volumes:
        mine = {pair: sides for pair, sides in doubted.items() if m in pair}
        if len(mine) > 1 and len(mine) == len(volumes) - 1:
            text = f"{m} fits the others better when mirrored {next(iter(mine.values()))}; is its orientation wrong?"
            findings.append(Finding("warning", text))
            doubted = {pair: sides for pair, sides in doubted.items() if m not in pair}
    for (a, b), sides in doubted.items():
        text = f"{a} and {b} fit better when one is mirrored {sides}; is the orientation of one of them wrong?"
        findings.append(Finding("warning", text))
    return findings


def _ranks(volume: Volume) -> NDArray[np.intp]:
    """The image in few voxels and ``BINS`` gray values that are equally frequent, from 1; 0 outside the head."""
    step = _step(volume)
    trimmed = volume.data[tuple(slice(size // step * step) for size in volume.shape)]
    blocks = trimmed.reshape([n for size in trimmed.shape for n in (size // step, step)])
    image = blocks.mean(axis=(1, 3, 5))
    head = image != 0
    result = np.zeros(image.shape, np.intp)
    if head.any():
        edges = np.quantile(image[head], np.linspace(0, 1, BINS + 1)[1:-1])
        result[head] = 1 + np.searchsorted(edges, image[head])
    return result


def _step(volume: Volume) -> int:
    """Voxels of the volume along one of `_ranks`."""
    return -(-max(volume.shape) // FINE)


def _laid_on(image: NDArray[np.intp], onto: NDArray[np.intp], axis: int) -> tuple[NDArray[np.intp], int]:
    """Moved along an axis so that the two heads have one middle, and by how many voxels."""

    def middle(ranks: NDArray[np.intp]) -> float:
        there = (ranks > 0).sum(axis=tuple(a for a in range(3) if a != axis))
        return float((there * np.arange(len(there))).sum() / max(there.sum(), 1))

    way = round(middle(onto) - middle(image))
    return np.roll(image, way, axis), way


def _shared(a: NDArray[np.intp], b: NDArray[np.intp]) -> float:
    """Mutual information of two rank images where both show the head, in nats."""
    both = (a > 0) & (b > 0)
    joint = np.bincount((a[both] - 1) * BINS + b[both] - 1, minlength=BINS**2).reshape(BINS, BINS) / max(both.sum(), 1)
    return float(rel_entr(joint, np.outer(joint.sum(axis=1), joint.sum(axis=0))).sum())


def _fluid_is_brighter(image: NDArray[np.float32], t2: NDArray[np.float32]) -> bool:
    """Whether ``image`` is more like a T2 than ``t2`` is.

    Free fluid is by far the brightest in T2, and dark in FLAIR and T1: T2 has the longer tail of bright voxels, and
    these are dark in the other image, while the brightest voxels of the other are not the darkest in T2.
    """
    both = (image != 0) & (t2 != 0)
    if (count := int(both.sum())) < 1000:
        return False
    every = -(-count // MANY)
    a, b = image[both][::every], t2[both][::every]
    ranks = [rankdata(values, method="average") / values.size for values in (a, b)]
    other_in_t2 = np.median(ranks[1][ranks[0] > 0.95])
    t2_in_other = np.median(ranks[0][ranks[1] > 0.95])
    return _tail(a) > _tail(b) + LONGER_TAIL and bool(t2_in_other > other_in_t2)


def _tail(values: NDArray[np.float32]) -> float:
    """Where the median lies between the extremes: 1 all bright voxels are few, -1 all dark ones are."""
    low, middle, high = np.percentile(values, (2, 50, 98))
    return float((high + low - 2 * middle) / max(high - low, 1e-12))
