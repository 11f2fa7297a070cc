"""One slice of one patient, as every combination of modalities segments it (the paper's Figures 4 and 5)."""

from __future__ import annotations

import math
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from monai_passion import NOTICE
from monai_passion.data.geometry import dice
from monai_passion.errors import InputError
from monai_passion.modalities import parse_combination
from monai_passion.prediction.output.preview import (
    AXIS,
    EDGES,
    bounding_box,
    canonical,
    mark_edges,
    names_in_a_line,
    plane_aspect,
    plane_slice,
    window,
)
from monai_passion.tasks import PALETTE

__all__ = ["Example", "example_figure", "read_example"]

MARGIN = 3
"""Voxels around the head and everything that is labeled."""


class Example(NamedTuple):
    """The example of a patient that `monai_passion.evaluation.CombinationScores` keeps."""

    image: np.ndarray
    """(M, H, W)."""
    label: np.ndarray
    """(H, W)."""
    prediction: np.ndarray
    """(C, H, W); -1 where the patient lacks the combination."""
    combinations: tuple[str, ...]
    modalities: tuple[str, ...]
    affine: np.ndarray
    """(4, 4) of the volume; the slice lies across its third axis. NaN if its place is unknown."""


def read_example(path: Path) -> Example:
    """Read an ``example.npz``.

    Raises:
        InputError: the file is damaged or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            found = Example(
                data["image"],
                data["label"],
                data["prediction"],
                tuple(data["combinations"].tolist()),
                tuple(data["modalities"].tolist()),
                data["affine"],
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}; delete it, or evaluate again") from None
    return found


def example_figure(
    examples: Mapping[str, Example],
    combinations: Sequence[str],
    modalities: Mapping[str, str],
    classes: Mapping[str, str],
    kind: str = "patient",
) -> Figure:
    """A square of panels per method: the reference, then the result of each combination, with its Dice.

    Left and right are radiological, as in `monai_passion.prediction.output.preview`; panels of one grid show the same
    voxels for all methods.

    Args:
        examples: method -> its example.
        combinations: panels, in this order, those that the examples have.
        modalities: name -> title, in this order; the image is that of the first.
        classes: title -> color of the labels 1, 2, ...; labels beyond them are named by their number.
        kind: patient or phantom.
    """
    columns = math.ceil(math.sqrt(len(combinations) + 1))
    rows = math.ceil((len(combinations) + 1) / columns)
    width, block = 1.7 * columns, 1.9 * rows + 0.35
    highest = max(int(max(e.label.max(), e.prediction.max())) for e in examples.values())
    unnamed = range(len(classes) + 1, highest + 1)
    looks = {**classes, **{f"class {k}": PALETTE[(k - 1) % len(PALETTE)] for k in unnamed}}
    in_a_line = names_in_a_line([*looks], width, 7)
    below = 0.28 + 0.16 * (max(len(looks) - 1, 0) // in_a_line)  # the legend's lines
    text = f"One {kind}, the slice with the most labeled voxels; Dice of all labels together. {NOTICE}"
    lines = textwrap.wrap(text, int(16 * width))
    height = block * len(examples) + below + 0.13 * len(lines) + 0.1
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
        within = _extent([other for other in examples.values() if other.label.shape == example.label.shape])
        image = example.image[example.modalities.index(next(iter(modalities)))]
        drawn = [example.label, *(example.prediction[kept.index(frozenset(name.split("+")))] for name in combinations)]
        labels |= {int(value) for value in np.unique(drawn) if value > 0}
        for place, (name, shown) in enumerate(zip(("", *combinations), drawn, strict=True)):
            axis = figure.add_subplot(grid[place // columns, place % columns])
            _draw(axis, image[within], shown[within], example.affine, list(looks.values()))
            given = " + ".join(title for m, title in modalities.items() if m in name.split("+"))
            score = f"  {dice(shown > 0, example.label > 0):.2f}" if name and shown.min() >= 0 else ""
            axis.set_title(f"{given}{score}" if name else "Reference", fontsize=7, pad=2)
    handles = [Patch(color=color, label=title) for k, (title, color) in enumerate(looks.items(), 1) if k in labels]
    if handles:
        shown_in_a_line = min(in_a_line, len(handles))
        figure.legend(handles=handles, loc="lower center", ncols=shown_in_a_line, fontsize=7, frameon=False)
    figure.text(0.5, below / height, "\n".join(lines), fontsize=7, ha="center", color="#595959")
    return figure


def _extent(examples: Sequence[Example]) -> tuple[slice, ...]:
    """Around the head, where there is nothing (0) outside it, and everything that a method or the reference labels."""
    maps = [array for e in examples for array in (*(e.image != 0), e.label > 0, *(e.prediction > 0))]
    return bounding_box(np.any(maps, axis=0), MARGIN)


def _draw(axis: Any, image: np.ndarray, labels: np.ndarray, affine: np.ndarray, colors: Sequence[str]) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if labels.min() < 0:
        axis.text(0.5, 0.5, "not given", ha="center", va="center", fontsize=7, transform=axis.transAxes)
        return
    is_known = bool(np.isfinite(affine).all())
    scene = canonical({"": image[..., None]}, labels[..., None], affine if is_known else np.eye(4))
    plane = next(name for name, number in AXIS.items() if scene.labels.shape[number] == 1)
    low, high = window(image)
    background = plane_slice(np.where(scene.images[""] == 0, low, scene.images[""]), plane, 0)
    outlook: dict[str, Any] = {"aspect": plane_aspect(scene, plane), "interpolation": "nearest"}
    axis.imshow(background, cmap="gray", vmin=low, vmax=high, **outlook)
    shown = np.ma.masked_less(plane_slice(scene.labels, plane, 0), 1)
    axis.imshow(shown, cmap=ListedColormap(colors), vmin=0.5, vmax=len(colors) + 0.5, alpha=0.75, **outlook)
    if is_known:
        mark_edges(axis, EDGES[plane])
