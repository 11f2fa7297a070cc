"""One picture of a segmentation: the slices that show most of it, in every modality that was used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from monai_passion import NOTICE

__all__ = ["COLOURS", "TITLES", "Canonical", "canonical", "label_colours", "plane_slice", "preview", "window"]

COLOURS = ("#E6550D", "#33BBEE", "#F0E442", "#CC79A7", "#009E73")
"""Of the labels, background left out: told apart by the colour-blind, and on grey."""
PLANES = ("axial", "coronal", "sagittal")
EDGES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
"""Left, right, top, bottom of each plane as radiologists look at it."""
TITLES = {"flair": "FLAIR", "t1c": "T1c", "t1": "T1", "t2": "T2", "bssfp": "bSSFP", "lge": "LGE"}
HALO = [withStroke(linewidth=2, foreground="black")]
WIDTH, MARGIN = 3.0, 1.3
"""Of a column, and of what stands above and below the images together, in inches."""
AXIS = {"axial": 2, "coronal": 1, "sagittal": 0}


class Canonical(NamedTuple):
    """Images with their axes turned to the nearest of right, anterior, superior."""

    images: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.unsignedinteger]
    spacing: tuple[float, float, float]
    """mm."""


def canonical(
    images: Mapping[str, NDArray[np.float32]], labels: NDArray[np.unsignedinteger], affine: NDArray[np.float64]
) -> Canonical:
    """Turn images (X, Y, Z) and labels on one grid; nothing is interpolated."""
    turn = nib.io_orientation(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]
    turned = {m: nib.apply_orientation(image, turn) for m, image in images.items()}
    return Canonical(turned, nib.apply_orientation(labels, turn), tuple(spacing))


def plane_slice(volume: NDArray[Any], plane: str, index: int) -> NDArray[Any]:
    """One slice of a canonical volume as an image: rows from top to bottom, radiological left and right."""
    cut = np.take(volume, index, axis=AXIS[plane])
    return cut[::-1, ::-1].T  # anterior or superior on top; right, or anterior, on the left


def window(image: NDArray[np.float32]) -> tuple[float, float]:
    """The grey values between which an image is shown."""
    low, high = np.percentile(image[image != 0], (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def label_colours(values: Iterable[int]) -> dict[int, str]:
    """The colour of each label, in hexadecimal."""
    return dict(zip(values, cycle(COLOURS), strict=False))


def preview(scene: Canonical, names: Mapping[int, str], title: str) -> Figure:
    """Axial, coronal and sagittal slices (rows) of each modality (columns) with the outlines of the labels.

    A slice is the one with the largest area of the labels within the head; of the head where no label was found.

    Args:
        scene: from `canonical`.
        names: label value -> what the legend says of it.
        title: one line.
    """
    head = np.any([image != 0 for image in scene.images.values()], axis=0)
    found = (scene.labels > 0) & head
    subject = found if found.any() else head
    box = tuple(_extent(head, axis) for axis in range(3))
    across, up, high = (scene.spacing[a] * (box[a].stop - box[a].start) for a in range(3))
    columns, height = max(len(scene.images), 2), WIDTH * (up + 2 * high) / max(across, up)
    figure = Figure(figsize=(WIDTH * columns, height + MARGIN), facecolor="black", dpi=130)
    rows = figure.add_gridspec(
        3,
        columns,
        height_ratios=(up, high, high),
        **{"left": 0.01, "right": 0.99, "wspace": 0.02, "hspace": 0.03},
        top=1 - 0.55 * MARGIN / (height + MARGIN),
        bottom=0.45 * MARGIN / (height + MARGIN),
    )
    for row, plane in enumerate(PLANES):
        axis = AXIS[plane]
        index = int(np.argmax(subject.sum(axis=tuple(a for a in range(3) if a != axis))))
        within = tuple(slice(None) if a == axis else box[a] for a in range(3))
        outlines = plane_slice(scene.labels[within], plane, index)
        for column, (m, image) in enumerate(scene.images.items()):
            low, high = window(image)
            ax = figure.add_subplot(rows[row, column])
            ax.set_axis_off()
            shown = plane_slice(np.where(image[within] == 0, low, image[within]), plane, index)  # black around the head
            ax.imshow(shown, cmap="gray", vmin=low, vmax=high, aspect=_aspect(scene, plane))
            for value, colour in label_colours(names).items():
                if (outlines == value).any() and not (outlines == value).all():
                    ax.contour(outlines == value, levels=[0.5], colors=[colour], linewidths=1.0)
            _edges(ax, EDGES[plane])
            if row == 0:
                ax.set_title(TITLES.get(m, m), color="white", fontsize=12)
            if column == 0:
                ax.text(
                    0.02, 0.02, f"{plane} {index}", color="white", fontsize=8, transform=ax.transAxes, path_effects=HALO
                )
    figure.suptitle(title, color="white", fontsize=11, y=1 - 0.08 / (height + MARGIN))
    handles = [
        Line2D([], [], color=c, linewidth=3, label=text)
        for c, text in zip(label_colours(names).values(), names.values(), strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.2 / (height + MARGIN)),
        ncols=len(handles),
        frameon=False,
        labelcolor="white",
        fontsize=9,
    )
    figure.text(0.5, 0.06 / (height + MARGIN), NOTICE, ha="center", color="#BBBBBB", fontsize=9)
    return figure


def _extent(head: NDArray[np.bool_], axis: int) -> slice:
    there = np.flatnonzero(head.any(axis=tuple(a for a in range(3) if a != axis)))
    return slice(max(there[0] - 3, 0), min(there[-1] + 4, head.shape[axis]))


def _aspect(scene: Canonical, plane: str) -> float:
    across, down = (scene.spacing[a] for a in range(3) if a != AXIS[plane])
    return down / across


def _edges(ax: Any, letters: str) -> None:
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015))
    for letter, (x, y), ha, va in zip(
        letters, places, ("left", "right", "center", "center"), ("center", "center", "top", "bottom"), strict=True
    ):
        ax.text(x, y, letter, color="white", fontsize=8, path_effects=HALO, ha=ha, va=va, transform=ax.transAxes)
