"""Two examinations of one phantom patient, the later one moved and with other tumors."""

import json

import nibabel as nib
import numpy as np
import pytest

from monai_passion.data import registration
from monai_passion.data.nifti import Volume
from monai_passion.errors import InputError
from monai_passion.prediction.compare import (
    Examination,
    _numbered,
    change,
    compare,
    lesion_changes,
    open_examination,
    rano_category,
)
from monai_passion.prediction.output.html import make_comparison_page
from monai_passion.prediction.output.report import find_lesions, make_report
from monai_passion.prediction.segmenter import Segmentation
from monai_passion.tasks import load_task
from tests.helpers.tasks import BRATS_MRI

SHAPE, TASK = (48, 48, 40), load_task("brats_mri")


def ball(center, radius, affine=None):
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    mm = grid @ affine[:3, :3].T + affine[:3, 3]
    return np.linalg.norm(mm - center, axis=-1) < radius


def examination(balls, affine, sequences=("t1c",), weights="0" * 64):
    """A head with bright structures, and enhancing balls: center (mm), radius (mm)."""
    head = ball((72, 72, 60), 55, affine) & ~ball((90, 60, 60), 12, affine)
    image = np.where(head, 100.0, 0.0) + 60 * ball((50, 90, 70), 14, affine) - 40 * ball((80, 90, 45), 11, affine)
    image = np.where(head, image + np.random.default_rng(0).normal(0, 2, SHAPE), 0).astype(np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    for center, radius in balls:
        labels[ball(center, radius, affine)] = 4
    images = {m: Volume(image, affine, None, ()) for m in sequences}
    facts = {
        "bundle": {"name": "b", "version": "1"},
        "weights": {"file": "w", "sha256": weights},
        "modalities": {"used": list(sequences), "absent": [], "reference": sequences[0]},
        "device": "cpu",
        "settings": {"roi_size": [80, 80, 80], "overlap": 0.5, "precision": "fp32", "mirror_axes": []},
        "seconds": {},
        "peak_memory_mb": 1,
    }
    data = dict.fromkeys(sequences, image)
    report = make_report(Segmentation(labels, None, {}, {}), data, affine, TASK, findings=[], **facts)
    return Examination(report, Volume(labels.astype(np.float32), affine, None, ()), images)


BEFORE = np.diag([3.0, 3, 3, 1])
MOVED = np.array([[3.0, 0, 0, 4], [0, 3, 0, -5], [0, 0, 3, 3], [0, 0, 0, 1]])


@pytest.fixture(scope="module", params=["known", pytest.param("itk", marks=pytest.mark.slow)])
def compared(request):
    """The later image has its voxels 7 mm away; one tumor has grown, one is gone, one is new.

    What moved is found by ITK, which takes 20 s to load, or is known: nothing in the scanner's space.
    """
    before = examination([((60, 60, 60), 12), ((100, 80, 60), 7)], BEFORE)
    after = examination([((60, 60, 60), 15), ((60, 100, 60), 8)], MOVED)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "known":
            patch.setattr(registration, "rigid", lambda fixed, moving: np.eye(4))
        return before, after, *compare(before, after)[:2]


def test_volumes_and_what_is_new_grown_and_gone_are_told_across_a_movement(compared):
    before, _, result, views = compared
    et = next(row for row in result["regions"] if row["name"] == "ET")
    assert et["volume_ml"]["before"] == before.report["regions"][2]["volume_ml"]
    assert et["volume_ml"]["difference"] == pytest.approx(4.19 * (15**3 + 8**3 - 12**3 - 7**3) / 1000, rel=0.1)
    assert [row["kind"] for row in et["lesions"]] == ["both", "new", "gone"]
    assert et["lesions"][0]["volume_ml"]["percent"] == pytest.approx(100 * ((15 / 12) ** 3 - 1), abs=15)
    assert result["category"]["category"] == "progression"
    assert "not a judgment" in result["category"]["caveat"]
    overlap = (views["labels_before"] == 4) & ball((60, 60, 60), 12, MOVED)
    assert overlap.sum() > 0.8 * ball((60, 60, 60), 12, MOVED).sum()


def test_the_page_shows_both_at_one_place_and_needs_no_network(compared):
    _, after, result, views = compared
    labels = after.labels.data.astype(np.uint8)
    text = make_comparison_page(result, views, labels, after.labels.affine, after.report, np.zeros((8, 8, 3), np.uint8))
    own = text[: text.index("<script>")]
    assert "progression" in own
    assert own.count("<canvas") == 2
    assert 'src="http' not in own


@pytest.mark.parametrize(
    ("products", "volumes", "new", "category"),
    [
        ((1000, 1250), (10, 12), False, "progression"),
        ((1000, 1240), (10, 12), False, "stable"),
        ((1000, 510), (10, 5), False, "stable"),
        ((1000, 500), (10, 5), False, "partial response"),
        ((1000, 0), (10, 0), False, "complete response"),
        ((0, 0), (0, 0), False, "not measurable"),
        ((0, 300), (0.1, 3), False, "progression"),
        ((1000, 400), (10, 4), True, "progression"),
    ],
)
def test_the_category_is_what_ranos_thresholds_say(products, volumes, new, category):
    lesion = {"kind": "new", "after": {"longest_mm": 11, "perpendicular_mm": 10, "product_mm2": 110}}
    region = {"product_mm2": change(*products), "volume_ml": change(*volumes), "lesions": [lesion] if new else []}
    assert rano_category(region)["category"] == category


def test_other_sequences_or_weights_are_warned_of_and_none_in_common_is_an_error(monkeypatch):
    monkeypatch.setattr(registration, "rigid", lambda fixed, moving: np.eye(4))
    one, two = examination([], BEFORE, ("t1c", "t2")), examination([], BEFORE, ("t1c",), "1" * 64)
    texts = [finding["text"] for finding in compare(one, two).findings]
    assert any("sequences differ" in text for text in texts)
    assert any("different weights" in text for text in texts)
    two = examination([], BEFORE, ("t1c",))
    assert not any("different weights" in finding["text"] for finding in compare(one, two).findings)
    two.report["settings"]["ensemble"] = ["1" * 64]
    assert any("different weights" in finding["text"] for finding in compare(one, two).findings)
    with pytest.raises(InputError, match="share no sequence"):
        compare(examination([], BEFORE, ("t2",)), two)


def test_stacks_of_few_slices_are_compared_by_their_headers_and_it_is_said(monkeypatch):
    day = examination([((60, 60, 60), 12)], BEFORE)
    few = day._replace(
        labels=day.labels._replace(data=day.labels.data[:, :, 15:25]),
        images={m: image._replace(data=image.data[:, :, 15:25]) for m, image in day.images.items()},
    )
    content = compare(few, few).content
    assert content["moved_mm"] == 0
    assert any("too few slices to be registered" in finding["text"] for finding in content["findings"])
    monkeypatch.setattr(registration, "rigid", lambda fixed, moving: np.eye(4))
    assert not any("too few slices" in finding["text"] for finding in compare(day, day).findings)


def test_days_of_two_patients_by_their_headers_are_refused(monkeypatch):
    monkeypatch.setattr(registration, "rigid", lambda fixed, moving: np.eye(4))
    one, two = examination([], BEFORE), examination([], BEFORE)
    for first, second in (("A/B", "A/B"), ("A/B", ""), ("", "")):
        compare(one._replace(patient=first), two._replace(patient=second))
    with pytest.raises(InputError, match="different patients by the DICOM headers"):
        compare(one._replace(patient="A/B"), two._replace(patient="C"))


def test_a_result_that_does_not_name_its_images_says_what_to_do(tmp_path):
    report = examination([], BEFORE).report
    (tmp_path / "report.json").write_text(json.dumps(report))
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), BEFORE), tmp_path / "segmentation.nii.gz")
    with pytest.raises(InputError, match="--keep-names"):
        open_examination(tmp_path)
    with pytest.raises(InputError, match=r"report\.json"):
        open_examination(tmp_path / "nowhere")
    report["regions"][1]["components"] = "two"
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match=r"report\.json: regions\[1\]\.components: 'two' is not of type 'integer'"):
        open_examination(tmp_path)


