import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_passion.transforms import LabelsToRegions, LabelsToRegionsd, ReplaceSmalld

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
