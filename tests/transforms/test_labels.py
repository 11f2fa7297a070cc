import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_passion.transforms import LabelsToRegions, LabelsToRegionsd, ReplaceDimd, ReplaceSmalld

REGIONS = {"wt": [1, 2, 4], "tc": [1, 4], "et": [4]}


def test_a_region_is_the_union_of_its_labels():
    label = torch.tensor([[[0, 1], [2, 4]]], dtype=torch.float32)
    regions = LabelsToRegions(REGIONS)(label)
    assert regions.dtype == torch.float32
    assert regions.tolist() == [[[0, 1], [1, 1]], [[0, 1], [0, 1]], [[0, 0], [0, 1]]]


def test_the_affine_comes_along():
    label = MetaTensor(torch.zeros(1, 2, 2, 2), affine=np.diag([1, 2, 3, 1]))
    item = LabelsToRegionsd("label", REGIONS)({"label": label})
    assert item["label"].shape == (3, 2, 2, 2)
    assert torch.equal(item["label"].affine, label.affine)


def test_a_one_hot_label_is_refused():
    with pytest.raises(ValueError, match="4 channels"):
        LabelsToRegions(REGIONS)(torch.zeros(4, 2, 2))


@pytest.mark.parametrize(
    ("spacing", "minimum", "replaced"), [(1, 0.05, False), (1, 0.08, True), (2, 0.08, False), (1, 0, False)]
)
def test_a_label_of_too_small_a_volume_is_replaced(spacing, minimum, replaced):
    labels = MetaTensor(torch.zeros(1, 8, 8, 8), affine=np.diag([spacing] * 3 + [1.0]))
    labels[0, :4, :4, :4] = 3  # 64 voxels
    labels[0, 6] = 2
    result = ReplaceSmalld("pred", 3, 1, minimum)({"pred": labels})["pred"]
    assert int((labels == 3).sum()) == 64
    assert int((result == (1 if replaced else 3)).sum()) == 64
    assert torch.equal(result == 2, labels == 2)


@pytest.mark.parametrize(("others", "replaced"), [(255, False), (256, False), (257, True)])
def test_a_label_of_too_small_a_share_is_replaced(others, replaced):
    labels = torch.zeros(1, 16, 16, 16)
    labels.view(-1)[:64] = 3
    labels.view(-1)[64 : 64 + others] = 1
    labels.view(-1)[-500:] = 2  # edema does not count
    result = ReplaceSmalld("pred", 3, 1, minimum_ml=0, minimum_share=0.2)({"pred": labels})["pred"]
    assert int((result == 3).sum()) == (0 if replaced else 64)
    assert int((result == 1).sum()) == others + (64 if replaced else 0)


def bright(values, absent=False):
    """Probabilities of 4 classes, class 3 in the first four of six voxels, and an image with ``values`` there."""
    pred = torch.full((4, 6, 1, 1), 0.1)
    pred[3, :4], pred[2, 4:], pred[2, :4] = 0.4, 0.7, 0.3
    image = torch.zeros(2, 6, 1, 1)
    image[0] = 5.0
    if not absent:
        image[1, :, 0, 0] = torch.tensor([*values, -1.0, -1.0])
    return {"pred": pred, "image": image}


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.1, 0.2, 0.4, 2.0], [False, False, False, True]),  # the median is low: the bright voxel stays
        ([0.1, 0.7, 0.9, 2.0], [True, True, True, True]),  # as it should be, whatever the first is
        ([0.1, 0.1, 0.1, 0.1], [False] * 4),
    ],
)
def test_where_the_median_is_dim_only_bright_voxels_keep_their_class(values, kept):
    item = bright(values)
    before = item["pred"].clone()
    result = ReplaceDimd("pred", 3, 1, 1, 0.6, 1.3)(item)["pred"].argmax(0).flatten()
    assert result.tolist() == [*(3 if keep else 1 for keep in kept), 2, 2]
    assert torch.equal(item["pred"], before)


@pytest.mark.parametrize("limits", [(None, 1.3), (0.6, None), (None, None)])
def test_without_limits_or_without_the_image_no_class_is_dim(limits):
    item = bright([0.1] * 4)
    assert ReplaceDimd("pred", 3, 1, 1, *limits)(item)["pred"] is item["pred"]
    item = bright([0.1] * 4, absent=True)
    assert ReplaceDimd("pred", 3, 1, 1, 0.6, 1.3)(item)["pred"] is item["pred"]