def test_an_image_that_was_registered_for_its_segmentation_is_where_that_is(monkeypatch):
    """T1c of the later day lies 7 mm from its FLAIR, on whose grid the segmentation is; both have the tumor there."""
    motion = MOVED.copy()
    motion[:3, :3] = np.eye(3)
    found = []

    def known(fixed, moving):
        found.append((fixed, moving))
        return motion if len(found) == 1 else np.eye(4)

    monkeypatch.setattr(registration, "rigid", known)
    tumor = [((60, 60, 60), 12)]
    one, two = examination(tumor, BEFORE, ("t1c",)), examination(tumor, BEFORE, ("flair", "t1c"))
    raw = two.images["t1c"]._replace(affine=motion @ BEFORE)
    two = two._replace(images={**two.images, "t1c": raw})
    two.report["modalities"]["registered"] = True
    views = compare(one, two).views
    (flair, moving), (fixed, _) = found
    assert (flair, moving) == (two.images["flair"], raw)
    np.testing.assert_allclose(fixed.affine, BEFORE, atol=1e-9)
    np.testing.assert_allclose(views["after"], two.images["flair"].data, atol=1e-3)


def test_days_that_do_not_lie_on_each_other_have_no_category_and_it_is_said(monkeypatch):
    """As of two patients, or of one whose registration went astray."""
    monkeypatch.setattr(
        registration, "rigid", lambda fixed, moving: np.array([*np.eye(4)[:2], [0, 0, 1, 60], [0, 0, 0, 1]])
    )
    result = compare(examination([((60, 60, 60), 12)], BEFORE), examination([((60, 60, 60), 12)], BEFORE)).content
    assert result["category"] is None
    said = [finding["text"] for finding in result["findings"] if finding["level"] == "unusable"]
    assert len(said) == 1
    assert "only after registration" in said[0]


