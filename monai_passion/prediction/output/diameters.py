"""The two longest perpendicular diameters of each lesion, as RANO measures tumors, and the point where one is deepest.

RANO 2.0 (Wen et al., J Clin Oncol 2023) multiplies the longest diameter of a lesion in the plane of acquisition by the
longest one perpendicular to it. A lesion that encloses its necrosis in a slice is measured with it, from rim to rim.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

__all__ = ["Diameters", "components", "deepest_point", "deepest_voxel", "diameters", "slice_axis"]

FINE = 0.1
"""Step along a line, in voxels."""
SLICES, PIECES, POINTS = 12, 3, 250
"""Most slices of a lesion (the largest ones), parts of a slice and points of an edge that are tried: a segmentation of
pure noise must not take minutes."""
THICK = 1.2
"""Ratio of slice distance to in-plane voxel size from which slices count as acquired one by one."""


class Diameters(NamedTuple):
    """The two diameters of one lesion, in the slice where their product is largest."""

    axis: int
    """Axis of the array perpendicular to the slice."""
    slice: int
    """Index along ``axis``, from 0."""
    longest_mm: float
    perpendicular_mm: float
    ends: tuple[tuple[float, float, float], ...]
    """Voxel coordinates of the two ends of the longest diameter, then of the other one's."""

    @property
    def product_mm2(self) -> float:
        """The bidimensional product."""
        return self.longest_mm * self.perpendicular_mm


def slice_axis(affine: NDArray[np.float64]) -> int:
    """The array axis across the slices: that of the largest spacing, or along the body for nearly cubic voxels."""
    spacing = voxel_sizes(affine)
    thickest = int(np.argmax(spacing))
    if spacing[thickest] > THICK * np.median(spacing):
        return thickest
    return int(np.argmax(np.abs(affine[2, :3] / spacing)))


