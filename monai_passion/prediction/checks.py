"""Plausibility checks of a segmentation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage

from monai_passion.data.geometry import voxel_ml
from monai_passion.data.nifti import Volume
from monai_passion.data.patient import Finding
from monai_passion.tasks import Task

__all__ = ["check_result", "far_parts"]

OUTSIDE_HEAD = 0.01
"""Share of a segmentation that may lie where every image is zero."""
FILLS_IMAGE = 0.4
"""Share of what the images show from which a segmentation is implausible: no tumor or heart is so large."""
FAR = 30.0
"""Distance (mm) from the largest part of a segmentation beyond which a small part gets a note."""
SMALL = 0.1
"""Volume of a small part, relative to the largest."""
LARGEST_ML = {"brain": 600}
"""Anatomy -> volume of the largest lesion with its edema; the largest of 268 gliomas of BraTS2020 has 360 mL."""


def check_result(
    labels: NDArray[np.unsignedinteger], volumes: Mapping[str, Volume], outside: int = 0, task: Task | None = None
) -> list[Finding]:
    """Findings about a segmentation: whether it can be used at all, and notes on where to look.

    Args:
        labels: (X, Y, Z).
        volumes: the images, on the same grid.
        outside: voxels that were removed from ``labels`` because every image is 0 there.
        task: its anatomy limits the volume of a tumor.
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
    if largest and (ml := filled * voxel_ml(affine)) > largest:
        text = f"do not use this result: {ml:.0f} mL are segmented, more than any tumor has (about {largest} mL)"
        findings.append(Finding("unusable", text))
    number, volume = far_parts(found, affine)
    if number:
        text = f"{number} small part(s), {volume:.1f} mL in all, lie more than {FAR:.0f} mm from the rest; look at them"
        findings.append(Finding("note", text))
    return findings


def far_parts(found: NDArray[np.bool_], affine: NDArray[np.float64]) -> tuple[int, float]:
    """Connected parts with less than ``SMALL`` of the largest part's volume, more than ``FAR`` mm from it.

    Args:
        found: (X, Y, Z).
        affine: (4, 4), voxels to mm.

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
    distance = (
        ndimage.distance_transform_edt(coarse != largest, 2 * voxel_sizes(affine))
        if (coarse == largest).any()
        else None
    )
    if distance is None:
        return 0, 0.0
    nearest = ndimage.minimum(distance, coarse, np.arange(1, number + 1))
    seen = np.isin(np.arange(1, number + 1), coarse)
    far = seen & (nearest > FAR) & (sizes < SMALL * sizes.max())
    return int(far.sum()), float(sizes[far].sum() * voxel_ml(affine))
