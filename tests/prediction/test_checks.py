import numpy as np
import pytest

from monai_passion.data.nifti import Volume
from monai_passion.prediction.checks import check_result, far_parts
from monai_passion.tasks import load_task

BRAIN, HEART = load_task("brats_mri"), load_task("myops_cmr")


def test_a_segmentation_outside_the_head_is_noticed():
    image = Volume(np.zeros((28, 28, 28), np.float32), np.eye(4), None, ())
    image.data[3:25, 3:25, 3:25] = 1
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
    assert far_parts(found, np.eye(4)) == (number, pytest.approx(number * size**3 / 1000))
    assert far_parts(found, np.diag([0.5, 0.5, 0.5, 1]))[0] == 0


def test_nothing_segmented_has_no_parts():
    assert far_parts(np.zeros((4, 4, 4), bool), np.eye(4)) == (0, 0.0)


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
