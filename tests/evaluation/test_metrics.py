import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_surface_dice
from scipy import ndimage
from scipy.spatial.distance import cdist

from monai_passion.evaluation.metrics import (
    BRATS_REGIONS,
    CHALLENGE,
    COLUMNS,
    MYOPS_REGIONS,
    RELEASED,
    Convention,
    calibration_error,
    score_case,
    score_region,
    score_slices,
    surface_distances,
)

SPACINGS = {2: (0.7, 1.9), 3: (0.7, 1.0, 2.5)}


def blobs(shape, seed):
    """Two overlapping random shapes that also touch the edge of the image."""
    noise = np.random.default_rng(seed).normal(size=(2, *shape))
    return [ndimage.gaussian_filter(0.5 * noise[0] + one, 1.5) > 0.02 for one in noise]


def brute_force(pred, true, spacing):
    """All pairs of border voxels, found by looking at each voxel's neighbors in the whole image."""

    def border(region):
        padded = np.pad(region, 1)
        inside = np.logical_and.reduce(
            [np.roll(padded, shift, axis) for axis in range(region.ndim) for shift in (1, -1)]
        )
        return np.argwhere(padded & ~inside) * spacing

    pairs = cdist(border(pred), border(true))
    return np.concatenate([pairs.min(1), pairs.min(0)])


