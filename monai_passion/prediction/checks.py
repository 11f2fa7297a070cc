"""Plausibility checks: what is odd about the images, and how good the weights were on such patients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import rel_entr
from scipy.stats import rankdata

from monai_passion.data.geometry import is_near
from monai_passion.data.nifti import Volume
from monai_passion.data.patient import Finding
from monai_passion.errors import UsageError
from monai_passion.modalities import parse_combination
from monai_passion.system.files import sha256
from monai_passion.tasks import Task

__all__ = [
    "check_edges",
    "check_expectation",
    "check_images",
    "check_measured",
    "check_result",
    "check_slices",
    "check_spacing",
    "check_training",
    "expected_quality",
    "far_parts",
    "find_summary",
    "seen_window",
]

STRIPPED = 0.7
"""A skull-stripped head fills less of its volume."""
SAME_HEAD = 0.8
"""Overlap (intersection over union) of the brain masks of co-registered images."""
OUTSIDE_HEAD = 0.01
"""Part of a segmentation that may lie where every image is zero."""
FILLS_IMAGE = 0.4
"""Part of what the images show from which on a segmentation is not believed: no tumor or heart takes so much."""
FAR = 30.0
"""mm from the largest part of a segmentation from which on a small one is worth a look."""
SMALL = 0.1
"""Volume of a small part, relative to the largest."""
LONGER_TAIL = 0.2
"""What counts as a longer tail of bright voxels, see `_tail`; a T2 differs from the others by 0.6 and more."""
MIRRORED = 1.3
"""How many times more two images must tell of each other with one of them mirrored.

It was 0.5 at most on five patients, and 1.04 on a raw one.
"""
MEASURED = ("roi_size", "mirror_axes", "decision", "ensemble")
"""Settings without which a Dice that was measured is not the one to expect."""
BINS = 32
FINE = 96
"""Voxels along an axis that suffice to see which way round a head is."""
COARSE = 1.5
"""How many times the size of the training's voxels one may have."""
UNRELIABLE = 0.5
"""Mean Dice in validation under which a region is not to be relied on."""


LARGEST_ML = {"brain": 600}
"""Anatomy -> volume of the largest lesion with its edema; the largest of 268 gliomas of BraTS2020 has 360 mL."""

SIDES = ("left-right", "front-back", "upside down")


