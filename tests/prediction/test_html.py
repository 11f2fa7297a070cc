import base64
import io
import itertools
import json
import re

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from monai_passion.prediction.output.html import _pictures, make_page, straightened
from monai_passion.prediction.output.preview import bounding_box, preview
from monai_passion.prediction.output.report import find_focus, make_report
from monai_passion.prediction.segmenter import Segmentation
from monai_passion.tasks import load_task

STILL = np.zeros((8, 8, 3), np.uint8)
FACTS = {
    "bundle": {"name": "bundle", "version": "1"},
    "weights": {"file": "</script><b>x.pt", "sha256": "0" * 64},
    "device": "cpu",
    "settings": {"roi_size": [32, 32, 32], "overlap": 0.5, "precision": "fp32", "mirror_axes": []},
    "modalities": {"used": ["t1"], "absent": ["flair", "t1c", "t2"], "reference": "t1"},
}


@pytest.fixture
def page(tmp_path):
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, 40),) * 3, indexing="ij"))
    head = np.where((grid**2).sum(0) < 1, np.random.default_rng(0).uniform(50, 99, (40,) * 3), 0).astype(np.float32)
    labels = np.where(((grid - 0.3) ** 2).sum(0) < 0.15, 4, 0).astype(np.uint8)
    result = Segmentation(labels, (labels > 0).astype(np.float32) / 2, {}, {"t1": np.where(labels == 4, 2, 0)})
    report = make_report(
        result,
        {"flair": head, "t1": 100 - head},
        np.eye(4),
        load_task("brats_mri"),
        **{**FACTS, "modalities": {"used": ["flair", "t1"], "absent": ["t2"], "reference": "flair"}},
        findings=[{"level": "warning", "text": "t1 is odd"}],
    )
    path = tmp_path / "report.html"
    path.write_text(make_page({"flair": head, "t1": 100 - head}, result, np.eye(4), report, STILL), encoding="utf-8")
    return path, labels


def test_the_page_needs_no_network_and_text_cannot_break_out_of_its_data(page):
    text = page[0].read_text(encoding="utf-8")
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]
    assert not re.search(r'(src|href)\s*=\s*"(?!data:)|url\(|@import', own)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data)["report"]["weights"]["file"] == "</script><b>x.pt"
    assert "<b>x.pt" not in own


def test_the_page_holds_the_segmentation_itself(page, tmp_path):
    import base64

    text, labels = page[0].read_text(encoding="utf-8"), page[1]
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    (tmp_path / "s.nii.gz").write_bytes(base64.b64decode(data["subsets"][0]["base64"]))
    assert np.array_equal(np.asarray(nib.load(tmp_path / "s.nii.gz").dataobj), labels)
    assert [image["name"] for image in data["images"]] == ["FLAIR", "T1"]


def test_each_region_and_label_stands_in_the_table_once_with_its_full_name_and_what_to_expect(page):
    text = page[0].read_text(encoding="utf-8")
    rows = re.findall(r'<tr data-region="([^"]*)">(.*?)</tr>', text)
    assert [name for name, _ in rows] == ["WT", "TC", "ET", "NCR/NET", "ED"]
    assert "enhancing tumor" in rows[2][1]
    assert "unknown" in rows[0][1]
    assert "Expected quality unknown: evaluate these weights" in text


def test_each_subset_says_which_of_the_other_sequences_would_help_most():
    labels = np.zeros((8, 8, 8), np.uint8)
    images = {m: np.ones(labels.shape, np.float32) for m in ("flair", "t1c")}
    result = Segmentation(labels, None, {}, {"flair": labels, "t1c": labels})
    expected = {
        name: [{"region": "ET", "dice": dice, "low": None, "high": None, "patients": 7}]
        for name, dice in (("flair", 0.31), ("t1c", 0.7), ("flair+t1c", 0.74))
    }
    used = {"used": ["flair", "t1c"], "absent": ["t1", "t2"], "reference": "flair"}
    task = load_task("brats_mri")
    report = make_report(result, images, np.eye(4), task, expected, **{**FACTS, "modalities": used}, findings=[])
    text = make_page(images, result, np.eye(4), report, STILL)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    helpful = {subset["title"]: subset["helpful"] for subset in data["subsets"]}
    assert helpful == {
        "FLAIR + T1c": "",
        "FLAIR": "The sequence that would help most is T1c: expected ET Dice 0.31 -> 0.74.",
        "T1c": "The sequence that would help most is FLAIR: expected ET Dice 0.70 -> 0.74.",
    }


