import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from monai_passion.errors import InputError
from monai_passion.modalities import combinations
from monai_passion.reporting.examples import Example, example_figure, read_example
from monai_passion.reporting.report import write_report
from monai_passion.tasks import load_task

MODALITIES = ("flair", "t1c", "t1", "t2")
TITLES = {m: m.upper() for m in MODALITIES}
CLASSES = {"core": "#E6550D", "edema": "#33BBEE"}
NAMES = ["+".join(c) for c in combinations(MODALITIES)]


def write_example(path, names=NAMES, affine=None):
    rng = np.random.default_rng(0)
    label = np.zeros((20, 30), np.int8)
    label[5:10, 6:12] = 1
    prediction = np.stack([label * (i % 2) for i in range(len(names))])
    prediction[2] = -1
    np.savez(
        path,
        image=rng.random((4, 20, 30)),
        label=label,
        prediction=prediction,
        combinations=names,
        modalities=MODALITIES,
        affine=np.eye(4) if affine is None else affine,
    )


def pictures(figure):
    """Of each panel its image and its labels, as rows from top to bottom."""
    return [tuple(np.ma.filled(image.get_array(), 0) for image in axis.images) for axis in figure.axes if axis.images]


def test_a_report_shows_the_example_of_each_method(make_run, tmp_path, drawn):
    runs = [make_run(name, label=name, curves=False, n=2) for name in ("one", "two")]
    for run in runs:
        write_example(run / "example.npz")
    page = write_report(runs, tmp_path / "report")
    assert (tmp_path / "report" / "figures" / "example.png").stat().st_size > 10_000
    assert re.search(r'<h2 id="s\d+">Example</h2>', page.read_text())


def test_each_column_shows_its_own_combination(tmp_path):
    write_example(tmp_path / "example.npz", list(reversed(NAMES)))
    example = read_example(tmp_path / "example.npz")
    figure = example_figure({"method": example}, NAMES, TITLES, CLASSES)
    panels = [axis for axis in figure.axes if axis.images or (axis.texts and axis.texts[0].get_text() == "not given")]
    assert len(panels) == 1 + 15
    without = [i for i, axis in enumerate(panels) if not axis.images]
    assert without == [15 - 2]  # the third from the end, after the reference
    # odd ones of the file drew the label, from the last column backwards
    assert [bool(axis.images[1].get_array().count()) for axis in panels[-2:]] == [True, False]


def head(label, prediction, affine=None):
    """A head of negative and positive values in a background of 0, its brightest voxel at (6, 9)."""
    image = np.zeros((1, 20, 30))
    image[0, 4:16, 6:24] = np.linspace(-1, 1, 18)
    image[0, 6, 9] = 5
    return Example(image, label, prediction[None], ("flair",), ("flair",), np.eye(4) if affine is None else affine)


@pytest.mark.parametrize(
    ("affine", "corner"),
    [
        (np.diag([1, 1, 1, 1]), ("bottom", "right")),  # first voxels: left, posterior
        (np.diag([-1, 1, 1, 1]), ("bottom", "left")),
        (np.diag([-1, -1, 1, 1]), ("top", "left")),
        (np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), ("bottom", "left")),
    ],
)
def test_the_right_of_the_patient_is_on_the_left_and_the_nose_on_top(affine, corner):
    label = np.zeros((20, 30), int)
    label[6, 9] = 1
    figure = example_figure({"m": head(label, label, affine)}, ["flair"], {"flair": "FLAIR"}, CLASSES)
    for image, labels in pictures(figure):
        row, column = np.argwhere(labels)[0]
        assert image[row, column] == image.max()
        assert ("top" if row < labels.shape[0] / 2 else "bottom") == corner[0]
        assert ("left" if column < labels.shape[1] / 2 else "right") == corner[1]
    assert [text.get_text() for text in figure.axes[0].texts] == ["R", "L", "A", "P"]


def test_a_grid_of_unknown_place_has_no_letters():
    label = np.ones((20, 30), int)
    figure = example_figure({"m": head(label, label, np.full((4, 4), np.nan))}, ["flair"], {"flair": "F"}, CLASSES)
    assert not figure.axes[0].texts


def test_outside_the_head_it_is_black():
    label = np.zeros((20, 30), int)
    figure = example_figure({"m": head(label, label)}, ["flair"], {"flair": "FLAIR"}, CLASSES)
    image = figure.axes[0].images[0]
    assert image.norm(image.get_array()[0, 0]) == 0


def test_methods_show_the_same_voxels_and_the_whole_head():
    label, far = np.zeros((2, 20, 30), int)
    label[8:10, 8:10], far[17, 27] = 1, 1
    examples = {"one": head(label, label), "two": head(label, far)}
    shown = pictures(example_figure(examples, ["flair"], {"flair": "FLAIR"}, CLASSES))
    assert len(shown) == 4
    for image, _ in shown:
        assert np.array_equal(image, shown[0][0])
        assert (image > image.min()).sum() >= 12 * 17
    assert shown[3][1].sum() == 1


def test_the_legend_has_the_names_and_colors_of_the_task():
    label = np.zeros((20, 30), int)
    label[8:10, 8:10], label[12, 12] = 2, 3
    figure = example_figure({"m": head(label, label)}, ["flair"], {"flair": "FLAIR"}, CLASSES)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["edema", "class 3"]
    assert to_hex(legend.get_patches()[0].get_facecolor()).upper() == CLASSES["edema"]


def test_a_task_without_names_and_a_patient_without_labels_need_no_legend():
    nothing = np.zeros((20, 30), int)
    assert not example_figure({"m": head(nothing, nothing)}, ["flair"], {"flair": "FLAIR"}, {}).legends


def test_the_legend_fits_into_the_picture_and_above_what_is_written_beneath():
    looks = {c.title: c.color for c in load_task("myops_cmr").classes[1:]}
    label = np.zeros((20, 30), int)
    for value in range(1, len(looks) + 1):
        label[8 + value, 8:10] = value
    names = ["flair", "t1c", "flair+t1c"]
    prediction = np.stack([label] * 3)
    example = Example(np.ones((2, 20, 30)), label, prediction, tuple(names), ("flair", "t1c"), np.eye(4))
    figure = example_figure({"m": example}, names, {"flair": "FLAIR", "t1c": "T1c"}, looks)
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(looks) == 5
    extent, panels = legend.get_window_extent(), [axis.get_window_extent() for axis in figure.axes]
    written = figure.texts[-1].get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width
    assert extent.y0 >= 0
    assert extent.y1 <= written.y0 + 3
    assert written.y1 <= min(panel.y0 for panel in panels)


@pytest.mark.parametrize("content", [b"", b"not a file of arrays", b"PK\x03\x04"])
def test_a_damaged_example_is_named(tmp_path, content):
    (tmp_path / "example.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"example\.npz"):
        read_example(tmp_path / "example.npz")
