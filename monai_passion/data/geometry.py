"""Resample volumes onto one grid by the positions in their headers; nothing is registered here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage

from monai_passion.data.nifti import Grid, Header, Volume
from monai_passion.errors import InputError

__all__ = [
    "FULL_COVERAGE",
    "LPS",
    "MIN_COVERAGE",
    "NEAR",
    "bring_onto",
    "choose_reference",
    "coverage",
    "coverage_by_slices",
    "dice",
    "is_near",
    "moved_onto",
    "shown_voxels",
    "voxel_ml",
]

FINE = 1.0
"""Edge of a voxel in mm below which an image is no finer for a segmentation."""
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""The axes of DICOM and ITK point left and posterior, those of NIfTI right and anterior."""
MIN_COVERAGE = 0.1
"""If less of the reference is inside another file's field of view, the two do not show the same place."""
FULL_COVERAGE = 0.9
"""From this share on, an image's field of view counts as holding what another shows."""
SLAB = 0.5
"""An image that covers less of what another shows does not give the grid of the result."""
NOISE = 0.1
"""Share of the bright voxels' value up to which a voxel may be air."""
ROUNDING = 1e-9
"""Share of the largest value that rounding may leave where an image is 0; smaller values are not part of the head."""
SAMPLED = 40
"""Voxels along an axis that suffice to sample what an image shows."""
NEAR = 0.1
"""Share by which the pixels of slices may differ from those of a training without being resampled."""


def is_near(sizes: Sequence[float], wanted: Sequence[float], tolerance: float = NEAR) -> bool:
    """Whether ``sizes`` (mm) equal ``wanted`` up to the share ``tolerance``; a wanted size of -1 stands for any."""
    pairs = zip(sizes, wanted, strict=False)
    return all(abs(size / other - 1) <= tolerance for size, other in pairs if other > 0)


def choose_reference(volumes: Mapping[str, Volume]) -> str:
    """The modality with the smallest voxels, the first of equals in channel order; slabs are left out.

    An edge below ``FINE`` counts as that: slices of 0.4 x 0.4 x 6 mm are coarser than voxels of 1 mm. A slab covers
    less than ``SLAB`` of what another one shows. If all are slabs, as for images of different places, all count.
    """
    edges = {m: voxel_sizes(volume.affine) for m, volume in volumes.items()}
    sizes = {m: [round(float(np.prod(np.maximum(e, least))), 3) for least in (FINE, 0)] for m, e in edges.items()}
    shown = {m: shown_voxels(volume) for m, volume in volumes.items()}

    def is_slab(m: str) -> bool:
        return any(coverage(volumes[o], volumes[m], shown[o]) < SLAB for o in volumes if o != m)

    return min([m for m in volumes if not is_slab(m)] or volumes, key=lambda m: sizes[m])


def coverage(reference: Grid, other: Grid, voxels: NDArray[np.intp] | None = None) -> float:
    """The share (0 to 1) of the reference's field of view, or of ``voxels`` (N, 3) in it, that lies in another one."""
    if voxels is None or not len(voxels):
        steps = [np.linspace(0, size - 1, min(size, 33)) for size in reference.shape]
        voxels = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
    return float(_inside(reference, other, voxels)[1].mean())


def coverage_by_slices(reference: Volume, other: Volume) -> float:
    """The share (0 to 1) of what the reference shows that lies in slices of another volume with non-zero voxels."""
    places, inside = _inside(reference, other, shown_voxels(reference))
    shown = other.data != 0
    for axis, size in enumerate(other.shape):
        any_there = shown.any(axis=tuple(k for k in range(3) if k != axis))
        inside &= any_there[np.clip(np.rint(places[..., axis]).astype(int), 0, size - 1)]
    return float(inside.mean()) if inside.size else 1.0


def _inside(reference: Grid, other: Grid, voxels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where voxels (..., 3) of one grid are in another, in its voxels, and whether these are within it."""
    places = apply_affine(np.linalg.inv(other.affine) @ reference.affine, voxels.astype(float))
    return places, ((places > -0.5) & (places < np.array(other.shape) - 0.5)).all(axis=-1)


def shown_voxels(volume: Volume) -> NDArray[np.intp]:
    """Indices (N, 3) of a sample of the voxels where an image shows something; noise in air does not count."""
    steps = np.array([-(-size // SAMPLED) for size in volume.shape])
    coarse = np.abs(volume.data[tuple(slice(step // 2, None, step) for step in steps)])
    return np.argwhere(coarse > NOISE * np.percentile(coarse, 99)) * steps + steps // 2


def bring_onto(volume: Volume, reference: Volume | Header) -> Volume:
    """``volume`` on the grid of ``reference``, by linear interpolation, see `moved_onto`.

    Raises:
        InputError: the two hardly overlap in space.
    """
    share = coverage(reference, volume)
    if share < MIN_COVERAGE:
        raise InputError(
            f"{volume.path} and {reference.path} do not show the same place: {100 * share:.0f} % of the one lies "
            "within the other; check that both are of one patient and one examination, or register them first"
        )
    return Volume(moved_onto(volume, reference), reference.affine, volume.path, volume.notes)


def moved_onto(
    volume: Volume, grid: Grid, motion: NDArray[np.float64] | None = None, order: int = 1
) -> NDArray[np.float32]:
    """``volume`` interpolated at the voxels of ``grid`` by splines of ``order``; 0 outside its own field of view.

    The field of view reaches half a voxel beyond the centers of the outer voxels, whose values continue there. scipy
    alone would treat a slice a hundredth of a millimeter beyond the last center as outside.

    Args:
        motion: (4, 4), from a place in ``grid`` to the same place in ``volume``, in mm; identity by default.
    """
    matrix = np.linalg.inv(volume.affine) @ (grid.affine if motion is None else motion @ grid.affine)
    matrix[:3, 3] += 1  # of what is padded by a voxel
    data, shape = volume.data, tuple(grid.shape)
    kind = np.pad(1 + (data != 0), 1).astype(np.uint8)  # 0 is outside, 1 shows nothing
    moved = ndimage.affine_transform(np.pad(data, 1, mode="edge"), matrix, output_shape=shape, order=order)
    nearest = ndimage.affine_transform(kind, matrix, output_shape=shape, order=0)
    trace = (nearest == 1) & (np.abs(moved) < ROUNDING * np.abs(data).max(initial=0))
    moved[(nearest == 0) | trace] = 0
    return np.asarray(moved, np.float32)


def voxel_ml(affine: NDArray[np.float64]) -> float:
    """Volume of a voxel in mL; ``affine`` (4, 4) leads to mm."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """The Dice coefficient of two masks of one shape, 0 to 1; two empty ones agree."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0
