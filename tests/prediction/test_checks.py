import json

import nibabel as nib
import numpy as np
import pytest

from monai_passion.data.nifti import Volume
from monai_passion.data.phantom.brain import brain_case
from monai_passion.prediction.checks import (
    check_edges,
    check_expectation,
    check_images,
    check_measured,
    check_result,
    check_slices,
    check_spacing,
    check_training,
    expected_quality,
    far_parts,
    find_summary,
)
from monai_passion.prediction.output.report import most_helpful
from monai_passion.system.files import sha256
from monai_passion.tasks import load_task
from tests.helpers.tasks import BRATS_MRI

BRAIN, HEART = load_task("brats_mri"), load_task("myops_cmr")

SIGNAL = {  # fluid, gray and white matter
    "flair": (0.1, 0.7, 0.6),
    "t1c": (0.2, 0.6, 0.9),
    "t1": (0.2, 0.6, 0.9),
    "t2": (1.6, 0.6, 0.5),
}


def head(modality, radius=1.0, shift=0, seed=0):
    """A ball of fluid, gray and white matter, from the inside out 12, 40 and 48 % of it, in an empty box."""
    x, y, z = np.meshgrid(*(np.linspace(-1.3, 1.3, 28),) * 3, indexing="ij")
    r = np.sqrt((x - shift) ** 2 + y**2 + z**2) / radius
    fluid, gray, white = SIGNAL[modality]
    image = np.select([r < 0.5, r < 0.8, r < 1], [fluid, gray, white], 0)
    noise = np.random.default_rng(seed).normal(0, 0.03, r.shape)
    return Volume(np.where(r < 1, image + noise, 0).astype(np.float32), np.eye(4), None, ())


def texts(volumes, task=BRAIN):
    return [finding.text for finding in check_images(volumes, task)]


def test_good_images_raise_no_doubt():
    assert texts({m: head(m, seed=i) for i, m in enumerate(BRATS_MRI)}) == []


@pytest.mark.parametrize("other", ["flair", "t1", "t1c"])
def test_a_t2_given_as_another_sequence_is_noticed(other):
    found = texts({other: head("t2"), "t2": head(other, seed=1)})
    assert found == [f"{other} looks like T2 and t2 does not (fluid is bright in {other}); are the two files swapped?"]


def test_heads_that_do_not_lie_on_each_other_are_noticed():
    assert any("overlap by" in text for text in texts({"flair": head("flair"), "t1": head("t1", shift=0.4)}))
    assert texts({"flair": head("flair"), "t1": head("t1", shift=0.02)}) == []


@pytest.fixture(scope="module")
def phantom():
    pytest.importorskip("nilearn")
    case = brain_case(3, 0, 64)
    return {m: Volume(case.images[m], case.affine, None, ()) for m in BRATS_MRI}


@pytest.mark.parametrize(("axis", "sides"), enumerate(("left-right", "front-back", "upside down")))
def test_a_mirrored_sequence_is_noticed_and_named(phantom, axis, sides):
    assert texts(phantom) == []
    for m in ("flair", "t1c", "t2"):
        turned = {**phantom, m: phantom[m]._replace(data=np.flip(phantom[m].data, axis))}
        text = f"{m} fits the others better when mirrored {sides}; is its orientation wrong?"
        assert text in texts(turned)
        assert sum("mirrored" in found for found in texts(turned)) == 1


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("away", [2, 4, 8])
def test_a_sequence_that_lies_to_the_side_is_not_mirrored_but_not_in_its_place(phantom, axis, away):
    moved = texts({**phantom, "t1": phantom["t1"]._replace(data=np.roll(phantom["t1"].data, away, axis))})
    assert not any("mirrored" in text for text in moved)
    assert sum("are they co-registered?" in text for text in moved) == 3
    assert all("t1 " in text for text in moved)


def test_of_two_sequences_it_is_not_said_which_is_mirrored(phantom):
    two = {"t1": phantom["t1"], "t2": phantom["t2"]._replace(data=phantom["t2"].data[::-1])}
    (text,) = (text for text in texts(two) if "mirrored" in text)
    assert text == "t1 and t2 fit better when one is mirrored left-right; is the orientation of one of them wrong?"


def test_the_order_of_the_axes_in_the_file_does_not_matter(phantom):
    """Stored as (z, x, y): left-right is the second axis of the file."""
    order = [2, 0, 1]
    affine = phantom["t1"].affine @ np.eye(4)[:, [*order, 3]]
    turned = {m: Volume(v.data.transpose(order), affine, None, ()) for m, v in phantom.items()}
    assert texts(turned) == []
    turned["t1"] = turned["t1"]._replace(data=np.flip(turned["t1"].data, 1))
    assert [text for text in texts(turned) if "mirrored left-right" in text]


