"""`Spacingd` and its way back against MONAI's own."""

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_passion.transforms import Spacingd, interpolate_axes

OBLIQUE = np.array([[1.1, 0.2, -0.1, 5.0], [-0.2, 0.9, 0.3, -7.0], [0.1, -0.3, 2.1, 11.0], [0, 0, 0, 1]])
"""Its columns are not quite at right angles, which `Spacingd` straightens."""
ROTATION = np.array([[0.8, -0.6, 0, 3.0], [0.6, 0.8, 0, -4.0], [0, 0, 1, 5.0], [0, 0, 0, 1]])
AFFINES = {
    "straight": np.eye(4),
    "flipped": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "thick slices": np.diag([0.6, 0.6, 5.5, 1.0]),
    "turned": ROTATION @ np.diag([0.7, 1.3, 3.0, 1.0]),
    "sheared": OBLIQUE,
}


def back(transform, affine, shape=(13, 20, 9), channels=3, mode=None):
    """Random values on the grid that ``transform`` makes, brought back."""
    image = MetaTensor(torch.rand(1, *shape), affine=affine)
    made = transform({"image": image})["image"]
    values = torch.rand(channels, *made.shape[1:], generator=torch.Generator().manual_seed(0))
    there = MetaTensor(values, affine=made.affine, applied_operations=made.applied_operations)
    return transform.inverse({"image": there})["image"]


@pytest.mark.parametrize("pixdim", [(2, 2, 2), (1, 1, 1), (0.5, 3, -1)])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_values_and_grid_are_those_of_monai(affine, pixdim):
    ours, theirs = (back(kind("image", pixdim), affine) for kind in (Spacingd, mt.Spacingd))
    assert ours.shape == theirs.shape == (3, 13, 20, 9)
    torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor(), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.affine, theirs.affine)
    assert ours.applied_operations == theirs.applied_operations == []
    assert ours.dtype == theirs.dtype == torch.float32


@pytest.mark.parametrize("pixdim", [(2, 2, 2), (1, 1, 1), (0.5, 3, -1)])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_resampled_values_are_those_of_monai(affine, pixdim):
    image = MetaTensor(torch.rand(2, 13, 20, 9), affine=affine)
    ours, theirs = (kind("image", pixdim)({"image": image})["image"] for kind in (Spacingd, mt.Spacingd))
    torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor(), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.affine, theirs.affine)
    assert (ours.dtype, len(ours.applied_operations)) == (theirs.dtype, len(theirs.applied_operations))


@pytest.mark.parametrize("turn", ["straight", "flipped", "turned"])
def test_where_the_image_is_0_nothing_is_left_of_what_is_beside_it(turn):
    """MONAI's leaves values down to 1e-42 in up to a voxel around the head, which then count as head."""
    head = torch.zeros(1, 60, 60, 60)
    head[:, 20:41, 20:41, 20:41] = 100 + torch.rand(21, 21, 21)
    affine = torch.from_numpy(AFFINES[turn]).double()
    affine[:3, :3] /= affine[:3, :3].norm(dim=0)
    affine[:3, 3] = torch.tensor([120.3, -119.7, 0.1])
    ours, theirs = (kind("image", (2, 2, 2)) for kind in (Spacingd, mt.Spacingd))
    image = MetaTensor(head, affine=affine)
    found = ours({"image": image})["image"]
    assert found[found != 0].min() > 1
    assert theirs({"image": image})["image"].count_nonzero() >= found.count_nonzero() == 11**3


def test_labels_take_the_nearest_voxel():
    ours, theirs = (back(kind("image", (2, 2, 2), mode="nearest"), np.eye(4)) for kind in (Spacingd, mt.Spacingd))
    assert torch.equal(ours.as_tensor(), theirs.as_tensor())


def test_by_hand():
    image = torch.tensor([[[0.0, 10.0, 20.0]]])  # one channel, 1 x 3 voxels
    to_image = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, -0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert interpolate_axes(image, to_image, (1, 7))[0, 0].tolist() == [0, 0, 5, 10, 15, 20, 20]


def test_axes_that_are_not_parallel_are_refused():
    with pytest.raises(ValueError, match="not parallel"):
        interpolate_axes(torch.zeros(1, 4, 4, 4), torch.from_numpy(ROTATION), (4, 4, 4))


@pytest.mark.parametrize(("size", "same"), [(1.0, True), (0.91, True), (1.09, True), (1.2, False), (0.5, False)])
def test_what_is_near_enough_is_left_alone_and_comes_back_as_it_was(size, same):
    transform = Spacingd("image", (1, 1, -1), tolerance=0.1)
    image = MetaTensor(torch.rand(2, 8, 8, 3), affine=torch.diag(torch.tensor([size, size, 9.0, 1.0])))
    made = transform({"image": image})["image"]
    assert (made.shape == image.shape and torch.equal(made, image)) == same
    assert made.shape[-1] == 3
    assert back(transform, image.affine, (8, 8, 3)).shape == (3, 8, 8, 3)
    assert torch.equal(transform.inverse({"image": image})["image"], image)
