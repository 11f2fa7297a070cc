"""Parts common to brain and heart: sampling grids, smooth random fields, mixing of tissues, bias, noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.interpolate import BSpline

from monai_passion.data.phantom.signal import Tissue

__all__ = [
    "CenteredGrid",
    "PhantomCase",
    "Streams",
    "bias_field",
    "block_mean",
    "paint",
    "quantize",
    "random_streams",
    "rician",
    "smooth_field",
    "soft_step",
    "vary",
]

FIELD_HALF_WIDTH = 128.0
"""Random fields cover this many mm to each side of the center on any grid: one patient at any resolution."""


class PhantomCase(NamedTuple):
    """One phantom: an int16 image per modality, its label, and the affine voxel -> mm (RAS+) of both."""

    images: dict[str, np.ndarray]
    label: np.ndarray
    affine: np.ndarray


class CenteredGrid(NamedTuple):
    """A lattice of voxels, centered on 0; sizes in voxels, spacing in mm."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def axes(self) -> tuple[np.ndarray, ...]:
        """Positions of the voxel centers along each axis in mm, shaped so that they broadcast to ``shape``."""
        lines = [
            (np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(self.shape, self.spacing, strict=True)
        ]
        return tuple(np.meshgrid(*lines, indexing="ij", sparse=True))

    def finer(self, factor: int) -> CenteredGrid:
        """The lattice that `block_mean` with ``factor`` brings back to this one."""
        i, j, k = self.shape
        u, v, w = self.spacing
        return CenteredGrid((i * factor, j * factor, k * factor), (u / factor, v / factor, w / factor))


class Streams(NamedTuple):
    """Independent random numbers, so that a patient has the same anatomy at each resolution."""

    anatomy: np.random.Generator
    tissue: np.random.Generator
    noise: np.random.Generator


def random_streams(seed: int, index: int) -> Streams:
    """The random numbers of case ``index`` of cohort ``seed``, independent of other cases."""
    return Streams(*(np.random.default_rng(child) for child in np.random.SeedSequence([seed, index]).spawn(3)))


def smooth_field(rng: np.random.Generator, grid: CenteredGrid, *knots: float) -> np.ndarray:
    """Gaussian random field, mean 0, standard deviation about 1: the sum of a cubic B-spline per knot distance (mm).

    The coefficients are drawn on lattices fixed in space, so a finer grid sees the same field in more detail.

    Returns:
        float32 array of the grid's shape.
    """
    total = np.zeros(grid.shape, np.float32)
    for distance in knots:
        count = int(np.ceil(2 * FIELD_HALF_WIDTH / distance)) + 3
        positions = distance * (np.arange(count + 4) - 3) - FIELD_HALF_WIDTH
        field = rng.standard_normal((count,) * 3, dtype=np.float32)
        for axis in grid.axes:  # sparse products: fast, and the same bits on any number of threads
            basis = BSpline.design_matrix(axis.ravel().astype(float), positions, 3).astype(np.float32)
            field = np.moveaxis((basis @ field.reshape(field.shape[0], -1)).reshape(-1, *field.shape[1:]), 0, -1)
        total += field
    mean_square = 0.479  # of a cubic B-spline's samples, averaged over an interval
    return total / np.float32(np.sqrt(len(knots) * mean_square**3))


def block_mean(array: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of ``factor`` voxels along each of the last three axes: the signal of a larger voxel."""
    if factor == 1:
        return array
    *lead, i, j, k = array.shape
    blocks = array.reshape(*lead, i // factor, factor, j // factor, factor, k // factor, factor)
    return blocks.mean((-5, -3, -1), dtype=np.float32)


def soft_step(distance: np.ndarray, width: float) -> np.ndarray:
    """1 well inside a surface (negative distance), 0 well outside, a linear ramp of ``width`` mm across it."""
    return np.clip(0.5 - distance / width, 0, 1)


def paint(fractions: dict[str, np.ndarray], tissue: str, alpha: np.ndarray) -> None:
    """Replace the share ``alpha`` (0 to 1) of each voxel by one tissue; the fractions keep their sum. In place."""
    for other in fractions.values():
        other *= 1 - alpha
    fractions[tissue] = fractions[tissue] + alpha if tissue in fractions else alpha.copy()


def vary(rng: np.random.Generator, tissues: Mapping[str, Tissue], cv: Mapping[str, float]) -> dict[str, Tissue]:
    """One subject's tissues: T1, T2 and contrast uptake log-normal with the given coefficient of variation, PD a third.

    Uptake varies apart from T1, so ``t1_gd`` stays below ``t1``.
    """
    subject = {}
    for name, tissue in tissues.items():
        a, b, c, d = np.exp(cv[name] * rng.standard_normal(4))
        t1 = tissue.t1 * a
        subject[name] = Tissue(t1, 1 / (1 / t1 + tissue.uptake * b), tissue.t2 * c, tissue.pd * d ** (1 / 3))
    return subject


def bias_field(rng: np.random.Generator, grid: CenteredGrid, inu: float, knots: float = 70.0) -> np.ndarray:
    """Smooth intensity non-uniformity between 1 - inu/2 and 1 + inu/2 (BrainWeb: "20 %" is 0.9 to 1.1)."""
    field = smooth_field(rng, grid, knots)
    return 1 + inu / 2 * field / np.abs(field).max()


def rician(rng: np.random.Generator, signal: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of a signal with Gaussian noise in both channels."""
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(sigma)
    return np.hypot(signal + real, imaginary)


def quantize(signal: np.ndarray, unit: float) -> np.ndarray:
    """``signal / unit`` as int16."""
    return np.rint(np.clip(signal / unit, 0, 32767)).astype(np.int16)
