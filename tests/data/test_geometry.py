"""Volumes brought onto another grid."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_passion.data.geometry import bring_onto, choose_reference
from monai_passion.data.nifti import Volume

SPACING = np.array([1.0, 1.0, 10.0])


def volume(offset=(0.0, 0.0, 0.0), shape=(6, 5, 4)):
    data = np.random.default_rng(0).uniform(100, 200, shape).astype(np.float32)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = np.array(offset) * SPACING
    return Volume(data, affine, Path("x.nii.gz"), ())


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("part", [-0.4, -0.002, 0.002, 0.4])
def test_outer_voxels_reach_half_a_voxel_beyond_their_middles(axis, part):
    offset = np.zeros(3)
    offset[axis] = part
    given = volume(offset)
    moved = bring_onto(given, volume()).data
    assert (moved > 0).all()
    assert np.abs(moved - given.data).max() < 101 * abs(part)
    ends = [np.take(x, 0 if part > 0 else -1, axis) for x in (moved, given.data)]
    np.testing.assert_allclose(*ends, rtol=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_nothing_is_shown_further_out(axis):
    offset = np.zeros(3)
    offset[axis] = 0.6
    moved = np.moveaxis(bring_onto(volume(offset), volume()).data, axis, 0)
    assert (moved[0] == 0).all()
    assert (moved[1:] > 0).all()


def test_where_an_image_is_0_rounding_leaves_nothing_of_what_is_beside_it():
    given = volume(shape=(30, 30, 30))
    given.data[:10] = given.data[20:] = 0
    given.data[12, 12, 12] = 1e-30  # stands for a 0 that says something
    turned = given._replace(affine=nib.affines.from_matvec(np.diag(SPACING) * 0.1, [3.3, 1.1, 7.7]) @ given.affine)
    moved = bring_onto(given._replace(affine=given.affine + 0), given._replace(affine=given.affine)).data
    assert np.array_equal(moved, given.data)
    grid = turned._replace(affine=turned.affine @ np.diag([1, 1, 1, 1.0]))
    shifted = grid.affine.copy()
    shifted[:3, 3] += shifted[:3, 0] * 7  # by whole voxels
    moved = bring_onto(turned, turned._replace(affine=shifted)).data
    assert not moved[:3].any()
    assert not moved[13:].any()
    assert (moved[3:13] != 0).all()


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ({"flair": (0.4, 0.4, 6.0), "t1c": (1, 1, 1), "t1": (1, 1, 1)}, "t1c"),  # 0.96 and 1 mm3
        ({"flair": (0.9, 0.9, 5), "t2": (0.45, 0.45, 5)}, "t2"),
        ({"flair": (1, 1, 1), "t1c": (0.5, 0.5, 0.5)}, "t1c"),
        ({"flair": (2, 2, 2), "t1c": (1.5, 1.5, 4)}, "flair"),
        ({"flair": (1, 1, 1), "t1c": (1, 1, 1)}, "flair"),
    ],
)
def test_the_reference_is_not_the_one_with_thick_slices(sizes, chosen):
    volumes = {}
    for m, edges in sizes.items():
        shape = [round(48 / edge) for edge in edges]
        volumes[m] = Volume(np.ones(shape, np.float32), np.diag([*edges, 1.0]), None, ())
    assert choose_reference(volumes) == chosen
