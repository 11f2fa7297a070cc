import json

import nibabel as nib
import numpy as np
import pytest

from monai_passion.data.nifti import Volume
from monai_passion.prediction.expectation import (
    check_edges,
    check_expectation,
    check_measured,
    check_slices,
    check_spacing,
    check_training,
    expected_quality,
    find_summary,
)
from monai_passion.prediction.output.report import most_helpful
from monai_passion.system.files import sha256
from monai_passion.tasks import load_task
from tests.helpers.tasks import BRATS_MRI

BRAIN, HEART = load_task("brats_mri"), load_task("myops_cmr")


def test_a_summary_of_other_weights_is_passed_over(tmp_path):
    weights, summary = tmp_path / "model.pt", tmp_path / "summary.json"
    weights.write_bytes(b"these")
    for named, found in ((sha256(weights), summary), ("other", None), (None, summary)):
        summary.write_text(json.dumps({"weights_sha256": named, "results": []}))
        assert find_summary(weights) == found


def row(combination, region, mean, metric="dice", convention="challenge"):
    return {
        "convention": convention,
        "combination": combination,
        "region": region,
        "metric": metric,
        "mean": mean,
        "low": mean,
        "high": mean,
        "n": 50,
    }


def test_the_evaluation_of_the_weights_tells_what_to_expect_of_this_combination(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "eval").mkdir()
    assert find_summary(tmp_path / "models" / "model.pt") is None
    rows = [row("t1", "ET", 0.28), row("t1", "WT", 0.7), row("flair", "ET", 0.4), row("t1", "average", 0.1)]
    rows += [row("t1", "ET", 3.0, "hd95"), row("t1", "ET", 0.1, convention="released"), row("average", "ET", 0.2)]
    (tmp_path / "eval" / "summary.json").write_text(json.dumps({"results": rows}))
    summary = find_summary(tmp_path / "models" / "model.pt")
    quality = expected_quality(summary, BRAIN)["t1"]
    assert [(q["region"], q["dice"]) for q in quality] == [("ET", 0.28), ("WT", 0.7)]
    (finding,) = check_expectation(quality, ["t1"], BRAIN)
    assert finding.text.startswith("with T1 alone, enhancing tumor is unreliable: Dice 0.28")


@pytest.mark.parametrize("text", ["", "[]", '{"results": [{"metric": "dice"}]}', '{"results": 3}'])
def test_a_summary_that_is_none_tells_nothing(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    assert expected_quality(tmp_path / "summary.json", BRAIN) == {}
    (finding,) = check_expectation([], ["t1"], BRAIN)
    assert tuple(finding) == ("note", "expected quality unknown: evaluate these weights")


def test_the_sequence_that_helps_most_is_the_absent_one_with_the_largest_gain(tmp_path):
    rows = [row("t1", "ET", 0.31), row("t1", "WT", 0.7), row("flair+t1", "WT", 0.8), row("t1c+t1", "ET", 0.74)]
    rows += [row("t1+t2", "ET", 0.30), row("t1c", "ET", 0.9)]
    (tmp_path / "summary.json").write_text(json.dumps({"results": rows}))
    expected = expected_quality(tmp_path / "summary.json", BRAIN)
    best = most_helpful(expected, ["t1"], BRATS_MRI)
    assert best == {"modality": "t1c", "region": "ET", "now": 0.31, "then": 0.74}
    assert most_helpful(expected, BRATS_MRI, BRATS_MRI) is None


@pytest.mark.parametrize(
    ("rates", "used", "level", "said"),
    [
        ({"flair": 0.2, "t1": 1.0}, ["flair", "t1"], "warning", "had T1, so the network has not learned it"),
        ({"flair": 1.0, "t1": 1.0}, ["flair", "t1"], "unusable", "do not use this result"),
    ],
)
def test_a_modality_that_no_training_patient_had_is_doubted(rates, used, level, said):
    (finding,) = check_training({"missing_rates": rates}, used, BRAIN)
    assert finding.level == level
    assert said in finding.text


@pytest.mark.parametrize("facts", [{}, {"missing_rates": {"t1": 0.99, "flair": 1.0}}, {"missing_rates": [1.0]}])
def test_what_was_learned_or_is_not_known_of_a_training_is_not_doubted(facts):
    assert check_training(facts, ["t1"], BRAIN) == []


@pytest.mark.parametrize(
    ("sizes", "spacing", "doubted"),
    [
        ((0.9, 0.9, 5.5), [2.0, 2.0, 2.0], True),
        ((5.5, 0.9, 0.9), [2.0, 2.0, 2.0], True),
        ((1.0, 1.0, 3.0), [2.0, 2.0, 2.0], False),
        ((0.9, 0.9, 5.5), None, False),
        ((0.9, 0.9, 5.5), [-1, -1, -1], False),
    ],
)
def test_slices_much_farther_apart_than_in_the_training_are_doubted_whatever_their_axis(sizes, spacing, doubted):
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.3, 0.1) * sizes)
    found = check_spacing({"settings": {"spacing": spacing}} if spacing else {}, turned)
    assert [finding.level for finding in found] == ["warning"] * doubted
    assert all("5.5 mm" in finding.text and "2 mm" in finding.text for finding in found)