def components(where: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Voxel coordinates (N, 3) of each connected component (26 neighbors), the largest first."""
    labels, count = ndimage.label(where, np.ones((3, 3, 3)))
    found = np.argwhere(labels)
    order = np.argsort(labels[tuple(found.T)], kind="stable")
    sizes = np.bincount(labels[tuple(found.T)], minlength=count + 1)[1:]
    parts = np.split(found[order], np.cumsum(sizes)[:-1]) if count else []
    return sorted(parts, key=len, reverse=True)


def deepest_point(where: NDArray[np.bool_], affine: NDArray[np.float64]) -> tuple[int, int, int] | None:
    """The voxel of the largest component farthest (in mm) from its surface; None if there is no component."""
    parts = components(where)
    return deepest_voxel(parts[0], affine) if parts else None


def deepest_voxel(lesion: NDArray[np.intp], affine: NDArray[np.float64]) -> tuple[int, int, int]:
    """The voxel of one component, coordinates (N, 3), farthest (in mm) from its surface."""
    low = lesion.min(axis=0)
    box = np.zeros(lesion.max(axis=0) - low + 3, bool)
    box[tuple((lesion - low + 1).T)] = True
    depth = ndimage.distance_transform_edt(box, voxel_sizes(affine))
    deepest = np.argwhere(depth >= depth.max() - 1e-6)  # of several the one in their middle
    middle = deepest[np.argmin(np.linalg.norm(deepest - deepest.mean(axis=0), axis=1))]
    i, j, k = (int(c) for c in middle + low - 1)
    return i, j, k


def diameters(lesion: NDArray[np.intp], affine: NDArray[np.float64], axis: int | None = None) -> Diameters | None:
    """The longest diameter within a slice and the longest one perpendicular to it.

    Both lie within the lesion's outline with holes in the slice filled; the outline is where the mask, interpolated
    linearly between voxel centers, is 1/2. The slice with the largest product is taken. Angles are measured in space,
    for any grid.

    Args:
        lesion: voxel coordinates (N, 3) of one component.
        affine: (4, 4), from voxels to mm.
        axis: of the slices; by default `slice_axis`.

    Returns:
        None for no voxels.
    """
    axis = slice_axis(affine) if axis is None else axis
    plane = [a for a in range(3) if a != axis]
    matrix = affine[:3, plane]
    metric = np.linalg.cholesky(matrix.T @ matrix).T  # (2, 2): voxels within the slice to mm, lengths and angles kept
    slices = [lesion[lesion[:, axis] == k] for k in np.unique(lesion[:, axis])]
    bounds = [_largest_product(part[:, plane] @ metric.T, metric) for part in slices]
    best: Diameters | None = None
    for k in np.argsort(bounds)[::-1][:SLICES]:
        if best is not None and bounds[k] <= best.product_mm2:
            break  # no slice that is left can have a larger product
        index = int(slices[k][0, axis])
        for piece in _pieces(slices[k][:, plane])[:PIECES]:
            lines = _in_slice(*piece, metric)
            longest, across = (float(np.linalg.norm(metric @ (b - a))) for a, b in lines)
            ends = tuple(_point(end, axis, index) for line in lines for end in line)
            found = Diameters(axis, index, longest, across, ends)
            if best is None or found.product_mm2 > best.product_mm2:
                best = found
    return best


def _largest_product(points: NDArray[np.float64], metric: NDArray[np.float64]) -> float:
    """A bound: the two diameters cross, and their hull has half their product as area and lies in that of the slice."""
    corners = (points[:, None] + np.array([(a, b) for a in (-0.5, 0.5) for b in (-0.5, 0.5)]) @ metric.T).reshape(-1, 2)
    return 2 * float(ConvexHull(corners).volume)


def _pieces(points: NDArray[np.intp]) -> list[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """The connected parts of a slice as masks with a margin, holes filled, the largest first; and where each begins."""
    low = points.min(axis=0) - 1
    mask = np.zeros(points.max(axis=0) - low + 2, bool)
    mask[tuple((points - low).T)] = True
    labels, count = ndimage.label(ndimage.binary_fill_holes(mask), np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return [(labels == 1 + label, low) for label in np.argsort(-sizes, kind="stable")]


def _in_slice(
    mask: NDArray[np.bool_], low: NDArray[np.intp], metric: NDArray[np.float64]
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]:
    """The ends of the longest line within the mask and of the longest one across it, in voxels of the slice."""
    edge = np.argwhere(mask & ~ndimage.binary_erosion(mask)).astype(float)
    a, b = _longest_between(edge, mask, metric)
    longest = _reach(a[None], a - b, mask)[0], _reach(b[None], b - a, mask)[0]
    along = metric @ (longest[1] - longest[0])
    normal = np.linalg.solve(metric, np.array([-along[1], along[0]]) / np.linalg.norm(along))
    steps = int(np.ceil(np.abs(longest[1] - longest[0]).max() / (2 * FINE)))
    starts = longest[0] + np.linspace(0.001, 0.999, steps + 2)[:, None] * (longest[1] - longest[0])
    down, up = _reach(starts, -normal, mask), _reach(starts, normal, mask)
    widest = int(np.argmax(np.linalg.norm((up - down) @ metric.T, axis=1)))
    return tuple((first + low, second + low) for first, second in (longest, (down[widest], up[widest])))


def _longest_between(
    edge: NDArray[np.float64], mask: NDArray[np.bool_], metric: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The centers of the two edge voxels that are farthest from each other, with the line between them in the mask."""
    if len(edge) == 1:
        return edge[0] - [FINE, 0], edge[0] + [FINE, 0]
    if len(edge) > POINTS:  # first of some of them, then of all that lie near the two
        step = -(-len(edge) // POINTS)
        ends = _longest_between(edge[::step], mask, metric)
        near = np.min([np.linalg.norm(edge - end, axis=1) for end in ends], axis=0)
        edge = edge[np.argsort(near, kind="stable")[:POINTS]]
    first, second = np.triu_indices(len(edge), 1)
    order = np.argsort(pdist(edge @ metric.T))[::-1]
    for block in np.split(order, [2**k for k in range(8, 20) if 2**k < len(order)]):  # the longest first
        for points in (3, 9, 27, None):  # few points rule out most lines
            block = block[_lines_inside(edge[first[block]], edge[second[block]], mask, points)]
            if not len(block):
                break
        else:
            return edge[first[block[0]]], edge[second[block[0]]]
    return edge[0] - [FINE, 0], edge[0] + [FINE, 0]


def _lines_inside(
    a: NDArray[np.float64], b: NDArray[np.float64], mask: NDArray[np.bool_], points: int | None = None
) -> NDArray[np.bool_]:
    """Which of the lines from ``a`` to ``b`` (N, 2) leave the mask nowhere, or at none of so many points."""
    steps = points or int(np.ceil(np.abs(b - a).max() / (4 * FINE))) + 1
    return np.all(_inside(a + np.linspace(0, 1, steps + 2)[:, None, None] * (b - a), mask), axis=0)


def _reach(starts: NDArray[np.float64], direction: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """From each of ``starts`` (N, 2) on, the last point that is within the outline."""
    step, tried = direction / np.linalg.norm(direction) * FINE, 16
    within, going, first = np.zeros(len(starts), int), np.arange(len(starts)), 0
    while len(going):  # the mask has a margin, so every line leaves it
        inside = _inside(starts[going, None] + np.arange(first, first + tried)[:, None] * step, mask)
        stays = inside.all(axis=1)
        within[going] += np.where(stays, tried, np.argmin(inside, axis=1))
        going, first, tried = going[stays], first + tried, 2 * tried
    return starts + np.maximum(within - 1, 0)[:, None] * step


def _inside(points: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of ``points`` (..., 2) lie within the outline."""
    values = ndimage.map_coordinates(mask.astype(np.float32), np.moveaxis(points, -1, 0), order=1, mode="constant")
    return np.asarray(values >= 0.5 - 1e-4)


def _point(end: NDArray[np.float64], axis: int, index: int) -> tuple[float, float, float]:
    x, y, z = (round(float(c), 3) for c in np.insert(end, axis, index))
    return x, y, z
