import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_passion.transforms import LabelsToRegions, LabelsToRegionsd

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
