import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_passion.errors import UsageError, WeightsError
from monai_passion.transforms import (
    ProbabilitiesToLabels,
    ProbabilitiesToLabelsd,
    largest_expected_dice,
    most_probable_class,
)

REGIONS = {"wt": [1, 2, 3], "tc": [1, 3], "et": [3]}


def test_the_most_probable_class_is_the_first_of_equal_ones():
    probability = torch.rand(5, 4, 3, 2).mul(4).round()  # which has many ties
    expected = torch.from_numpy(probability.numpy().argmax(0))
    assert torch.equal(most_probable_class(probability).long(), expected)
    pred = MetaTensor(probability, affine=np.diag([2.0, 2, 2, 1]))
    item = ProbabilitiesToLabelsd("pred", REGIONS)({"pred": pred, "other": 1})
    assert torch.equal(item["pred"].as_tensor().long(), expected[None])
    assert torch.equal(item["pred"].affine, pred.affine)
    assert item["other"] == 1


def column(*voxels):
    """(K, voxels): the probabilities of each voxel's classes, background for what is missing to 1."""
    given = torch.tensor(voxels, dtype=torch.float32).T
    return torch.cat([1 - given.sum(0, keepdim=True), given])


def within(*shares):
    """Voxels that are surely of a region, and with these probabilities of the one within it, class 1."""
    return column(*([share, 1 - share] for share in shares))


NESTED = [[1, 2], [1]]


def test_a_region_within_another_goes_on_as_long_as_its_expected_dice_grows():
    # 2 * sum / (number + 1.95): 0.63 with one voxel, 0.80 with two, 0.78 with three, 0.66 with all four
    probability = within(0.93, 0.65, 0.36, 0.01)
    assert most_probable_class(probability).tolist() == [1, 1, 2, 2]
    assert largest_expected_dice(probability, NESTED).tolist() == [1, 1, 2, 2]
    # of 0.6, 0.45, 0.4 and 0.05: 0.48, 0.60, 0.64, 0.55
    probability = within(0.6, 0.45, 0.4, 0.05)
    assert most_probable_class(probability).tolist() == [1, 2, 2, 2]
    assert largest_expected_dice(probability, NESTED).tolist() == [1, 1, 1, 2]


def test_an_outermost_region_is_where_it_is_more_probable_than_not():
    probability = column([0.6], [0.45], [0.4], [0.05])
    assert largest_expected_dice(probability, [[1]]).tolist() == [1, 0, 0, 0]
    probability = column([0.3, 0.25], [0.3, 0.15], [0.2, 0.31])
    assert most_probable_class(probability).tolist() == [0, 0, 0]
    assert largest_expected_dice(probability, [[1, 2]]).tolist() == [1, 0, 2]


def test_the_expected_dice_is_the_largest_of_all_regions_that_there_can_be():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        share = torch.rand(8, generator=generator).mul(1000).floor().add(0.5) / 1000  # within the steps
        share[0] = 0.7  # one voxel is more probable than not
        masks = torch.tensor(list(itertools.product([False, True], repeat=8)))
        expected = 2 * (masks * share).sum(1) / (masks.sum(1) + share.sum())
        found = largest_expected_dice(within(*share.tolist()), NESTED)
        assert torch.equal(found == 1, masks[expected.argmax()])


def test_where_all_are_sure_both_decisions_are_the_same():
    labels = torch.randint(0, 4, (6, 5, 4), generator=torch.Generator().manual_seed(0))
    probability = 0.01 + 0.96 * torch.nn.functional.one_hot(labels, 4).movedim(-1, 0)
    assert torch.equal(largest_expected_dice(probability, REGIONS.values()).long(), labels)


def test_regions_are_nested_and_what_is_shown_lies_in_the_larger_one():
    # edema, core and enhancing compete; together they are surely tumor
    probability = column([0.3, 0.3, 0.3], [0.1, 0.6, 0.25], [0.05, 0.05, 0.9], [0.0, 0.2, 0.1])
    assert most_probable_class(probability).tolist() == [1, 2, 3, 0]
    assert largest_expected_dice(probability, REGIONS.values()).tolist() == [1, 2, 3, 0]
    # the core is more probable than edema by its two classes together, of which neither is
    probability = column([0.3, 0.4, 0.3], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8])
    assert most_probable_class(probability).tolist() == [2, 1, 3]
    assert largest_expected_dice(probability, REGIONS.values()).tolist() == [1, 1, 3]


