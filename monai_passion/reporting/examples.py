"""One slice of one patient, as every combination of modalities segments it (the paper's Figures 4 and 5)."""

from __future__ import annotations

import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from monai_passion import NOTICE
from monai_passion.errors import InputError
from monai_passion.modalities import parse_combination

__all__ = ["Example", "example_figure", "read_example"]

COLOURS = ("#D55E00", "#009E73", "#F0E442", "#0072B2", "#CC79A7", "#56B4E9")
"""Of the labels 1, 2, ..."""
MARGIN = 6
"""Voxels around everything that is labelled."""


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
    examples: Mapping[str, Example], combinations: Sequence[str], modalities: Mapping[str, str]
) -> Figure:
    """A row a method, a column a combination, above it the paper's dots; first the reference.

    Args:
        examples: method -> its example.
        combinations: columns, in this order, those that the examples have.
        modalities: name -> title; rows of dots, in this order.
    """
    columns = len(combinations) + 1
    figure = Figure(figsize=(0.95 * columns + 1.2, 0.95 * len(examples) + 0.18 * len(modalities) + 0.9), dpi=200)
    grid = figure.add_gridspec(
        len(examples) + 1,
        columns,
        height_ratios=[0.18 * len(modalities), *(0.95 for _ in examples)],
        wspace=0.04,
        hspace=0.04,
        left=1.15 / (0.95 * columns + 1.2),
        right=0.995,
        bottom=0.35 / (0.95 * len(examples) + 0.18 * len(modalities) + 0.9),
        top=0.97,
    )
    _dots(figure, grid, combinations, modalities)
    for row, (method, example) in enumerate(examples.items(), start=1):
        kept = [frozenset(parse_combination(name, example.modalities)) for name in example.combinations]
        window = _window(example)
        background = example.image[example.modalities.index(next(iter(modalities)))][window]
        drawn = [example.label, *(example.prediction[kept.index(frozenset(name.split("+")))] for name in combinations)]
        for column, labels in enumerate(drawn):
            axis = figure.add_subplot(grid[row, column])
            _draw(axis, background, labels[window])
            if column == 0:
                axis.set_ylabel(textwrap.fill(method, 14), rotation=0, ha="right", va="center", fontsize=8)
            if column == 0 and row == len(examples):
                axis.set_xlabel("Reference", fontsize=8)
    figure.supxlabel(f"One patient, the slice with the most labelled voxels. {NOTICE}", fontsize=7, color="#767676")
    return figure


def _dots(figure: Figure, grid: Any, combinations: Sequence[str], modalities: Mapping[str, str]) -> None:
    for column, name in enumerate(combinations, start=1):
        axis = figure.add_subplot(grid[0, column])
        axis.set_axis_off()
        axis.set(xlim=(-1, 1), ylim=(len(modalities) - 0.5, -0.5))
        for y, modality in enumerate(modalities):
            given = modality in name.split("+")
            axis.plot(0, y, "o", markersize=4, color="black", markerfacecolor="black" if given else "white")
            if column == 1:
                axis.text(-1.2, y, modalities[modality], ha="right", va="center", fontsize=7)


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
    norm = BoundaryNorm(np.arange(0.5, len(COLOURS) + 1), len(COLOURS))
    axis.imshow(shown.T, cmap=ListedColormap(COLOURS), norm=norm, alpha=0.75, origin="lower", interpolation="nearest")