def test_a_skull_that_was_not_stripped_is_noticed_in_heads_only():
    full = {"t2": Volume(np.random.default_rng(0).random((28, 28, 28), dtype=np.float32) + 1, np.eye(4), None, ())}
    assert "skull" in texts(full)[0]
    assert texts(full, HEART) == []


def test_a_segmentation_outside_the_head_is_noticed():
    image = head("t1")
    labels = (image.data != 0).astype(np.uint8)
    labels[14:] = 0
    labels[:8] = 0
    assert check_result(labels, {"t1": image}) == []
    few, many = (check_result(labels, {"t1": image}, outside)[0] for outside in (1, 100))
    assert (few.level, many.level) == ("note", "warning")
    assert "100 voxels" in many.text


@pytest.mark.parametrize(("gap", "size", "number"), [(40, 2, 1), (10, 2, 0), (40, 10, 0)])
def test_a_small_part_far_from_the_rest_is_counted(gap, size, number):
    found = np.zeros((80, 40, 40), bool)
    found[2:14, 2:14, 2:14] = True
    found[14 + gap : 14 + gap + size, 2 : 2 + size, 2 : 2 + size] = True
    assert far_parts(found, np.ones(3)) == (number, pytest.approx(number * size**3 / 1000))
    assert far_parts(found, np.full(3, 0.5))[0] == 0


def test_nothing_segmented_has_no_parts():
    assert far_parts(np.zeros((4, 4, 4), bool), np.ones(3)) == (0, 0.0)


def test_a_summary_of_other_weights_is_passed_over(tmp_path):
    weights, summary = tmp_path / "model.pt", tmp_path / "summary.json"
    weights.write_bytes(b"these")
    for named, found in ((sha256(weights), summary), ("other", None), (None, summary)):
        summary.write_text(json.dumps({"weights_sha256": named, "results": []}))
        assert find_summary(weights) == found


@pytest.mark.parametrize(("part", "texts"), [(0.3, []), (0.5, ["50 % of what the images show is segmented"])])
def test_a_segmentation_that_fills_the_head_is_doubted(part, texts):
    image = Volume(np.ones((10, 10, 10), np.float32), np.eye(4), None, ())
    image.data[5:] = 0
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:5, :, : int(10 * part)] = 1
    findings = check_result(labels, {"t1": image, "t2": image})
    assert [finding.level for finding in findings] == ["unusable"] * len(texts)
    assert all(text in finding.text for text, finding in zip(texts, findings, strict=True))


def test_more_tumor_than_any_patient_has_is_not_to_be_used_in_a_brain_alone():
    """1.7 L, in a large image with its skull, where it fills only a part."""
    image = Volume(np.ones((20, 20, 20), np.float32), np.diag([10.0, 10, 10, 1]), None, ())
    labels = np.zeros((20, 20, 20), np.uint8)
    labels.flat[:1700] = 2
    (finding,) = check_result(labels, {"t1": image}, task=BRAIN)
    assert finding.level == "unusable"
    assert "do not use this result: 1700 mL" in finding.text
    assert check_result(labels, {"t1": image}, task=HEART) == []


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


def test_real_heads_raise_no_doubt_and_swapped_ones_do(real_data):
    from monai_passion.data.patient import read_patient

    for number in (1, 2, 3):
        prefix = real_data / f"brats2013_whole/brats_2013_pat000{number}_1/brats_2013_pat000{number}_1"
        files = {"flair": f"{prefix}_flair.nii.gz", "t1c": f"{prefix}_t1ce.nii.gz"}
        assert texts(read_patient(files, BRATS_MRI).used) == []
    for prefix, t1c in (("glioma_full/TCGA-DU-7294/TCGA-DU-7294", "t1c"), ("ms_whole/patient19/patient19", "t1ce")):
        names = {"flair": "flair", "t1c": t1c, "t1": "t1", "t2": "t2"}
        files = {m: real_data / f"{prefix}_{name}.nii.gz" for m, name in names.items()}
        volumes = read_patient(files, BRATS_MRI).used
        assert texts(volumes) == []
        for other in ("flair", "t1c", "t1"):
            swapped = {**volumes, other: volumes["t2"], "t2": volumes[other]}
            assert any(text.startswith(f"{other} looks like T2") for text in texts(swapped)), other


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
