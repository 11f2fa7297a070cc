"""One picture of a segmentation: three planes through one point, in every modality that was used."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage

from monai_passion.prediction.terminal import expected_text, unknown_text

__all__ = [
    "AXIS",
    "EDGES",
    "Canonical",
    "bounding_box",
    "canonical",
    "draw_outline",
    "mark_edges",
    "names_in_a_line",
    "plane_aspect",
    "plane_slice",
    "preview",
    "view_point",
    "window",
]

PLANES = ("axial", "coronal", "sagittal")
EDGES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
"""Left, right, top, bottom of each plane as radiologists look at it."""
HALO = [withStroke(linewidth=2, foreground="black")]
WIDTH, LINE = 3.0, 0.19
"""Of a column, and of a line of text, in inches."""
LETTER, HANDLE = 0.6, 5.2
"""How wide a letter of a legend is at most, and the line before a name with the gap behind it, in letters' heights."""
MARGIN = 3
"""Voxels around the head."""
AXIS = {"axial": 2, "coronal": 1, "sagittal": 0}
BANDS = {"unusable": "#D00000", "warning": "#9B1C1C"}
"""Colors behind doubts."""
SHOWN = 4
"""Doubts that are written out; of the rest their number."""


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
    spacing = voxel_sizes(affine)[np.argsort(turn[:, 0])]
    turned = {m: nib.apply_orientation(image, turn) for m, image in images.items()}
    return Canonical(turned, nib.apply_orientation(labels, turn), tuple(spacing))


def plane_slice(volume: NDArray[Any], plane: str, index: int) -> NDArray[Any]:
    """One slice of a canonical volume as an image: rows from top to bottom, radiological left and right."""
    cut = np.take(volume, index, axis=AXIS[plane])
    return cut[::-1, ::-1].T  # anterior or superior on top; right, or anterior, on the left


def bounding_box(where: NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...]:
    """What is True, and ``margin`` on each side as far as the array goes; all of it where nothing is True."""
    box = []
    for axis, size in enumerate(where.shape):
        there = np.flatnonzero(where.any(axis=tuple(a for a in range(where.ndim) if a != axis)))
        first, last = (int(there[0]), int(there[-1])) if len(there) else (0, size - 1)
        box.append(slice(max(first - margin, 0), min(last + margin + 1, size)))
    return tuple(box)


def window(image: NDArray[np.float32]) -> tuple[float, float]:
    """The gray values between which an image is shown."""
    low, high = np.percentile(image[image != 0], (0.5, 99.5)) if image.any() else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def draw_outline(ax: Any, mask: NDArray[np.bool_], color: str) -> None:
    """Draw the border of a mask over an image; a mask in one row of pixels has none."""
    if mask.any() and not mask.all() and min(mask.shape) > 1:
        ax.contour(mask, levels=[0.5], colors=[color], linewidths=1.0)


def names_in_a_line(names: Sequence[str], width: float, size: float) -> int:
    """How many names of a legend stand in a line ``width`` inches wide, in letters of ``size`` points; 1 or more."""
    return max(int(width * 72 / size / (LETTER * max(map(len, names), default=0) + HANDLE)), 1)


def view_point(
    images: Mapping[str, NDArray[np.float32]], report: Mapping[str, Any], affine: NDArray[np.float64]
) -> tuple[list[int], list[float]]:
    """The voxel to look at, and where it lies in mm: the report's focus, else the middle of what the images show."""
    if report["focus"]:
        return list(report["focus"]["voxel"]), list(report["focus"]["mm"])
    shown = np.argwhere(np.any([image != 0 for image in images.values()], axis=0))
    voxel = [int(c) for c in np.rint(shown.mean(axis=0))]
    return voxel, [float(c) for c in (affine @ [*voxel, 1])[:3]]