@pytest.mark.parametrize(("level", "says"), [("warning", "1 warning"), ("unusable", "Do not use this result.")])
def test_doubts_stand_in_a_banner_on_top(level, says):
    labels = np.zeros((8, 8, 8), np.uint8)
    image = {"t1": np.ones(labels.shape, np.float32)}
    result = Segmentation(labels, None, {}, {})
    findings = [{"level": level, "text": "do not use this result: t1 is odd"}]
    report = make_report(result, image, np.eye(4), load_task("brats_mri"), **FACTS, findings=findings)
    text = make_page(image, result, np.eye(4), report, STILL)
    top = text[text.index("<body") : text.index("<header")]
    assert says in top
    assert "t1 is odd" in top


def test_page_and_preview_look_first_at_the_deepest_point_of_the_largest_core():
    """Edema is larger, and one core lies apart from the other; in mm, since the viewer counts along other axes."""
    labels = np.zeros((30, 30, 20), np.uint8)
    labels[2:20, 2:20, 2:18] = 2
    labels[4:11, 5:12, 6:11] = 4
    labels[7, 8, 8] = 1
    labels[25:28, 25:28, 5:8] = 4
    affine = np.array([[0, 0, 1.0, 5], [-1, 0, 0, 20], [0, -1, 0, 9], [0, 0, 0, 1]])
    focus = find_focus(labels, affine, load_task("brats_mri"))
    assert focus == {"voxel": [7, 8, 8], "mm": (affine @ [7, 8, 8, 1])[:3].tolist(), "region": "TC"}
    assert find_focus(labels * 0, affine, load_task("brats_mri")) is None
    assert find_focus(np.where(labels == 2, 2, 0), affine, load_task("brats_mri"))["region"] is None


@pytest.fixture(scope="module")
def open_page(browser):
    """A function that opens a page without a network, once its viewer is ready."""

    def opened(file):
        shown = browser.new_context(offline=True, viewport={"width": 1200, "height": 900}).new_page()
        problems = []
        shown.on("pageerror", lambda error: problems.append(error))
        shown.goto(f"file://{file}", timeout=120_000)
        shown.wait_for_selector('body[data-state="ready"]', timeout=240_000)
        return shown, problems

    return opened


def colored(shown, path):
    """How many pixels of the viewer are not gray."""
    shown.locator("canvas").screenshot(path=path, timeout=120_000)
    return int((np.ptp(matplotlib.image.imread(path)[..., :3], axis=2) > 0.15).sum())


@pytest.mark.browser
def test_a_click_takes_the_overlay_off_the_images_and_puts_it_back(page, open_page, tmp_path):
    shown, problems = open_page(page[0])
    shown.get_by_label("diameters").uncheck()
    box = shown.get_by_label("segmentation", exact=True)
    counts = [colored(shown, tmp_path / "on.png")]
    for name in ("off", "again"):
        box.click()
        counts.append(colored(shown, tmp_path / f"{name}.png"))
    assert counts[0] == counts[2]
    assert counts[0] > counts[1] + 1000
    shown.get_by_role("button", name="T1", exact=True).click()
    other = matplotlib.image.imread(shot(shown, tmp_path / "t1.png"))
    assert np.abs(other - matplotlib.image.imread(tmp_path / "again.png")).mean() > 0.01
    shown.get_by_label("opacity").fill("0")
    assert colored(shown, tmp_path / "clear.png") == counts[1]
    assert not problems
    assert "t1 is odd" in shown.inner_text("#banner")


@pytest.mark.browser
def test_each_label_has_a_switch_and_an_outline_has_fewer_pixels(page, open_page, tmp_path):
    """The fused map has label 4 only, that of T1 alone label 2 only."""
    shown, problems = open_page(page[0])
    shown.get_by_label("diameters").uncheck()
    full = colored(shown, tmp_path / "full.png")
    shown.get_by_label("edema").uncheck()
    assert colored(shown, tmp_path / "edema.png") == full
    shown.get_by_label("enhancing tumor", exact=True).uncheck()
    none = colored(shown, tmp_path / "none.png")
    assert full > none + 1000
    shown.get_by_label("enhancing tumor", exact=True).check()
    shown.get_by_label("outline only").check()
    assert none < colored(shown, tmp_path / "outline.png") < full
    assert not problems