def test_what_is_compared_is_not_replaced_by_the_result(tmp_path, capsys):
    from monai_passion.cli import main

    images = [tmp_path / "D" / day / "p_flair.nii.gz" for day in ("before", "after")]
    for path in images:
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4)), path)
    for output, others in ((tmp_path / "D", ["before", "after"]), (tmp_path / "D" / "after", ["before", "after"])):
        code = main(
            ["compare", *(str(tmp_path / "D" / name) for name in others), "--output", str(output), "--overwrite"]
        )
        assert code == 2
        assert "might be replaced" in capsys.readouterr().err
    elsewhere = [tmp_path / "x", tmp_path / "y"]
    code = main(["compare", *map(str, elsewhere), "--output", str(tmp_path / "D"), "--overwrite"])
    assert code == 2
    assert "is not an earlier result" in capsys.readouterr().err
    assert all(path.is_file() for path in images)


GRID = np.indices((60, 60, 60)) - np.array([30, 30, 30])[:, None, None, None]
BALL = np.linalg.norm(GRID, axis=0) < 16
FAR = np.linalg.norm(GRID - np.array([0, 0, 24])[:, None, None, None], axis=0) < 5


def pair(before, after, seen=None):
    lesions = [find_lesions(where, np.eye(4)) for where in (before, after)]
    grids = [Volume(where.astype(np.float32), np.eye(4), None, ()) for where in (before, after)]
    earlier, outside = _numbered(before, *grids, np.eye(4))
    rows = lesion_changes(*lesions, earlier, after, outside, seen)
    return [(row["kind"], row["parts"], row["volume_ml"]) for row in rows]


@pytest.mark.parametrize(
    ("what", "left", "parts"),
    [
        ("a side", BALL & (GRID[0] < -5), 1),
        ("a shell", BALL & (np.linalg.norm(GRID, axis=0) > 10), 1),
        ("two parts", BALL & (np.abs(GRID[0] - 3) > 3), 2),
    ],
)
def test_what_is_left_of_a_lesion_is_that_lesion_whatever_became_of_its_middle(what, left, parts):
    for before, after, count in (
        (BALL, left, {"before": 1, "after": parts}),
        (left, BALL, {"before": parts, "after": 1}),
    ):
        ((kind, found, volume),) = pair(before, after)
        assert (kind, found) == ("both", count)
        assert volume["before"] == pytest.approx(before.sum() / 1000)
        assert volume["after"] == pytest.approx(after.sum() / 1000)


def test_a_lesion_between_the_middles_of_thick_slices_is_still_that_lesion():
    fine, thick = np.eye(4), np.diag([1.0, 1, 5, 1])
    thick[2, 3] = 2.0  # the middle of five slices
    region = np.zeros((20, 20, 20), bool)
    region[5:15, 5:15, 13:17] = True  # middles at 12 and 17 mm
    own, grid = (Volume(np.zeros(n, np.float32), a, None, ()) for n, a in (((20,) * 3, fine), ((20, 20, 4), thick)))
    numbers, outside = _numbered(region, own, grid, np.eye(4))
    assert outside == [0]
    assert np.unique(numbers[5:15, 5:15, 3]).tolist() == [1]
    assert (numbers == 1).sum() >= 100


@pytest.mark.parametrize(
    ("product", "category", "said"),
    [
        (1249.6, "stable", "+25.0 %"),
        (1250, "progression", "+25.0 %"),
        (500.4, "stable", "-50.0 %"),
        (500, "partial response", "-50.0 %"),
    ],
)
def test_thresholds_are_those_of_the_numbers_and_not_of_rounded_ones(product, category, said):
    region = {"product_mm2": change(1000.0, product), "volume_ml": change(10.0, 10.0), "lesions": []}
    found = rano_category(region)
    assert found["category"] == category
    assert said in found["why"]