@pytest.mark.parametrize("shape", [(17, 14), (11, 12, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_surface_distances_equal_brute_force(shape, seed):
    pred, true = blobs(shape, seed)
    spacing = SPACINGS[len(shape)]
    np.testing.assert_allclose(surface_distances(pred, true, spacing), brute_force(pred, true, spacing), rtol=1e-12)


def test_calibration_error_by_hand():
    # Of four voxels at 0.25 one belongs to the region, which is right; of two at 0.85 one, of four at 1 three.
    probability = np.array([0.25] * 4 + [0.85] * 2 + [1.0] * 4)
    true = np.array([1, 0, 0, 0, 1, 0, 1, 1, 1, 0], bool)
    assert calibration_error(probability, true) == pytest.approx(0.2 * 0.35 + 0.4 * 0.25)
    # In one bin only the means count: 6.7 expected, 5 found.
    assert calibration_error(probability, true, bins=1) == pytest.approx((4 * 0.25 + 2 * 0.85 + 4 - 5) / 10)


def test_calibration_of_a_region_sums_its_classes():
    true = np.array([[0, 1], [3, 2]])
    probability = np.array(
        [[[0.5, 0.0], [0.0, 0.0]], [[0.25, 0.5], [0.5, 0.0]], [[0.0, 0.0], [0.0, 1.0]], [[0.25, 0.5], [0.5, 0.0]]]
    )
    found = {
        row["region"]: row["ece"]
        for row in score_case(true, true, BRATS_REGIONS, case="p", combination="t1", probability=probability)
    }
    # 0.5 for the background voxel, 1 for the others; TC: that of class 2 has 0; ET: 0.25, 0.5, 0, 0.5 for 0, 0, 0, 1.
    assert found == {"WT": pytest.approx(0.5 / 4), "TC": pytest.approx(0.5 / 4), "ET": pytest.approx(0.25 / 4)}
    volumes = score_slices(
        *[true[..., None]] * 2, BRATS_REGIONS, patient="p", combination="t1", probability=probability[..., None]
    )
    assert [row["ece"] for row in volumes[::2]] == list(found.values())


@pytest.mark.parametrize("shape", [(17, 14), (11, 12, 9)])
def test_every_score_equals_its_definition(shape):
    pred, true = blobs(shape, 7)
    distances = brute_force(pred, true, SPACINGS[len(shape)])
    score = score_region(pred, true, SPACINGS[len(shape)], tolerance=1.5)
    assert score.dice == pytest.approx(2 * (pred & true).sum() / (pred.sum() + true.sum()))
    assert score.hd95 == pytest.approx(np.percentile(distances, 95))
    assert score.assd == pytest.approx(distances.mean())
    assert score.nsd == pytest.approx((distances <= 1.5).mean())
    assert (score.predicted, score.reference) == (pred.sum(), true.sum())


@pytest.mark.parametrize("shape", [(17, 14), (11, 12, 9)])
def test_assd_and_nsd_equal_monai(shape):
    pred, true = blobs(shape, 3)
    spacing = SPACINGS[len(shape)]
    one_hot = [torch.from_numpy(region)[None, None].float() for region in (pred, true)]
    score = score_region(pred, true, spacing, tolerance=1.2)
    assd = compute_average_surface_distance(*one_hot, include_background=True, symmetric=True, spacing=spacing)
    nsd = compute_surface_dice(*one_hot, class_thresholds=[1.2], include_background=True, spacing=spacing)
    assert score.assd == pytest.approx(assd.item(), rel=1e-6)
    assert score.nsd == pytest.approx(nsd.item(), rel=1e-6)


@pytest.mark.parametrize("margin", [0, 1, 4])
def test_background_around_the_regions_changes_nothing(margin):
    """The crop to the bounding box is exact, whether or not a region touches the edge of the image."""
    pred, true = blobs((11, 12, 9), 1)
    assert pred[0].any()
    assert true[-1].any()
    padded = [np.pad(region, margin) for region in (pred, true)]
    np.testing.assert_array_equal(surface_distances(*padded, SPACINGS[3]), surface_distances(pred, true, SPACINGS[3]))


def test_distances_scale_with_the_spacing_and_ratios_do_not():
    pred, true = blobs((11, 12, 9), 2)
    one, three = (score_region(pred, true, (mm,) * 3, tolerance=mm) for mm in (1.0, 3.0))
    assert (three.hd95, three.assd) == pytest.approx((3 * one.hd95, 3 * one.assd))
    assert (three.dice, three.nsd) == (one.dice, one.nsd)


def test_a_size_in_single_precision_puts_no_voxel_beyond_the_tolerance():
    true = np.zeros((12, 12, 12), bool)
    true[3:9, 3:9, 3:9] = True
    assert score_region(np.roll(true, 1, axis=0), true, (1 + 6e-8, 1, 1)).nsd == 1
    assert score_region(np.roll(true, 1, axis=0), true, (1.001, 1, 1)).nsd < 0.8


def test_spacing_belongs_to_its_axis():
    pred, true = np.zeros((2, 9, 9), bool)
    pred[1, 4] = true[5, 4] = True
    assert score_region(pred, true, (3.0, 0.5)).hd95 == 12.0
    assert score_region(pred.T, true.T, (3.0, 0.5)).hd95 == 2.0


def test_brats_image_costs_373_mm_for_a_missed_region():
    region = np.zeros((240, 240, 155), bool)
    region[100:120, 90:100, 70] = True
    for pair in ((region, ~region & False), (~region & False, region)):
        score = score_region(*pair, (1, 1, 1))
        assert score[:4] == pytest.approx((0, 373.13, 373.13, 0), abs=0.005)


@pytest.mark.parametrize(("convention", "missed"), [(CHALLENGE, math.hypot(2, 6)), (RELEASED, 1.0)])
def test_empty_regions(convention, missed):
    empty, some = np.zeros((4, 3), bool), np.eye(4, 3, dtype=bool)
    score = lambda *pair: score_region(*pair, (0.5, 2.0), convention=convention)[:4]  # noqa: E731
    assert score(empty, empty) == (1, 0, 0, 1)
    assert score(some, empty) == pytest.approx((0, missed, missed, 0), abs=1e-8)
    assert score(empty, some) == pytest.approx((0, missed, missed, 0), abs=1e-8)


def test_a_crop_can_cost_the_diagonal_of_its_image():
    labels = np.zeros((2, 8, 8, 8), np.uint8)
    labels[1, 2] = 3
    rows = score_case(*labels, BRATS_REGIONS, (1, 1, 1), case="a", combination="t1", diagonal=373.13)
    assert {row["hd95"] for row in rows if row["convention"] == "challenge"} == {373.13}
    assert {row["hd95"] for row in rows if row["convention"] == "released"} == {1.0}


def test_a_small_prediction_is_removed_by_the_volume_of_its_own_region():
    pred = np.zeros((10, 10, 10), np.uint8)
    pred[2:6, 2:6, 2:6] = 3  # 64 voxels of 2 mm^3
    for limit, kept in ((0.128, True), (0.13, False)):
        convention = Convention("some", missed_distance=5.0, min_ml={"ET": limit})
        rows = score_case(pred, pred, BRATS_REGIONS, (1, 1, 2), case="a", combination="t1", conventions=[convention])
        by_region = {row["region"]: row for row in rows}
        assert (by_region["ET"]["dice"] == 1.0) is kept
        assert by_region["ET"]["predicted_ml"] == pytest.approx(0.128 if kept else 0.0)
        assert by_region["ET"]["hd95"] == (0.0 if kept else 5.0)
        assert by_region["TC"]["dice"] == by_region["WT"]["dice"] == 1.0


def test_rows_have_the_columns_and_volumes():
    pred = np.zeros((8, 8, 8), np.uint8)
    pred[1:5, 1:5, 1:5] = 2
    true = np.where(pred, 1, 0)
    true[1] = 0
    rows = score_case(pred, true, BRATS_REGIONS, (1, 2, 5), case="a_1", patient="a", combination="t1+t2")
    assert [(row["region"], row["convention"]) for row in rows] == [
        (region, convention) for region in ("WT", "TC", "ET") for convention in ("challenge", "released")
    ]
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {(row["case"], row["patient"], row["combination"]) for row in rows} == {("a_1", "a", "t1+t2")}
    assert (rows[0]["predicted_ml"], rows[0]["reference_ml"]) == pytest.approx((0.64, 0.48))
    assert (rows[2]["predicted_ml"], rows[2]["reference_ml"]) == pytest.approx((0.0, 0.48))


def test_volumes_are_unknown_where_the_spacing_is():
    labels = np.ones((3, 3, 3), np.uint8)
    assert all(
        math.isnan(row["predicted_ml"]) for row in score_case(labels, labels, {"A": (1,)}, case="a", combination="t1")
    )


def test_slices_are_scored_in_two_dimensions():
    rng = np.random.default_rng(0)
    pred, true = rng.integers(0, 6, (2, 16, 15, 3))
    rows = score_slices(pred, true, MYOPS_REGIONS, (1.0, 2.0, 10.0), patient="p", combination="lge")
    alone = score_case(
        pred[..., 1], true[..., 1], MYOPS_REGIONS, (1.0, 2.0), case="p_1", patient="p", combination="lge"
    )
    middle = [row for row in rows if row["case"] == "p_1"]
    for row, expected in zip(middle, alone, strict=True):
        own = COLUMNS[: COLUMNS.index("predicted_ml")]
        assert [row[name] for name in own] == [expected[name] for name in own]
    assert {row["patient"] for row in rows} == {"p"}
    assert len({row["case"] for row in rows}) == 3
    assert middle[0]["predicted_ml"] == pytest.approx((pred[..., 1] == 2).sum() * 0.02)


@pytest.mark.parametrize(
    ("pred", "true", "spacing", "message"),
    [((3, 3), (3, 4), None, r"shape \(3, 3\).*\(3, 4\)"), ((3, 3), (3, 3), (1, 1, 1), "3 values for 2 axes")],
)
def test_wrong_sizes_are_refused(pred, true, spacing, message):
    with pytest.raises(ValueError, match=message):
        score_region(np.ones(pred, bool), np.ones(true, bool), spacing)


def released_rows(pred, true, regions, convention=RELEASED):
    return score_case(pred, true, regions, (1,) * pred.ndim, case="a", combination="t1", conventions=[convention])


def test_released_convention_reproduces_the_published_evaluation(small_golden):
    """Columns of the archive: WT, TC, ET, ET without predictions of fewer than 500 voxels."""
    numbers = np.load(small_golden / "evaluation.npz")
    raw = RELEASED._replace(min_ml={})
    for index, (pred, true) in enumerate(zip(numbers["brats_pred"], numbers["brats_gt"], strict=True)):
        rows = released_rows(pred, true, BRATS_REGIONS, raw) + released_rows(pred, true, {"ET": (3,)})
        np.testing.assert_allclose([row["dice"] for row in rows], numbers["brats_dice_eval"][index], rtol=1e-6)
        np.testing.assert_allclose([row["hd95"] for row in rows], numbers["brats_hd95"][index], rtol=1e-12)


def test_released_rule_for_a_batch_of_two_counts_more_voxels_than_ours(small_golden):
    """The published code adds up the voxels of a batch, so a small ET survives beside a large one; we count cases."""
    numbers = np.load(small_golden / "evaluation.npz")
    for row, index in enumerate((1, 0)):
        pred, true = numbers["brats_pred"][index], numbers["brats_gt"][index]
        *regions, kept_because_of_the_batch = numbers["brats_batch2_dice_eval"][row]
        ours = [r["dice"] for r in released_rows(pred, true, BRATS_REGIONS, RELEASED._replace(min_ml={}))]
        np.testing.assert_allclose(ours, regions, rtol=1e-6)
        np.testing.assert_allclose(ours[2], kept_because_of_the_batch, rtol=1e-6)
    small = released_rows(numbers["brats_pred"][1], numbers["brats_gt"][1], {"ET": (3,)})[0]["dice"]
    assert small < 1e-8 < numbers["brats_batch2_dice_eval"][0, 3]


def test_published_slices_are_reproduced_as_flat_volumes_and_differ_in_two_dimensions(golden):
    numbers = np.load(golden / "golden_myops2d.npz")
    for pred, true, dice, hd95 in zip(
        numbers["eval_pred"], numbers["eval_gt"], numbers["eval_dice"], numbers["eval_hd95"], strict=True
    ):
        flat = released_rows(pred, true, MYOPS_REGIONS)
        np.testing.assert_allclose([row["dice"] for row in flat], dice, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose([row["hd95"] for row in flat], hd95, rtol=1e-12)
    pred, true = numbers["eval_pred"][0, ..., 0], numbers["eval_gt"][0, ..., 0]
    assert [row["hd95"] for row in released_rows(pred, true, MYOPS_REGIONS)] > list(numbers["eval_hd95"][0])


@pytest.mark.parametrize(("spacing", "kept"), [(None, 500), ((1.0, 1.0, 1.0), 500), ((2.0, 2.0, 2.0), 63)])
def test_the_released_rule_for_a_small_enhancing_tumor_is_by_volume(spacing, kept):
    true = np.full((8, 8, 8), 3)
    for voxels, dice in ((kept - 1, 0.0), (kept, 2 * kept / (kept + 512))):
        pred = np.where(np.arange(512).reshape(8, 8, 8) < voxels, 3, 0)
        rows = score_case(pred, true, {"ET": (3,)}, spacing, case="a", combination="t1", conventions=(RELEASED,))
        assert rows[0]["dice"] == pytest.approx(dice, abs=1e-6)
