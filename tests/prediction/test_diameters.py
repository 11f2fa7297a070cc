import itertools

import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat

from monai_passion.prediction.output.diameters import components, deepest_point, diameters, slice_axis

GRIDS = {
    "cubes": np.eye(3),
    "anisotropic in plane": np.diag([0.5, 1.4, 5.0]),
    "oblique": euler2mat(0.4, -0.3, 0.2) * [0.9, 1.3, 3.0],
    "slices first": (euler2mat(0.1, 0.2, 0.3) * [0.8, 1.1, 4.0])[:, [2, 0, 1]],
    "sheared in plane": euler2mat(0.2, 0.1, -0.3) @ [[1.0, 0.5, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 3.0]],
    "a tilted gantry": np.array([[0.9, 0.0, 0.0], [0.0, 1.2, 1.3], [0.0, 0.0, 4.0]]),
}


def ellipse(affine, half, angle, shape=(40, 40, 40)):
    """Voxels whose centers lie in a flat ellipse with the half axes ``half`` (mm) within one slice of the grid."""
    axis = slice_axis(affine)
    plane = [a for a in range(3) if a != axis]
    voxels = np.argwhere(np.ones([s if a != axis else 1 for a, s in enumerate(shape)], bool))
    mm = (voxels - voxels.mean(axis=0))[:, plane] @ affine[:3, plane].T
    first = affine[:3, plane[0]] / np.linalg.norm(affine[:3, plane[0]])
    second = np.cross(np.cross(*affine[:3, plane].T), first)
    second /= np.linalg.norm(second)
    u, v = mm @ first, mm @ second
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    return voxels[(along / half[0]) ** 2 + (across / half[1]) ** 2 <= 1]


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_axes_of_an_ellipse_are_found_to_the_diagonal_of_a_voxel_however_the_grid_lies(grid, angle):
    affine = from_matvec(GRIDS[grid], [5.0, -3.0, 8.0])
    plane = [a for a in range(3) if a != slice_axis(affine)]
    voxel = np.linalg.norm(affine[:3, plane])
    found = diameters(ellipse(affine, (9.0, 5.0), angle), affine)
    assert found.longest_mm == pytest.approx(18, abs=voxel)
    assert found.perpendicular_mm == pytest.approx(10, abs=voxel)
    ends = np.array(found.ends) @ affine[:3, :3].T
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(found.longest_mm, abs=0.05)
    assert np.dot(ends[1] - ends[0], ends[3] - ends[2]) == pytest.approx(0, abs=1)


def brute_force(mask, metric):
    """All pairs of points of a mesh with four points a voxel edge, each line looked at everywhere."""
    mesh = np.argwhere(np.kron(mask, np.ones((4, 4), bool))) / 4 - 0.375
    edge = [p for p in mesh if not all(_inside(p + d, mask) for d in ((0.3, 0), (-0.3, 0), (0, 0.3), (0, -0.3)))]

    def longest(pairs):
        for a, b in sorted(pairs, key=lambda pair: -np.linalg.norm(metric @ (pair[1] - pair[0]))):
            if all(_inside(a + t * (b - a), mask) for t in np.linspace(0, 1, 80)):
                return a, b
        return None

    a, b = longest(itertools.combinations(edge, 2))
    along = metric @ (b - a)
    right = [
        pair
        for pair in itertools.combinations(edge, 2)
        if abs(np.dot(along, metric @ (pair[1] - pair[0])))
        <= 0.06 * np.linalg.norm(along) * np.linalg.norm(metric @ (pair[1] - pair[0]))
        and _cross(a, b, *pair)
    ]
    c, d = longest(right)
    return np.linalg.norm(along), np.linalg.norm(metric @ (d - c))


def _inside(point, mask):
    (i, x), (j, y) = ((int(np.floor(c)), c % 1) for c in point)
    corners = np.pad(mask, 1)[i + 1 : i + 3, j + 1 : j + 3]
    return np.array([1 - x, x]) @ corners @ [1 - y, y] >= 0.5 - 1e-6


def _cross(a, b, c, d):
    def side(p, q, r):
        return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) != side(a, b, d) and side(c, d, a) != side(c, d, b)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_any_shape_is_measured_as_by_trying_every_line_however_the_grid_lies(seed, grid):
    """Random blobs, bays included: a line does not leave the lesion, nor its slice."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(13, 13)), 1.6)
    labels = ndimage.label(np.pad(noise > np.quantile(noise, 0.6), 1))[0]
    mask = ndimage.binary_fill_holes(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))
    affine = from_matvec(grid, [4.0, -7.0, 2.0])
    axis = slice_axis(affine)
    plane = [a for a in range(3) if a != axis]
    reference = brute_force(mask, np.linalg.qr(affine[:3, plane])[1])
    found = diameters(np.argwhere(np.expand_dims(mask, axis)) + 5 * np.eye(3, dtype=int)[axis], affine)
    voxel = np.linalg.norm(affine[:3, plane], axis=0).max()
    assert found.longest_mm == pytest.approx(reference[0], abs=voxel)
    assert found.perpendicular_mm == pytest.approx(reference[1], abs=voxel)
    assert (found.axis, found.slice) == (axis, 5)
    assert all(end[axis] == 5 for end in found.ends)


def test_a_ring_is_measured_from_rim_to_rim_and_a_bay_is_not_crossed():
    x, y = np.meshgrid(np.arange(21) - 10, np.arange(21) - 10, indexing="ij")
    ring = (np.hypot(x, y) < 9) & (np.hypot(x, y) > 6)
    rim = diameters(np.argwhere(ring[..., None]), np.diag([1, 1, 5.0, 1]))
    assert rim.longest_mm == pytest.approx(18, abs=1)
    assert rim.perpendicular_mm == pytest.approx(18, abs=1)
    horseshoe = ring & ~((np.abs(y) < 3) & (x > 0))
    assert diameters(np.argwhere(horseshoe[..., None]), np.diag([1, 1, 5.0, 1])).longest_mm < 15


def test_the_slice_is_the_one_with_the_largest_product():
    lesion = np.zeros((20, 20, 3), bool)
    lesion[2:18, 2, 0] = True  # long, but thin
    lesion[3:13, 2:12, 1] = True
    found = diameters(np.argwhere(lesion), np.diag([1, 1, 3.0, 1]))
    assert (found.axis, found.slice) == (2, 1)


def test_one_voxel_has_diameters_of_about_its_size_and_nothing_has_none():
    found = diameters(np.array([[4, 5, 6]]), np.eye(4))
    assert 1 <= found.perpendicular_mm <= found.longest_mm <= 1.5
    assert diameters(np.empty((0, 3), int), np.eye(4)) is None


def test_the_deepest_point_is_in_the_largest_component_far_from_its_surface():
    where = np.zeros((30, 30, 12), bool)
    where[2:15, 3:16, 2:9] = True
    where[20:23, 20:23, 3:6] = True
    assert deepest_point(where, np.diag([1, 1, 2.0, 1])) == (8, 9, 5)
    assert deepest_point(np.zeros((3, 3, 3), bool), np.eye(4)) is None
    assert [len(part) for part in components(where)] == [13 * 13 * 7, 27]
