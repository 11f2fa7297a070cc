import re

import numpy as np
import pytest

from monai_passion.errors import InputError
from monai_passion.modalities import combinations
from monai_passion.reporting.examples import example_figure, read_example
from monai_passion.reporting.report import write_report

MODALITIES = ("flair", "t1c", "t1", "t2")
NAMES = ["+".join(c) for c in combinations(MODALITIES)]


def write_example(path, names=NAMES):
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
    )


def test_a_report_shows_the_example_of_each_method(make_run, tmp_path):
    runs = [make_run(name, label=name) for name in ("one", "two")]
    for run in runs:
        write_example(run / "example.npz")
    page = write_report(runs, tmp_path / "report")
    assert (tmp_path / "report" / "figures" / "example.png").stat().st_size > 10_000
    assert re.search(r'<h2 id="s\d+">Example</h2>', page.read_text())


def test_each_column_shows_its_own_combination(tmp_path):
    write_example(tmp_path / "example.npz", list(reversed(NAMES)))
    example = read_example(tmp_path / "example.npz")
    figure = example_figure({"method": example}, NAMES, {m: m.upper() for m in MODALITIES})
    panels = [axis for axis in figure.axes if axis.images or (axis.texts and axis.texts[0].get_text() == "not given")]
    assert len(panels) == 1 + 15
    without = [i for i, axis in enumerate(panels) if not axis.images]
    assert without == [15 - 2]  # the third from the end, after the reference
    # odd ones of the file drew the label, from the last column backwards
    assert [bool(axis.images[1].get_array().count()) for axis in panels[-2:]] == [True, False]


@pytest.mark.parametrize("content", [b"", b"not a file of arrays", b"PK\x03\x04"])
def test_a_damaged_example_is_named(tmp_path, content):
    (tmp_path / "example.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"example\.npz"):
        read_example(tmp_path / "example.npz")
