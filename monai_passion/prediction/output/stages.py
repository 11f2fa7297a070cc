"""Pictures of the steps from the scanner's images to the network's input, one row per stage."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monai_passion.data.nifti import Volume
from monai_passion.prediction.output.preview import AXIS, canonical, draw_outline, plane_aspect, plane_slice

__all__ = ["StagePicture", "stage_picture"]

WIDTH, HEIGHT, LINE = 1.9, 2.1, 0.25
"""Size of an image, and height of a line of text, in inches."""


class StagePicture(NamedTuple):
    """One stage."""

    title: str
    jpeg: bytes


def stage_picture(
    title: str, volumes: Mapping[str, Volume], titles: Mapping[str, str], mask: NDArray[np.bool_] | None = None
) -> StagePicture:
    """The middle axial and coronal slices of each volume on its own grid, with the outline of ``mask``.

    Args:
        title: of the stage.
        volumes: modality -> image.
        titles: modality -> its name for people.
        mask: (X, Y, Z) on the grid of all volumes.
    """
    count, planes = len(volumes), ("axial", "coronal")
    figure = Figure(figsize=(WIDTH * count, HEIGHT * len(planes) + LINE), facecolor="black", dpi=110)
    body = 1 - LINE / figure.get_figheight()
    for column, (m, volume) in enumerate(volumes.items()):
        outline = np.zeros(volume.shape, np.uint8) if mask is None else mask.astype(np.uint8)
        scene = canonical({m: volume.data}, outline, volume.affine)
        low, high = np.percentile(volume.data, (1, 99.5))
        for row, plane in enumerate(planes):
            index = scene.labels.shape[AXIS[plane]] // 2
            ax = figure.add_axes((column / count, body * (1 - (row + 1) / len(planes)), 1 / count, body / len(planes)))
            ax.set_axis_off()
            image, shown = (plane_slice(array, plane, index) for array in (scene.images[m], scene.labels))
            ax.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=plane_aspect(scene, plane))
            draw_outline(ax, shown, "#33BBEE")
        size = " x ".join(f"{length:.2g}" for length in scene.spacing)
        middle = (column + 0.5) / count
        figure.text(middle, body, f"{titles.get(m, m)}, {size} mm", color="white", fontsize=8, ha="center", va="bottom")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", facecolor=figure.get_facecolor())
    return StagePicture(title, buffer.getvalue())
