"""One slice of one patient, as every combination of modalities segments it (the paper's Figures 4 and 5)."""

from __future__ import annotations

import math
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from monai_passion import NOTICE
from monai_passion.errors import InputError
from monai_passion.modalities import parse_combination

__all__ = ["Example", "example_figure", "read_example"]

COLORS = ("#D55E00", "#009E73", "#F0E442", "#0072B2", "#CC79A7", "#56B4E9")
"""Of the labels 1, 2, ..."""
MARGIN = 6
"""Voxels around everything that is labeled."""


class Example(NamedTuple):
    """What `monai_passion.evaluation.CombinationScores` keeps of a patient."""

    image: np.ndarray
    """(M, H, W)."""
    label: np.ndarray
    """(H, W)."""
    prediction: np.ndarray
    """(C, H, W); -1 where the patient lacks the combination."""
    combinations: tuple[str, ...]
    modalities: tuple[str, ...]


def read_example(path: Path) -> Example:
    """
    Raises:
        InputError: the file is damaged or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            found = Example(
                data["image"],
                data["label"],
                data["prediction"],
                *(tuple(data[k].tolist()) for k in Example._fields[3:]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}; delete it, or evaluate again") from None
    return found


def example_figure(
    examples: Mapping[str, Example], combinations: Sequence[str], modalities: Mapping[str, str], kind: str = "patient"
) -> Figure:
    """A square of panels per method: the reference, then what each combination makes of it, with its Dice.

    Args:
        examples: method -> its example.
        combinations: panels, in this order, those that the examples have.
        modalities: name -> title, in this order; the image is that of the first.
        kind: patient or phantom.
    """
    columns = math.ceil(math.sqrt(len(combinations) + 1))
    rows = math.ceil((len(combinations) + 1) / columns)
    width, block = 1.7 * columns, 1.9 * rows + 0.35
    height = block * len(examples) + 0.6
    figure = Figure(figsize=(width, height), dpi=130)
    labels: set[int] = set()
    for number, (method, example) in enumerate(examples.items()):
        top = 1 - (block * number + 0.35) / height
        grid = figure.add_gridspec(
            rows,
            columns,
            **{"wspace": 0.04, "hspace": 0.22, "left": 0.01, "right": 0.99},
            top=top - 0.2 / height,
            bottom=top - (block - 0.35) / height,
        )
        figure.text(0.01, top + 0.08 / height, method, fontsize=10, fontweight="bold")
        kept = [frozenset(parse_combination(name, example.modalities)) for name in example.combinations]
        window = _window(example)
        background = example.image[example.modalities.index(next(iter(modalities)))][window]
        drawn = [example.label, *(example.prediction[kept.index(frozenset(name.split("+")))] for name in combinations)]
        labels |= {int(value) for value in np.unique(drawn) if value > 0}
        for place, (name, shown) in enumerate(zip(("", *combinations), drawn, strict=True)):
            axis = figure.add_subplot(grid[place // columns, place % columns])
            _draw(axis, background, shown[window])
            given = " + ".join(title for m, title in modalities.items() if m in name.split("+"))
            score = f"  {_dice(shown, example.label):.2f}" if name and shown.min() >= 0 else ""
            axis.set_title(f"{given}{score}" if name else "Reference", fontsize=7, pad=2)
    handles = [Patch(color=COLORS[(k - 1) % len(COLORS)], label=f"class {k}") for k in sorted(labels)]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=7, frameon=False)
    text = f"One {kind}, the slice with the most labeled voxels; Dice of all labels together. {NOTICE}"
    figure.text(0.5, 0.28 / height, textwrap.fill(text, int(16 * width)), fontsize=7, ha="center", color="#595959")
    return figure


def _dice(shown: np.ndarray, label: np.ndarray) -> float:
    """Of everything that is labeled, whatever the class."""
    total = int((shown > 0).sum() + (label > 0).sum())
    return 2 * int(((shown > 0) & (label > 0)).sum()) / total if total else 1.0


def _window(example: Example) -> tuple[slice, slice]:
    """Around everything that the reference or a combination labels."""
    where = np.argwhere((example.label > 0) | (example.prediction > 0).any(axis=0))
    if not len(where):
        return slice(None), slice(None)
    (top, left), (bottom, right) = where.min(axis=0), where.max(axis=0) + 1
    return slice(max(top - MARGIN, 0), bottom + MARGIN), slice(max(left - MARGIN, 0), right + MARGIN)


def _draw(axis: Any, background: np.ndarray, labels: np.ndarray) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if labels.min() < 0:
        axis.text(0.5, 0.5, "not given", ha="center", va="center", fontsize=7, transform=axis.transAxes)
        return
    low, high = np.percentile(background, (1, 99.5))
    axis.imshow(background.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower")
    shown = np.ma.masked_less(labels, 1)
    norm = BoundaryNorm(np.arange(0.5, len(COLORS) + 1), len(COLORS))
    axis.imshow(shown.T, cmap=ListedColormap(COLORS), norm=norm, alpha=0.75, origin="lower", interpolation="nearest")