def check_images(volumes: Mapping[str, Volume], task: Task) -> list[Finding]:
    """Warnings about images on one grid: not skull-stripped, not co-registered, mirrored, or one taken for another.

    The checks are about heads without skulls; for other tasks there are none.
    """
    if task.anatomy != "brain" or not task.skull_stripped:
        return []
    heads = {m: volume.data != 0 for m, volume in volumes.items()}
    share = {m: float(head.mean()) for m, head in heads.items()}
    findings = [
        Finding(
            "warning",
            f"{m}: {100 * part:.0f} % of its voxels are not 0; is the skull not stripped? (add --skull-strip)",
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
            text = f"the heads in {a} and {b} overlap by {100 * overlap:.0f} % only; are they co-registered?"
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
    with what was only moved there: an image that lies to the side is no mirrored one.

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
            text = f"{a} and {b} fit better when one is moved by {mm:.0f} mm; are they co-registered? (add --register)"
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
    if both.sum() < 1000:
        return False
    a, b = image[both], t2[both]
    ranks = [rankdata(values, method="average") / values.size for values in (a, b)]
    other_in_t2 = np.median(ranks[1][ranks[0] > 0.95])
    t2_in_other = np.median(ranks[0][ranks[1] > 0.95])
    return _tail(a) > _tail(b) + LONGER_TAIL and bool(t2_in_other > other_in_t2)


def _tail(values: NDArray[np.float32]) -> float:
    """Where the median lies between the extremes: 1 all bright voxels are few, -1 all dark ones are."""
    low, middle, high = np.percentile(values, (2, 50, 98))
    return float((high + low - 2 * middle) / max(high - low, 1e-12))


def check_result(
    labels: NDArray[np.unsignedinteger], volumes: Mapping[str, Volume], outside: int = 0, task: Task | None = None
) -> list[Finding]:
    """What is odd about a segmentation: whether it is to be used at all, a note where one should look.

    Args:
        labels: (X, Y, Z).
        volumes: the images, on the same grid.
        outside: voxels that were taken out of ``labels`` because every image is 0 there.
        task: says whether a tumor can be as large.
    """
    found = labels > 0
    findings = []
    if outside:
        share = outside / (outside + np.count_nonzero(found))
        text = f"{outside} voxels ({100 * share:.0f} %) were segmented where every image is 0, and removed"
        findings.append(Finding("warning" if share >= OUTSIDE_HEAD else "note", text))
    filled = np.count_nonzero(found)
    shown = np.count_nonzero(np.any([volume.data != 0 for volume in volumes.values()], axis=0))
    affine = next(iter(volumes.values())).affine
    if filled and (share := filled / shown) >= FILLS_IMAGE:
        text = (
            f"do not use this result: {100 * share:.0f} % of what the images show is segmented, more than can be; "
            "were the weights trained with images of this kind?"
        )
        findings.append(Finding("unusable", text))
    largest = LARGEST_ML.get(task.anatomy) if task else None
    if largest and (ml := filled * abs(float(np.linalg.det(affine[:3, :3]))) / 1000) > largest:
        text = f"do not use this result: {ml:.0f} mL are segmented, more than any tumor has (about {largest} mL)"
        findings.append(Finding("unusable", text))
    number, volume = far_parts(found, voxel_sizes(affine))
    if number:
        text = f"{number} small part(s), {volume:.1f} mL in all, lie more than {FAR:.0f} mm from the rest; look at them"
        findings.append(Finding("note", text))
    return findings


def far_parts(found: NDArray[np.bool_], spacing: NDArray[np.floating]) -> tuple[int, float]:
    """Connected parts with less than ``SMALL`` of the largest one's volume and more than ``FAR`` mm from it.

    Args:
        found: (X, Y, Z).
        spacing: mm.

    Returns:
        Their number and their volume in mL.
    """
    boxes = ndimage.find_objects(found.astype(np.uint8))
    if not boxes:
        return 0, 0.0
    found = found[boxes[0]]
    parts, number = ndimage.label(found, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    if number < 2:
        return 0, 0.0
    # Every second voxel suffices to measure centimeters.
    coarse = parts[::2, ::2, ::2]
    largest = int(sizes.argmax()) + 1
    distance = ndimage.distance_transform_edt(coarse != largest, 2 * spacing) if (coarse == largest).any() else None
    if distance is None:
        return 0, 0.0
    nearest = ndimage.minimum(distance, coarse, np.arange(1, number + 1))
    seen = np.isin(np.arange(1, number + 1), coarse)
    far = seen & (nearest > FAR) & (sizes < SMALL * sizes.max())
    return int(far.sum()), float(sizes[far].sum() * np.prod(spacing) / 1000)


def find_summary(weights: Path) -> Path | None:
    """``summary.json`` of the evaluation of these weights: beside them, or in ``eval`` beside them or their folder.

    One that names other weights by their SHA-256 is passed over.
    """
    folder = weights.resolve().parent
    places = (folder, folder / "eval", folder.parent / "eval")
    found = (place / "summary.json" for place in places)
    return next((path for path in found if path.is_file() and _is_about(path, weights)), None)


def _is_about(summary: Path, weights: Path) -> bool:
    try:
        named = json.loads(summary.read_text(encoding="utf-8")).get("weights_sha256")
    except (OSError, ValueError, AttributeError):
        return True  # `expected_quality` takes nothing from it
    return named is None or named == sha256(weights)


def expected_quality(summary: Path, task: Task) -> dict[str, list[dict[str, Any]]]:
    """Mean Dice of each region in the evaluation, for each combination of modalities.

    Returns:
        Combination, as ``"flair+t1"``, -> ``{"region", "dice", "low", "high", "patients"}`` for each region; nothing
        where the file does not tell.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        for row in json.loads(summary.read_text(encoding="utf-8"))["results"]:
            scored = row["metric"] == "dice" and row["convention"] == "challenge" and row["mean"] is not None
            if scored and "average" not in (row["region"], row["combination"]):
                names = "+".join(parse_combination(row["combination"], task.modality_names))
                quality = {"dice": row["mean"], "low": row["low"], "high": row["high"], "patients": row["n"]}
                found.setdefault(names, []).append({"region": row["region"], **quality})
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return {}
    return found


def check_measured(summary: Path, settings: Mapping[str, Any]) -> list[Finding]:
    """A note where the Dice to expect was measured with other settings (`MEASURED`) than those of this segmentation."""
    try:
        told = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    here = json.loads(json.dumps(dict(settings)))
    texts = [
        f"{key} {json.dumps(told[key])}, here {json.dumps(here[key])}"
        for key in MEASURED
        if key in told and key in here and told[key] != here[key]
    ]
    return [Finding("note", f"the Dice to expect was measured with {'; '.join(texts)}")] if texts else []


def check_expectation(quality: Sequence[Mapping[str, Any]], used: Sequence[str], task: Task) -> list[Finding]:
    """A warning for each region that was poor in the evaluation with these modalities; a note where there was none."""
    if not quality:
        return [Finding("note", "expected quality unknown: evaluate these weights")]
    titles = {region.name: region.title for region in task.regions}
    given = " + ".join(task.titles[m] for m in used) + (" alone" if len(used) == 1 else "")
    return [
        Finding(
            "warning",
            f"with {given}, {titles[row['region']]} is unreliable: Dice {row['dice']:.2f} in the evaluation of these "
            f"weights (n = {row['patients']})",
        )
        for row in quality
        if row["dice"] < UNRELIABLE
    ]


def check_training(facts: Mapping[str, Any], used: Sequence[str], task: Task) -> list[Finding]:
    """A warning where nobody in the training of the weights had a modality; without any that was learned, more.

    Args:
        facts: the metadata of the weights; ``"missing_rates"``, modality -> share of the training items without it.
        used: the modalities of the patient.
        task: has their titles.
    """
    rates = facts.get("missing_rates")
    unknown = [m for m in used if isinstance(rates, Mapping) and rates.get(m) == 1]
    if not unknown:
        return []
    names = " or ".join(task.titles[m] for m in unknown)
    text = f"no patient in the training of these weights had {names}, so the network has not learned it"
    if len(unknown) == len(used):
        return [Finding("unusable", f"do not use this result: {text}")]
    return [Finding("warning", f"{text}; segment without it")]


def check_spacing(facts: Mapping[str, Any], affine: NDArray[np.float64]) -> list[Finding]:
    """A warning where voxels are much coarser than those that the network was trained on.

    Args:
        facts: the metadata of the weights; ``"settings"`` with ``"spacing"``, mm; -1, that of each file, tells nothing.
        affine: (4, 4), of the images.
    """
    spacing = facts.get("settings", {}).get("spacing")
    size = float(voxel_sizes(affine).max())
    if not spacing or min(spacing) <= 0 or size <= COARSE * max(spacing):
        return []
    text = (
        f"voxels are up to {size:.2g} mm apart, coarser than the {max(spacing):.2g} mm that these weights were trained "
        "and scored at: expect a lower Dice than stated"
    )
    return [Finding("warning", text)]


def _resampled(facts: Mapping[str, Any], affine: NDArray[np.float64]) -> float | None:
    """The size of pixels, mm, that slices are resampled to; None where theirs are near enough."""
    wanted = facts.get("settings", {}).get("pixel_size")
    return None if not wanted or is_near(voxel_sizes(affine), [wanted, wanted, -1]) else float(wanted)


def seen_window(
    facts: Mapping[str, Any], shape: Sequence[int], affine: NDArray[np.float64]
) -> tuple[slice, slice] | None:
    """The pixels of a slice that a network for slices looks at, the middle of (X, Y); None where it sees all of them.

    Args:
        facts: the metadata of the weights; ``"settings"`` with ``"crop_size"``, ``"coarsen"`` and ``"pixel_size"``.
        shape: (X, Y, Z), of the images.
        affine: (4, 4), of the images.
    """
    settings = facts.get("settings", {})
    crop = settings.get("crop_size", ())
    if len(crop) != 2:
        return None
    seen = [int(size) * int(settings.get("coarsen", 1)) for size in crop]
    if wanted := _resampled(facts, affine):
        seen = [round(size * wanted / mm) for size, mm in zip(seen, voxel_sizes(affine), strict=False)]
    if seen[0] >= shape[0] and seen[1] >= shape[1]:
        return None
    seen = [min(size, have) for size, have in zip(seen, shape, strict=False)]
    starts = [have // 2 - size // 2 for have, size in zip(shape, seen, strict=False)]
    first, second = (slice(start, start + size) for start, size in zip(starts, seen, strict=True))
    return first, second


def check_slices(facts: Mapping[str, Any], volume: Volume, task: Task) -> list[Finding]:
    """Whether the third axis is across the slices, and how much of a slice is looked at; nothing for volumes.

    Args:
        facts: see `seen_window`.
        volume: one of the images.
        task: says whether the network sees slices.
    """
    if task.spatial_dims != 2:
        return []
    sizes = voxel_sizes(volume.affine)
    findings = []
    if sizes[2] * COARSE < sizes.max():
        text = (
            f"voxels of {' x '.join(f'{size:.3g}' for size in sizes)} mm: slices seem to lie across another axis than "
            "the third, along which the network takes them; store the images with the slices along the third axis"
        )
        findings.append(Finding("warning", text))
    if wanted := _resampled(facts, volume.affine):
        has = " x ".join(f"{size:.2f}" for size in sizes[:2])
        coarse = sizes[:2].max() > COARSE * wanted * int(facts["settings"].get("coarsen", 1))
        text = f"pixels of {has} mm are resampled to {wanted:.2f} mm, those of the training"
        text += "; they are much coarser: expect a lower Dice than stated" * bool(coarse)
        findings.append(Finding("warning" if coarse else "note", text))
    if seen := seen_window(facts, volume.shape, volume.affine):
        pixels = [part.stop - part.start for part in seen]
        area = " x ".join(f"{pixel * size:.0f}" for pixel, size in zip(pixels, sizes, strict=False))
        text = (
            f"the middle {pixels[0]} x {pixels[1]} of {volume.shape[0]} x {volume.shape[1]} pixels, {area} mm, are "
            f"looked at; what lies outside of them is not found"
        )
        findings.append(Finding("note", text))
    return findings


def check_edges(
    facts: Mapping[str, Any], labels: NDArray[np.unsignedinteger], affine: NDArray[np.float64]
) -> list[Finding]:
    """A warning where a segmentation reaches the edge of what a network for slices looked at, and so is cut off.

    Args:
        facts, affine: see `seen_window`.
        labels: (X, Y, Z).
    """
    if (seen := seen_window(facts, labels.shape, affine)) is None:
        return []
    inner = labels[seen]
    cut = (shape > part.stop - part.start for shape, part in zip(labels.shape, seen, strict=False))
    edges = [edge for axis, is_cut in enumerate(cut) if is_cut for edge in (inner.take(0, axis), inner.take(-1, axis))]
    if not any(edge.any() for edge in edges):
        return []
    text = (
        "the segmentation reaches the edge of the middle of the slices, which is all that was looked at: a part of it "
        "is missing, or it is not what is wanted; crop or shift the images so that it lies in their middle"
    )
    return [Finding("warning", text)]