def test_a_lesion_outside_the_image_of_the_other_day_is_neither_gone_nor_new():
    (both, unseen) = pair(BALL | FAR, (BALL & (GRID[2] < 15))[:, :, :45])
    assert (both[0], unseen[0]) == ("both", "unseen")
    assert (unseen[2]["before"], unseen[2]["after"]) == (pytest.approx(FAR.sum() / 1000), None)
    both, unseen = pair(BALL, BALL | FAR, GRID[2] < 18)
    assert (both[0], unseen[0]) == ("both", "unseen")
    assert unseen[2]["before"] is None
    assert [kind for kind, *_ in pair(BALL, BALL | FAR)] == ["both", "new"]
    lesion = {"kind": "unseen", "after": None}
    region = {"product_mm2": change(300, 0), "volume_ml": change(2, 0), "lesions": [lesion]}
    assert rano_category(region)["category"] == "not comparable"


@pytest.mark.parametrize("edge", [28, 32, 40])
def test_how_a_lesion_changed_that_the_other_image_cuts_through_is_not_known(edge):
    """Wherever its middle, at 30, is; of a few voxels outside, as where a head was turned, nothing is made."""
    for rows in (pair(BALL, BALL[:, :, :edge]), pair(BALL[:, :, :edge], BALL, GRID[2] < edge - 30)):
        ((kind, parts, volume),) = rows
        assert (kind, parts) == ("cut", {"before": 1, "after": 1})
        assert (volume["difference"], volume["percent"]) == (None, None)
        assert sorted((volume["before"], volume["after"])) == pytest.approx(
            [BALL[:, :, :edge].sum() / 1000, BALL.sum() / 1000]
        )
    assert [kind for kind, *_ in pair(BALL, BALL[:, :, :45])] == ["both"]
    assert [kind for kind, *_ in pair(BALL, (BALL & (GRID[2] > 99))[:, :, :edge])] == ["cut"]
    assert [kind for kind, *_ in pair(BALL & (GRID[2] > 99), BALL, GRID[2] < 0)] == ["cut"]
    assert [kind for kind, *_ in pair(BALL & (GRID[2] > 99), BALL, GRID[2] < 3)] == ["new"]
    region = {"product_mm2": change(300, 100), "volume_ml": change(2, 1), "lesions": [{"kind": "cut"}]}
    assert rano_category(region)["category"] == "not comparable"


def test_the_command_compares_two_results_and_says_what_it_wrote(tmp_path, monkeypatch, capsys):
    from monai_passion.cli import main

    monkeypatch.setattr(registration, "rigid", lambda fixed, moving: np.eye(4))
    for day, radius in (("one", 12), ("two", 15)):
        made = examination([((60, 60, 60), radius)], BEFORE)
        (tmp_path / day).mkdir()
        for name, data in (("t1c", made.images["t1c"].data), ("segmentation", made.labels.data.astype(np.uint8))):
            nib.save(nib.Nifti1Image(data, BEFORE), tmp_path / day / f"{name}.nii.gz")
        doubt = [{"level": "warning", "text": f"{day}: unreliable"}]
        report = {**made.report, "findings": doubt, "files": {"t1c": str(tmp_path / day / "t1c.nii.gz")}}
        (tmp_path / day / "report.json").write_text(json.dumps(report))
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path / "out")]) == 0
    files = "comparison.html, comparison.json, preview.png, segmentation_before.nii.gz"
    said, doubts = capsys.readouterr()
    assert f"{tmp_path / 'out'}: {files}" in said
    assert "by the thresholds of RANO" in said
    assert "one: unreliable" in doubts
    assert "two: unreliable" in doubts


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (("flair", "t1c"), ("flair",), "without T1c (after)"),
        (("flair",), ("t1c", "flair"), "without T1c (before)"),
        (("flair",), ("flair", "t2"), "without T1c (before and after)"),
    ],
)
def test_without_t1c_on_both_days_there_is_no_category(monkeypatch, before, after, said):
    monkeypatch.setattr(registration, "rigid", lambda fixed, moving: np.eye(4))
    days = [examination([((60, 60, 60), radius)], BEFORE, names) for radius, names in ((12, before), (15, after))]
    for day in days:
        day.report["modalities"]["absent"] = [m for m in BRATS_MRI if m not in day.images]
    category = compare(*days).content["category"]
    assert category["category"] == "not comparable"
    assert category["why"].startswith(said)


def test_a_task_without_t1c_has_no_category(monkeypatch):
    monkeypatch.setattr(registration, "rigid", lambda fixed, moving: np.eye(4))
    days = [examination([((60, 60, 60), 12)], BEFORE, ("flair",)) for _ in range(2)]
    assert compare(*days).content["category"] is None