HEARTS = {"settings": {"crop_size": [8, 10], "coarsen": 2}}


def slices(shape, sizes):
    return Volume(np.ones(shape, np.float32), np.diag([*sizes, 1.0]), None, ())


def test_how_much_of_a_slice_is_looked_at_is_told():
    (found,) = check_slices(HEARTS, slices((40, 30, 5), (1.5, 1.0, 8.0)), HEART)
    assert found.level == "note"
    assert found.text.startswith("the middle 16 x 20 of 40 x 30 pixels, 24 x 20 mm, are looked at")
    assert check_slices(HEARTS, slices((16, 12, 5), (1.5, 1.0, 8.0)), HEART) == []
    assert check_slices(HEARTS, slices((40, 30, 5), (1.5, 1.0, 8.0)), BRAIN) == []


def test_of_a_slice_that_is_narrower_than_the_window_no_more_is_looked_at_than_there_is():
    (found,) = check_slices(HEARTS, slices((12, 30, 5), (1.5, 1.0, 8.0)), HEART)
    assert found.text.startswith("the middle 12 x 20 of 12 x 30 pixels, 18 x 20 mm")


def test_slices_along_another_axis_are_told():
    found = check_slices({}, slices((5, 40, 30), (8.0, 1.0, 1.5)), HEART)
    assert [finding.level for finding in found] == ["warning"]
    assert "store the images with the slices along the third axis" in found[0].text
    assert check_slices({}, slices((5, 40, 30), (1.2, 1.0, 1.1)), HEART) == []


@pytest.mark.parametrize(("x", "y", "told"), [(20, 15, 0), (12, 15, 1), (27, 15, 1), (20, 5, 1), (20, 24, 1)])
def test_a_heart_that_is_cut_off_is_told(x, y, told):
    labels = np.zeros((40, 30, 5), np.uint8)
    labels[x, y, 2] = 3
    assert len(check_edges(HEARTS, labels, np.eye(4))) == told
    assert check_edges({}, labels, np.eye(4)) == []
    assert check_edges(HEARTS, labels[12:28, 5:25], np.eye(4)) == []  # all of it is looked at


def test_pixels_of_another_size_than_in_the_training_are_told_and_counted():
    facts = {"settings": {**HEARTS["settings"], "pixel_size": 1.0}}
    assert check_slices(facts, slices((16, 20, 5), (1.09, 0.92, 8.0)), HEART) == []
    resampled, looked_at = check_slices(facts, slices((40, 40, 5), (2.0, 2.0, 8.0)), HEART)
    assert (resampled.level, looked_at.level) == ("note", "note")
    assert "pixels of 2.00 x 2.00 mm are resampled to 1.00 mm" in resampled.text
    assert looked_at.text.startswith("the middle 8 x 10 of 40 x 40 pixels, 16 x 20 mm")
    coarse, _ = check_slices(facts, slices((40, 40, 5), (3.2, 3.2, 8.0)), HEART)
    assert (coarse.level, "expect a lower Dice" in coarse.text) == ("warning", True)
    labels = np.zeros((40, 40, 5), np.uint8)
    labels[16, 20, 2] = 3
    assert len(check_edges(facts, labels, np.diag([2.0, 2.0, 8.0, 1.0]))) == 1


def test_a_dice_that_was_measured_with_other_settings_is_told(tmp_path):
    told = {"roi_size": [72, 88, 72], "overlap": 0.5, "decision": "expected_dice", "mirror_axes": [], "ensemble": []}
    (tmp_path / "summary.json").write_text(json.dumps(told))
    same = {**told, "roi_size": (72, 88, 72), "overlap": 0.25, "precision": "bf16"}
    assert check_measured(tmp_path / "summary.json", same) == []
    (note,) = check_measured(tmp_path / "summary.json", {**same, "decision": "most_probable", "mirror_axes": [0]})
    assert note.level == "note"
    assert 'mirror_axes [], here [0]; decision "expected_dice", here "most_probable"' in note.text
    (tmp_path / "summary.json").write_text("{}")
    assert check_measured(tmp_path / "summary.json", same) == []
    assert check_measured(tmp_path / "none.json", same) == []


def test_regions_that_the_bundle_does_not_have_tell_nothing(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(
        json.dumps({"results": [row("t1", "enhancing", 0.28), row("t1", "WT", 0.7), row("flair", "core", 0.4)]})
    )
    quality = expected_quality(path, BRAIN)
    assert {name: [q["region"] for q in rows] for name, rows in quality.items()} == {"t1": ["WT"]}
    assert check_expectation(quality["t1"], ["t1"], BRAIN) == []