def preview(
    images: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.unsignedinteger] | Mapping[str, NDArray[np.unsignedinteger]],
    affine: NDArray[np.float64],
    report: Mapping[str, Any],
    beneath: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """Axial, coronal and sagittal slices (rows) of each modality (columns) through one point, labels outlined.

    Doubts stand on top in a red band, volumes and the notice beneath.

    Args:
        images: modality -> (X, Y, Z).
        labels: (X, Y, Z), or one for each of ``images``.
        affine: of them.
        report: the content of ``report.json``.
        beneath: texts beneath the images, a line per region first, in place of those of the report.

    Returns:
        RGB, (height, width, 3).
    """
    maps = labels if isinstance(labels, Mapping) else dict.fromkeys(images, labels)
    outlined = {m: canonical({}, maps[m], affine).labels for m in images}
    scene = canonical(images, next(iter(maps.values())), affine)
    cut = _cut(scene, images, report, affine)
    across, up, high = (scene.spacing[a] * (cut.box[a].stop - cut.box[a].start) for a in range(3))
    columns = max(len(images), 2)
    wide = WIDTH * columns
    letters = int(wide * 13)
    bands = _bands(report, letters)
    texts = [line for text in beneath or _beneath(report) for line in textwrap.wrap(text, letters)]
    names = [row["title"] for row in report["labels"]]
    in_a_line = names_in_a_line(names, wide, 9)
    top = LINE * (len(bands) + 2 + math.ceil(len(names) / in_a_line))
    bottom = LINE * (len(texts) + 0.5)
    height = WIDTH * (up + 2 * high) / max(across, up) + top + bottom
    left, spare = 1.5 * LINE / wide, (1 - len(images) / columns) / 2
    figure = Figure(figsize=(wide, height), facecolor="black", dpi=130)
    rows = figure.add_gridspec(
        3,
        len(images),
        height_ratios=(up, high, high),
        **{"left": left + spare, "right": 0.99 - spare, "wspace": 0.02, "hspace": 0.03},
        top=1 - top / height,
        bottom=bottom / height,
    )
    for row, plane in enumerate(PLANES):
        for column, m in enumerate(images):
            ax = figure.add_subplot(rows[row, column])
            _draw_slice(ax, scene, m, outlined[m], plane, cut, report["labels"])
            if row == 0:
                ax.set_title(report["titles"].get(m, m), color="white", fontsize=12, pad=3, y=1.0)
            if column == 0:
                place = ax.get_position()
                middle = (place.y0 + place.y1) / 2
                figure.text(0.35 * left, middle, cut.where[plane], rotation=90, va="center", color="white", fontsize=8)
    _write_bands(figure, bands)
    _write_beneath(figure, texts, bottom, len(report["regions"]))
    figure.legend(
        handles=[Line2D([], [], color=row["color"], linewidth=3, label=row["title"]) for row in report["labels"]],
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - LINE * (len(bands) - 0.25) / height),
        ncols=min(in_a_line, len(names)),
        frameon=False,
        labelcolor="white",
        fontsize=9,
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


class _Cut(NamedTuple):
    """Where the planes are, in the axes of a `Canonical`."""

    point: list[int]
    """The voxel through which they go."""
    box: tuple[slice, ...]
    """What the images show."""
    where: dict[str, str]
    """Each plane in words, with its place in the axes of the file."""


def _cut(
    scene: Canonical, images: Mapping[str, NDArray[np.float32]], report: Mapping[str, Any], affine: NDArray[np.float64]
) -> _Cut:
    """The planes through the point to look at."""
    shape = next(iter(images.values())).shape
    voxel, mm = view_point(images, report, affine)
    turn = nib.io_orientation(affine)
    file_axis = [int(np.flatnonzero(turn[:, 0] == a)[0]) for a in range(3)]
    point = [voxel[a] if turn[a, 1] > 0 else shape[a] - 1 - voxel[a] for a in file_axis]
    box = bounding_box(np.any([image != 0 for image in scene.images.values()], axis=0), MARGIN)
    where = {
        plane: f"{plane}, {'ijk'[file_axis[axis]]} = {voxel[file_axis[axis]]}, {'xyz'[axis]} = {mm[axis]:.1f} mm"
        for plane, axis in AXIS.items()
    }
    return _Cut(point, box, where)