def test_a_region_that_is_the_most_probable_class_nowhere_is_left_out():
    probability = column([0.3, 0.4, 0.3], [0.2, 0.5, 0.3])
    assert largest_expected_dice(probability, REGIONS.values()).tolist() == [2, 2]
    assert largest_expected_dice(column([0.4, 0.05, 0.05]), REGIONS.values()).tolist() == [0]


def test_a_class_in_no_region_is_one_of_its_own():
    probability = column([0.9, 0.0], [0.0, 0.6], [0.0, 0.4], [0.0, 0.01])
    assert largest_expected_dice(probability, [[1]]).tolist() == [1, 2, 0, 0]


def test_of_outermost_regions_the_most_probable_is_taken():
    probability = column([0.9, 0.1], [0.45, 0.55], [0.25, 0.35], [0.1, 0.3])
    assert largest_expected_dice(probability, [[1], [2]]).tolist() == [1, 2, 2, 0]
    with_parent = largest_expected_dice(column([0.9, 0.1], [0.45, 0.55], [0.2, 0.31]), [[1], [2], [1, 2]])
    assert with_parent.tolist() == [1, 2, 2]  # the parent has no class of its own


@pytest.mark.parametrize(
    ("voxels", "regions", "expected"),
    [
        # none of the three classes of the region is the most probable one; a voxel elsewhere is of another region
        ([[0.25, 0, 0, 0.2, 0.15], [0, 1, 0, 0, 0]], [[2], [3], [1, 4, 5]], [1, 2]),
        ([[0.25, 0, 0, 0.2, 0.15]], [[2], [3], [1, 4, 5]], [1]),
        ([[0.35, 0.25], [0, 1]], [[1], [2]], [1, 2]),
        ([[0.3, 0.31]], [[1, 2], [1], [2]], [2]),  # regions that leave nothing of the one they lie in
        ([[0.2, 0.2, 0.2]], [[1, 2, 3], [1, 3], [3]], [2]),
    ],
)
def test_a_region_that_is_more_probable_than_not_is_there_though_none_of_its_classes_is(voxels, regions, expected):
    assert largest_expected_dice(column(*voxels), regions).tolist() == expected


def test_regions_that_overlap_otherwise_and_decisions_that_there_are_not_are_refused():
    overlapping = {"one": [1, 2], "other": [2, 3]}
    with pytest.raises(UsageError, match=r"classes \[1, 2\] and \[2, 3\] overlap.*give the decision most_probable"):
        largest_expected_dice(torch.rand(4, 3), overlapping.values())
    with pytest.raises(UsageError, match="overlap"):  # before an image is segmented
        ProbabilitiesToLabels(overlapping, "expected_dice")
    ProbabilitiesToLabels(overlapping, "most_probable")
    with pytest.raises(ValueError, match="decision 'best' is not one of most_probable, expected_dice"):
        ProbabilitiesToLabels(REGIONS, "best")


@pytest.mark.parametrize("decision", ["most_probable", "expected_dice"])
def test_probabilities_that_are_no_numbers_are_no_background(decision):
    with pytest.raises(WeightsError, match="not numbers"):
        ProbabilitiesToLabels(REGIONS, decision)(torch.full((4, 2, 2, 2), torch.nan))


def test_the_dictionary_version_decides_by_the_regions():
    pred = MetaTensor(column([0.3, 0.4, 0.3], [0.8, 0.1, 0.1])[..., None, None], affine=np.diag([2.0, 2, 2, 1]))
    item = ProbabilitiesToLabelsd("pred", REGIONS, "expected_dice")({"pred": pred, "other": 1})
    assert item["pred"].shape == (1, 2, 1, 1)
    assert item["pred"].flatten().tolist() == [1, 1]
    assert torch.equal(item["pred"].affine, pred.affine)
