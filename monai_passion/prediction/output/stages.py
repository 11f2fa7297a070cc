"""Pictures of what happens to images on their way from the scanner to the network, one row per stage."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monai_passion.data.nifti import Volume
from monai_passion.prediction.output.preview import canonical, plane_slice

__all__ = ["StagePicture", "stage_picture"]

WIDTH = 1.9
"""Of an image, in inches."""


class StagePicture(NamedTuple):
    """One stage."""

    title: str
    jpeg: bytes


def stage_picture(
    title: str, volumes: Mapping[str, Volume], titles: Mapping[str, str], mask: NDArray[np.bool_] | None = None
) -> StagePicture:
    """The middle axial slice of each volume on its own grid, with the outline of ``mask``.

    Args:
        title: of the stage.
        volumes: modality -> image.
        titles: modality -> as people read it.
        mask: (X, Y, Z) on the grid of all volumes.
    """
    figure = Figure(figsize=(WIDTH * len(volumes), WIDTH * 1.25), facecolor="black", dpi=80)
    for column, (m, volume) in enumerate(volumes.items()):
        outline = np.zeros(volume.shape, np.uint8) if mask is None else mask.astype(np.uint8)
        scene = canonical({m: volume.data}, outline, volume.affine)
        index = scene.labels.shape[2] // 2
        image = plane_slice(scene.images[m], "axial", index)
        ax = figure.add_axes((column / len(volumes), 0, 1 / len(volumes), 0.88))
        ax.set_axis_off()
        low, high = np.percentile(image, (1, 99.5))
        ax.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=scene.spacing[1] / scene.spacing[0])
        shown = plane_slice(scene.labels, "axial", index)
        if shown.any() and not shown.all():
            ax.contour(shown, levels=[0.5], colors=["#33BBEE"], linewidths=1.0)
        size = " x ".join(f"{length:.2g}" for length in scene.spacing)
        ax.set_title(f"{titles.get(m, m)}, {size} mm", color="white", fontsize=8, pad=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", facecolor=figure.get_facecolor())
    return StagePicture(title, buffer.getvalue())