def _draw_slice(
    ax: Any,
    scene: Canonical,
    modality: str,
    labels: NDArray[np.unsignedinteger],
    plane: str,
    cut: _Cut,
    classes: Sequence[Mapping[str, Any]],
) -> None:
    """One slice of one modality in gray, with its labels outlined."""
    image, axis = scene.images[modality], AXIS[plane]
    within = tuple(slice(None) if a == axis else cut.box[a] for a in range(3))
    low, high = window(image)
    shown = plane_slice(np.where(image[within] == 0, low, image[within]), plane, cut.point[axis])
    outlines = plane_slice(labels[within], plane, cut.point[axis])
    ax.set_axis_off()
    ax.imshow(shown, cmap="gray", vmin=low, vmax=high, aspect=plane_aspect(scene, plane))
    areas = [(_with_what_it_surrounds(outlines, row["value"]), row["color"]) for row in classes]
    for area, color in sorted(areas, key=lambda drawn: -int(drawn[0].sum())):  # small ones on top
        draw_outline(ax, area, color)
    mark_edges(ax, EDGES[plane])


def _write_bands(figure: Figure, bands: Sequence[tuple[str, str]]) -> None:
    """Lines of doubts from the top of the figure, each on its color."""
    line = LINE / figure.get_figheight()
    for number, (color, text) in enumerate(bands):
        y = 1 - line * (number + 1)
        figure.patches.append(
            Rectangle((0, y), 1, line, transform=figure.transFigure, facecolor=color, edgecolor="none")
        )
        figure.text(0.01, y + 0.25 * line, text, color="white", fontsize=9, fontweight="bold")


def _write_beneath(figure: Figure, texts: Sequence[str], bottom: float, bright: int) -> None:
    """Lines beneath the images, which end ``bottom`` inches above the edge; the first ``bright`` stand out."""
    for number, text in enumerate(texts):
        y = (bottom - LINE * (number + 1)) / figure.get_figheight()
        figure.text(0.5, y, text, ha="center", color="white" if number < bright else "#BBBBBB", fontsize=9)


def _with_what_it_surrounds(labels: NDArray[np.unsignedinteger], value: int) -> NDArray[np.bool_]:
    """A label and those in its holes, whose borders are their own: edema is not outlined towards the core within."""
    mask = labels == value
    surrounded: NDArray[np.bool_] = ndimage.binary_fill_holes(mask) & (labels > 0)
    return mask | surrounded


def _bands(report: Mapping[str, Any], letters: int) -> list[tuple[str, str]]:
    """Color and text of each line of doubts, the worst first."""
    doubts = [(level, r["text"]) for level in BANDS for r in report["findings"] if r["level"] == level]
    lines = [
        (BANDS[level], line)
        for level, text in doubts[:SHOWN]
        for line in textwrap.wrap(f"{level.upper() if level == 'warning' else 'UNUSABLE'}: {text}", letters)
    ]
    more = len(doubts) - SHOWN
    return [*lines, (BANDS["warning"], f"and {more} more; see report.json")] if more > 0 else lines


def _beneath(report: Mapping[str, Any]) -> list[str]:
    """What stands beneath the images: volumes, what made them, the notice."""
    quality = report["expected_quality"]
    volumes = [
        f"{row['title']}: {row['volume_ml']:.1f} mL"
        + (f", expected Dice {expected_text(quality, row['name'])}" if quality else "")
        for row in report["regions"]
    ]
    used, absent = (
        ", ".join(report["titles"].get(m, m) for m in report["modalities"][which]) for which in ("used", "absent")
    )
    source = f"from {used}" + (f", without {absent}" if absent else "")
    bundle = f"{report['bundle']['name']} {report['bundle']['version']}, {source}"
    return [text for text in (*volumes, unknown_text(quality), bundle, report["notice"]) if text]


def plane_aspect(scene: Canonical, plane: str) -> float:
    """How much taller than wide a pixel of a slice is."""
    across, down = (scene.spacing[a] for a in range(3) if a != AXIS[plane])
    return down / across


def mark_edges(ax: Any, letters: str) -> None:
    """The letters of the left, right, top and bottom of a picture."""
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015))
    for letter, (x, y), ha, va in zip(
        letters, places, ("left", "right", "center", "center"), ("center", "center", "top", "bottom"), strict=True
    ):
        ax.text(x, y, letter, color="white", fontsize=8, path_effects=HALO, ha=ha, va=va, transform=ax.transAxes)
