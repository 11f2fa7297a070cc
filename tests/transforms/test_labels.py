import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_passion.transforms import ReplaceDoubtfuld


def probabilities(labels):
    """(K, *spatial) of 0.7 for each voxel's class and 0.1 for the others."""
    return 0.1 + 0.6 * torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 0)


@pytest.mark.parametrize(
    ("spacing", "minimum", "replaced"), [(1, 0.05, False), (1, 0.08, True), (2, 0.08, False), (1, 0, False)]
)
def test_a_label_of_too_small_a_volume_is_replaced(spacing, minimum, replaced):
    labels = torch.zeros(8, 8, 8)
    labels[:4, :4, :4] = 3  # 64 voxels
    labels[6] = 2
    pred = probabilities(labels)
    image = MetaTensor(torch.ones(1, 8, 8, 8), affine=np.diag([spacing] * 3 + [1.0]))
    refined = ReplaceDoubtfuld("pred", 3, 1, minimum)({"pred": pred, "image": image})["pred"]
    result = refined.argmax(0)
    assert int((result == (1 if replaced else 3)).sum()) == 64
    assert torch.equal(result == 2, labels == 2)
    assert torch.equal(pred, probabilities(labels))
    torch.testing.assert_close(refined.sum(0), pred.sum(0))
    assert bool(refined[3].any()) is not replaced


@pytest.mark.parametrize(("others", "replaced"), [(255, False), (256, False), (257, True)])
def test_a_label_of_too_small_a_share_is_replaced(others, replaced):
    labels = torch.zeros(16, 16, 16)
    labels.view(-1)[:64] = 3
    labels.view(-1)[64 : 64 + others] = 1
    labels.view(-1)[-500:] = 2  # edema does not count
    item = {"pred": probabilities(labels), "image": torch.ones(1, 16, 16, 16)}
    result = ReplaceDoubtfuld("pred", 3, 1, minimum_share=0.2)(item)["pred"].argmax(0)
    assert int((result == 3).sum()) == (0 if replaced else 64)
    assert int((result == 1).sum()) == others + (64 if replaced else 0)


def bright(values, absent=False):
    """Probabilities of 4 classes, class 3 in the first four of six voxels, and an image with ``values`` there."""
    pred = torch.full((4, 6, 1, 1), 0.1)
    pred[3, :4], pred[2, 4:], pred[2, :4] = 0.4, 0.7, 0.3  # by the sum of two, class 1 comes before class 2
    image = torch.zeros(2, 6, 1, 1)
    image[0] = 5.0
    if not absent:
        image[1, :, 0, 0] = torch.tensor([*values, -1.0, -1.0])
    return {"pred": pred, "image": image}


@pytest.mark.parametrize(
    ("values", "minimum_ml", "kept"),
    [
        ([0.1, 0.2, 0.4, 2.0], 0, [False, False, False, True]),  # the median is low: the bright voxel stays
        ([0.1, 0.2, 0.4, 2.0], 0.002, [False] * 4),  # and is too little
        ([0.1, 0.7, 0.9, 2.0], 0, [True] * 4),  # as it should be, whatever the first is
        ([0.1, 0.1, 0.1, 0.1], 0, [False] * 4),
    ],
)
def test_where_the_median_is_dim_only_bright_voxels_keep_their_class(values, minimum_ml, kept):
    item = bright(values)
    rule = ReplaceDoubtfuld("pred", 3, 1, minimum_ml, channel=1, minimum_median=0.6, minimum_intensity=1.3)
    result = rule(item)["pred"].argmax(0).flatten()
    assert result.tolist() == [*(3 if keep else 1 for keep in kept), 2, 2]


def test_what_is_bright_may_be_a_smaller_share_than_what_was_found():
    item = bright([0.1, 0.2, 0.4, 2.0])
    rule = ReplaceDoubtfuld("pred", 3, 1, 0, 0.9, channel=1, minimum_median=0.6, minimum_intensity=1.3)
    assert rule(item)["pred"].argmax(0).flatten().tolist() == [1, 1, 1, 3, 2, 2]


def test_without_a_limit_or_without_the_image_no_class_is_dim():
    item = bright([0.1] * 4)
    assert ReplaceDoubtfuld("pred", 3, 1, channel=1)(item)["pred"] is item["pred"]
    item = bright([0.1] * 4, absent=True)
    rule = ReplaceDoubtfuld("pred", 3, 1, channel=1, minimum_median=0.6, minimum_intensity=1.3)
    assert rule(item)["pred"] is item["pred"]


def test_what_may_not_be_there_does_not_come_up_by_another_decision():
    item = bright([0.1, 0.2, 0.4, 2.0])
    dim = ReplaceDoubtfuld("pred", 3, 1, channel=1, minimum_median=0.6, minimum_intensity=1.3)(item)["pred"]
    assert dim[3].flatten().tolist() == [0, 0, 0, pytest.approx(0.4), 0, 0]
    item["pred"] = torch.tensor([0.5, 0.1, 0.1, 0.3])[:, None, None, None].expand(4, 6, 1, 1)
    nowhere = ReplaceDoubtfuld("pred", 3, 1, minimum_ml=0.001)(item)["pred"]
    torch.testing.assert_close(nowhere[:, 0, 0, 0], torch.tensor([0.8, 0.1, 0.1, 0.0]))
