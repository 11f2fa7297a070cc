"""What to expect of the weights for a patient: their scores, and their training data compared with the patient's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from monai_passion.data.geometry import is_near
from monai_passion.data.nifti import Volume
from monai_passion.data.patient import Finding
from monai_passion.errors import UsageError
from monai_passion.evaluation.metrics import CHALLENGE
from monai_passion.evaluation.summary import AVERAGE
from monai_passion.modalities import parse_combination
from monai_passion.system.files import sha256
from monai_passion.tasks import Task

__all__ = [
    "UNKNOWN",
    "check_edges",
    "check_expectation",
    "check_measured",
    "check_slices",
    "check_spacing",
    "check_training",
    "expected_quality",
    "find_summary",
    "seen_window",
]

MEASURED = ("roi_size", "mirror_axes", "decision", "ensemble")
"""Settings that must be equal for a measured Dice to be the one to expect."""
COARSE = 1.5
"""Factor by which voxels may be larger than those of the training."""
UNKNOWN = "expected quality unknown: evaluate these weights"
UNRELIABLE = 0.5
"""Mean Dice in validation below which a region is unreliable."""


def find_summary(weights: Path) -> Path | None:
    """Path of the ``summary.json`` about these weights: beside them, or in ``eval`` beside them or their folder.

    A summary with the SHA-256 of other weights is ignored.
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
        Combination, such as ``"flair+t1"`` -> ``{"region", "dice", "low", "high", "patients"}`` for each region of the
        task; empty if the file does not tell it.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        for row in json.loads(summary.read_text(encoding="utf-8"))["results"]:
            scored = row["metric"] == "dice" and row["convention"] == CHALLENGE.name and row["mean"] is not None
            if scored and row["combination"] != AVERAGE and row["region"] in task.region_classes:
                names = "+".join(parse_combination(row["combination"], task.modality_names))
                quality = {"dice": row["mean"], "low": row["low"], "high": row["high"], "patients": row["n"]}
                found.setdefault(names, []).append({"region": row["region"], **quality})
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return {}
    return found


def check_measured(summary: Path, settings: Mapping[str, Any]) -> list[Finding]:
    """A note if the Dice to expect was measured with other settings (`MEASURED`) than those of this segmentation."""
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
    """A warning for each region that was poor in the evaluation with these modalities; a note if there was none."""
    if not quality:
        return [Finding("note", UNKNOWN)]
    titles = {region.name: region.title for region in task.regions}
    given = " + ".join(task.titles[m] for m in used) + (" alone" if len(used) == 1 else "")
    return [
        Finding(
            "warning",
            f"with {given}, {titles[row['region']]} is unreliable: Dice {row['dice']:.2f} in the evaluation of these "
            f"weights (n = {row['patients']})",
        )
        for row in quality
        if round(row["dice"], 2) < UNRELIABLE  # as it is shown
    ]


def check_training(facts: Mapping[str, Any], used: Sequence[str], task: Task) -> list[Finding]:
    """A warning about modalities that no training patient had; "unusable" if the patient has no other.

    Args:
        facts: the metadata of the weights; ``"missing_rates"``: modality -> share of the training items without it.
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
    """A warning if voxels are much coarser than those of the training.

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
    """The central part of (X, Y), in pixels, that a network for slices sees; None if it sees all pixels.

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
    """Findings about whether the third axis is across the slices, and how much of a slice is seen; none for volumes.

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
    """A warning if a segmentation is cut off at the edge of the part that a network for slices sees.

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