@pytest.mark.browser
def test_a_subset_of_the_sequences_is_shown_with_its_volumes_beside_those_of_all(page, open_page, tmp_path):
    shown, problems = open_page(page[0])
    shown.get_by_label("edema").uncheck()
    shown.get_by_label("diameters").uncheck()
    full = colored(shown, tmp_path / "all.png")
    subset = shown.get_by_role("group", name="subset of the sequences").get_by_role("button").nth(1)
    subset.focus()
    shown.keyboard.press("Enter")
    shown.wait_for_function("document.getElementById('shown').textContent !== ''")
    assert "from T1" in shown.inner_text("#shown")
    assert shown.inner_text('tr[data-region="ET"] .volume').startswith("0.00 (")
    assert colored(shown, tmp_path / "t1alone.png") < full - 1000
    assert not problems


def shot(shown, path):
    shown.locator("canvas").screenshot(path=path, timeout=120_000)
    return path


@pytest.mark.browser
def test_a_heart_of_a_few_slices_is_shown_with_its_own_labels(open_page, tmp_path):
    """MyoPS: three slices, 12 mm apart; label values up to 2221."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (64, 64, 3)), indexing="ij"))
    image = np.random.default_rng(0).uniform(50, 99, (64, 64, 3)).astype(np.float32)
    ring = (grid[:2] ** 2).sum(0)
    labels = np.select([ring < 0.2, ring < 0.4], [500, 2221], 0).astype(np.uint16)
    affine = np.diag([0.75, 0.75, 12, 1])
    report = make_report(
        Segmentation(labels, None, {}, {}),
        {"bssfp": image},
        affine,
        load_task("myops_cmr"),
        bundle={"name": "myops", "version": "1"},
        weights={"file": "x.pt", "sha256": "0" * 64},
        device="cpu",
        modalities={"used": ["bssfp"], "absent": ["lge", "t2"], "reference": "bssfp"},
        findings=[],
    )
    result = Segmentation(labels, None, {}, {})
    (tmp_path / "report.html").write_text(make_page({"bssfp": image}, result, affine, report, STILL), encoding="utf-8")
    shown, problems = open_page(tmp_path / "report.html")
    shown.get_by_role("button", name="axial", exact=True).click()
    on = colored(shown, tmp_path / "heart_on.png")
    shown.get_by_label("segmentation", exact=True).click()
    assert on > colored(shown, tmp_path / "heart_off.png") + 1000
    assert "scar" in shown.inner_text("#volumes")
    assert not problems


@pytest.mark.browser
def test_on_an_oblique_grid_the_cross_is_in_the_slices_that_the_report_names_and_diameters_are_drawn_there(
    open_page, tmp_path
):
    labels = np.zeros((40, 40, 16), np.uint8)
    labels[22:32, 25:31, 9:13] = 4
    image = np.random.default_rng(0).uniform(50, 99, labels.shape).astype(np.float32)
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.3, 0.05) @ np.diag([-0.9, 0.9, 5.5]), [9, -8, 7])
    result = Segmentation(labels, None, {}, {})
    report = make_report(result, {"t1": image}, affine, load_task("brats_mri"), **FACTS, findings=[])
    (tmp_path / "report.html").write_text(make_page({"t1": image}, result, affine, report, STILL), encoding="utf-8")
    shown, problems = open_page(tmp_path / "report.html")
    i, j, k = report["focus"]["voxel"]
    text = shown.inner_text("#where")
    assert f"i, j, k = {i}, {j}, {k} of the file" in text
    assert f"{report['focus']['mm'][2]:.1f} mm" in text
    shown.get_by_role("button", name="show lesion 1").click()
    assert f", {report['regions'][2]['lesions'][0]['slice']} of the file" in shown.inner_text("#where")
    lines = shown.evaluate("window.viewer.document.completedMeasurements.map(m => [m.startMM, m.endMM])")
    voxels = nib.affines.apply_affine(np.linalg.inv(straightened(affine)), np.array(lines)[..., :3])
    lesion = report["regions"][2]["lesions"][0]
    assert np.allclose(voxels.reshape(-1, 3), lesion["ends"], atol=0.01)
    assert np.allclose(voxels[..., 2], lesion["slice"])
    assert not problems


def test_a_grid_is_straightened_to_the_nearest_axes_with_its_spacing():
    affine = np.array([[0.1, 0, -2.0, 5], [0.9, 0.1, 0.2, 6], [0, 3.0, 0.1, 7], [0, 0, 0, 1]])
    straight = straightened(affine)
    assert np.array_equal(straight != 0, np.abs(affine) > 0.5)
    assert np.allclose(np.linalg.norm(straight[:3, :3], axis=0), np.linalg.norm(affine[:3, :3], axis=0))
    assert straight[0, 2] < 0


def test_specks_are_counted_and_not_listed_among_the_lesions():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:8, 2:8, 2:8] = labels[15, 15, 15] = labels[2:10, 15, 2] = 4
    head = np.random.default_rng(0).uniform(50, 99, labels.shape).astype(np.float32)
    result = Segmentation(labels, None, {}, {})
    report = make_report(result, {"t1": head}, np.eye(4), load_task("brats_mri"), **FACTS, findings=[])
    page = make_page({"t1": head}, result, np.eye(4), report, STILL)
    assert re.findall(r'data-lesion="(\d+)"', page) == ["0", "1"]
    assert "Listed: 2 of 3 parts" in page


def test_the_outline_of_a_core_is_closed_within_its_edema_on_the_picture_which_is_in_the_middle():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[8:32, 8:32, 8:32] = 2
    labels[14:26, 14:26, 14:26] = 1
    head = np.full(labels.shape, 50, np.float32)
    head[20] = 60
    task = load_task("brats_mri")
    report = make_report(Segmentation(labels, None, {}, {}), {"t1": head}, np.eye(4), task, **FACTS, findings=[])
    picture = preview({"t1": head}, labels, np.eye(4), report) / 255
    red, blue = (np.abs(picture - to_rgb(row["color"])).max(-1) < 0.2 for row in report["labels"][:2])
    assert red.sum() > 0.35 * blue.sum()  # its sides are half as long
    columns = np.flatnonzero(blue[200:].any(axis=0))  # below the legend
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(picture.shape[1] / 2, rel=0.1)


@pytest.mark.parametrize(
    ("spacing", "sides"),
    [
        ((1, 1, 1), (136, 172)),
        ((1.35, 1.35, 1.35), (136, 172)),
        ((1.5, 1.5, 1.5), (136, 172)),
        ((0.5, 0.5, 5), (136, 172)),
        ((5, 1, 1), (172, 140)),  # sagittal slices
        ((1, 5, 1), (136, 140)),
        ((1, 2, 1), (136, 140)),
    ],
)
def test_the_pictures_of_the_combinations_show_a_slice_in_its_proportions(spacing, sides):
    size = np.ceil(180 / np.array(spacing)).astype(int)
    away = (np.indices(size).T - (size - 1) / 2) * spacing / (68, 86, 70)  # a head of 136 x 172 x 140 mm
    head = np.where((away**2).sum(-1).T < 1, 100, 0).astype(np.float32)
    labels = np.zeros(head.shape, np.uint8)
    report = {"labels": []}
    (picture,) = _pictures({"t1": head}, [labels], np.diag([*spacing, 1.0]), report, [int(n) // 2 for n in size])
    height, width = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture.split(",")[1]))).shape[:2]
    assert width / height == pytest.approx(sides[0] / sides[1], rel=0.04)
    assert 159 <= max(width, height) <= 400


def test_preview_outlines_a_core_that_is_larger_than_the_edema_around_it_in_its_own_color():
    away = np.linalg.norm(np.indices((64, 64, 64)) - 32, axis=0)
    head = np.where(away < 30, 100, 0).astype(np.float32)
    labels = np.select([away < 20, away < 23], [1, 2], 0).astype(np.uint8)
    task = load_task("brats_mri")
    report = make_report(Segmentation(labels, None, {}, {}), {"t1": head}, np.eye(4), task, **FACTS, findings=[])
    core, edema = report["labels"][:2]
    assert core["volume_ml"] > edema["volume_ml"] > 0
    picture = preview({"t1": head}, labels, np.eye(4), report) / 255
    of_core, of_edema = ((np.abs(picture[80:] - to_rgb(row["color"])).max(-1) < 0.2).sum() for row in (core, edema))
    assert of_core > 0.6 * of_edema  # their radii are 20 and 23


@pytest.mark.parametrize("number", [1, 2])
def test_the_names_of_a_heart_fit_above_its_picture_whatever_it_is_drawn_from(number):
    task = load_task("myops_cmr")
    names = task.modality_names[:number]
    head = np.full((24, 24, 5), 100, np.float32)
    labels = np.zeros(head.shape, np.uint8)
    labels[8:16, 8:16] = 1
    facts = {**FACTS, "modalities": {"used": [*names], "absent": [], "reference": names[0]}}
    images = dict.fromkeys(names, head)
    report = make_report(Segmentation(labels, None, {}, {}), images, np.eye(4), task, **facts, findings=[])
    picture = preview(images, labels, np.eye(4), report)
    assert not picture[:60, [0, 1, -2, -1]].any()
    assert picture[:60].any()


@pytest.fixture(scope="module")
def full_page(tmp_path_factory):
    """All sequences with every subset of them, many lesions, doubts and notes."""
    task = load_task("brats_mri")
    names = list(task.modality_names)
    head = np.random.default_rng(0).uniform(50, 99, (48, 48, 48)).astype(np.float32)
    labels = np.zeros(head.shape, np.uint8)
    for place in itertools.product((6, 18, 30), repeat=3):
        labels[tuple(slice(c, c + 5) for c in place)] = 4
    labels[16:30, 16:30, 16:30] = 1
    subsets = ["+".join(own) for n in (1, 2, 3) for own in itertools.combinations(names, n)]
    result = Segmentation(labels, np.ones(head.shape, np.float32), {}, dict.fromkeys(subsets, labels))
    quality = [{"region": r, "dice": 0.4, "low": 0.2, "high": 0.6, "patients": 7} for r in ("WT", "TC", "ET")]
    report = make_report(
        result,
        dict.fromkeys(names, head),
        np.eye(4),
        task,
        dict.fromkeys([*subsets, "+".join(names)], quality),
        **{**FACTS, "modalities": {"used": names, "absent": [], "reference": "flair"}},
        findings=[
            {"level": level, "text": f"{number} of the sequences is odd in a way that takes a line to tell of"}
            for level in ("warning", "note")
            for number in range(4)
        ],
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(make_page(dict.fromkeys(names, head), result, np.eye(4), report, STILL), encoding="utf-8")
    return path


@pytest.mark.browser
@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_with_all_that_can_stand_on_it_the_page_prints_to_one_sheet(full_page, browser, paper):
    shown = browser.new_context(offline=True, java_script_enabled=False).new_page()
    shown.goto(f"file://{full_page}", timeout=120_000)
    assert len(re.findall(rb"/Type\s*/Page\b", shown.pdf(format=paper))) == 1


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200, 1400])
def test_nothing_runs_off_the_page_however_narrow_the_window(full_page, open_page, width):
    shown, _ = open_page(full_page)
    shown.set_viewport_size({"width": width, "height": 900})
    assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_a_heart_of_one_slice_and_an_image_that_shows_nothing_have_a_picture():
    labels = np.zeros((20, 20, 1), np.uint8)
    labels[5:12, 5:12] = 2
    images = {"t1": np.full(labels.shape, 50, np.float32), "t2": np.zeros(labels.shape, np.float32)}
    task = load_task("brats_mri")
    report = make_report(Segmentation(labels, None, {}, {}), images, np.eye(4), task, **FACTS, findings=[])
    assert preview(images, labels, np.eye(4), report).shape[2] == 3


def test_a_box_holds_what_is_there_with_a_margin_that_ends_at_the_edge_and_all_of_an_empty_image():
    mask = np.zeros((8, 9), bool)
    assert bounding_box(mask, 2) == (slice(0, 8), slice(0, 9))
    mask[1:3, 4] = True
    assert bounding_box(mask) == (slice(1, 3), slice(4, 5))
    assert bounding_box(mask, 2) == (slice(0, 5), slice(2, 7))
