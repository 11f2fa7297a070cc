"""Overlap and surface distances of segmented regions, in mm, with the rule for empty regions named.

Of two regions P (predicted) and R (reference), whose border voxels are those with a face neighbor outside the region
(voxels at the edge of the image count), let d be the distances of all border voxels of P to the nearest of R together
with those of all border voxels of R to the nearest of P.

==========  =========================================================================================================
Dice        2 |P and R| / (|P| + |R|)
HD95        95th percentile of d, linearly interpolated. This is `medpy.metric.hd95`, which the published code used.
            MONAI's ``compute_hausdorff_distance(percentile=95)`` is the larger of two directed percentiles instead.
ASSD        mean of d, as MONAI's symmetric average surface distance (`medpy.metric.assd` averages two means)
NSD         share of d up to the tolerance, as MONAI's ``compute_surface_dice`` without sub-voxels
==========  =========================================================================================================

The distances are found inside the bounding box of P and R together. That is exact without any margin: both borders lie
in the box, and what is just outside the box is outside both regions, as is what lies outside the image.

Two dimensions are as good as three. On an H x W x 1 array, however, every voxel is border, since it has no neighbor
along the last axis; the published 2-D results were computed that way, and their HD95 is too small. A slice is H x W
here.

Rows
----
`score_case` and `score_slices` give one dict per region and convention, the rows of a run's ``metrics.csv``:

================  =====================================================================================================
case              name of the scored volume or slice
patient           whose it is: the unit of every statistic
combination       modalities the network was given, e.g. ``flair+t1`` (see `monai_passion.modalities`)
region            e.g. ``WT``
convention        ``challenge`` or ``released``, see `CONVENTIONS`
dice, nsd         0 ... 1
hd95, assd        mm (voxels where the spacing is unknown)
predicted_ml,     volumes in mL (empty where the spacing is unknown)
reference_ml
ece               0 ... 1, see `calibration_error` (empty where only labels are known)
================  =====================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = [
    "BRATS_REGIONS",
    "CHALLENGE",
    "COLUMNS",
    "CONVENTIONS",
    "METRICS",
    "MYOPS_REGIONS",
    "RELEASED",
    "Convention",
    "RegionScore",
    "Regions",
    "calibration_error",
    "image_diagonal",
    "score_case",
    "score_region",
    "score_slices",
    "surface_distances",
]

Regions = Mapping[str, tuple[int, ...]]
"""Region name -> the labels that make it up."""
BRATS_REGIONS: Regions = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
"""Whole tumor, tumor core, enhancing tumor; labels 1 necrosis, 2 edema, 3 enhancing."""
MYOPS_REGIONS: Regions = {"LVB": (2,), "RVB": (3,), "MYO": (1, 4, 5)}
"""Blood pools and the whole myocardium; labels 1 healthy, 4 edema, 5 scar."""

METRICS = ("dice", "hd95", "assd", "nsd")
COLUMNS = ("case", "patient", "combination", "region", "convention", *METRICS, "predicted_ml", "reference_ml", "ece")


ROUNDING = 1e-6
"""Tolerance for voxel sizes in single precision: a distance of one voxel may be 1.00000006 mm."""


class Convention(NamedTuple):
    """Rule for empty regions. If both are empty, Dice and NSD are always 1 and distances 0.

    Attributes:
        name: its name in the rows.
        missed_distance: HD95 and ASSD if exactly one of the two is empty; ``None``: the diagonal of the image.
        epsilon: added to numerator and denominator of Dice.
        min_ml: a predicted region with a smaller volume counts as empty; a voxel of unknown size is 1 mm^3.
    """

    name: str
    missed_distance: float | None = None
    epsilon: float = 0.0
    min_ml: Mapping[str, float] = {}


CHALLENGE = Convention("challenge")
"""The image diagonal for a missed region, as the BraTS challenge: 373.13 mm for 240 x 240 x 155 voxels of 1 mm."""
RELEASED = Convention("released", missed_distance=1.0, epsilon=1e-8, min_ml={"ET": 0.5})
"""The convention of the published evaluation code. It flatters: a missed lesion costs an HD95 of 1. ASSD, which that
code lacks, follows HD95. Its limit of 500 voxels of ET, of 1 mm^3 in BraTS, is 0.5 mL on any grid here, per case, as in
that code for a batch of one."""
CONVENTIONS = {convention.name: convention for convention in (CHALLENGE, RELEASED)}


class RegionScore(NamedTuple):
    """Scores of one region; see the module for definitions and units. Volumes are in voxels."""

    dice: float
    hd95: float
    assd: float
    nsd: float
    predicted: int
    reference: int


def _checked(pred: NDArray, true: NDArray, spacing: Sequence[float] | None) -> tuple[NDArray, NDArray]:
    pred, true = np.asarray(pred), np.asarray(true)
    if pred.shape != true.shape:
        raise ValueError(f"pred has shape {pred.shape}, true {true.shape}; bring both onto one grid first")
    if spacing is not None and len(spacing) != pred.ndim:
        raise ValueError(f"spacing has {len(spacing)} values for {pred.ndim} axes; give one per axis")
    return pred, true


def image_diagonal(shape: Sequence[int], spacing: Sequence[float] | None) -> float:
    """Diagonal of an image in mm, or in voxels where the spacing is unknown."""
    return math.hypot(*np.multiply(shape, 1.0 if spacing is None else spacing))


def _box(region: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Bounding box of the true voxels; of no extent where there are none."""
    box = []
    for axis in range(region.ndim):
        hits = np.flatnonzero(region.any(axis=tuple(i for i in range(region.ndim) if i != axis)))
        box.append(slice(hits[0], hits[-1] + 1) if len(hits) else slice(0, 0))
    return tuple(box)


def surface_distances(
    pred: NDArray[np.bool_], true: NDArray[np.bool_], spacing: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Distances of all border voxels of each region to the nearest border voxel of the other; those of ``pred`` first.

    Args:
        pred: bool, any number of dimensions, not empty.
        true: the same shape, not empty.
        spacing: size of a voxel along each axis; distances are in its unit, in voxels without it.

    Raises:
        ValueError: an empty region, or shapes that differ.
    """
    pred, true = _checked(pred, true, spacing)
    box = _box(pred | true)
    pred, true = pred[box], true[box]
    if not (pred.any() and true.any()):
        raise ValueError("an empty region has no surface; score_region knows what to do with one")
    pred_border, true_border = (region & ~ndimage.binary_erosion(region) for region in (pred, true))
    to_pred, to_true = (
        ndimage.distance_transform_edt(~border, sampling=spacing) for border in (pred_border, true_border)
    )
    return np.concatenate([to_true[pred_border], to_pred[true_border]])


class _Measured(NamedTuple):
    predicted: int
    reference: int
    overlap: int
    distances: NDArray[np.float64]


def _measure(pred: NDArray[np.bool_], true: NDArray[np.bool_], spacing: Sequence[float] | None) -> _Measured:
    box = _box(pred | true)
    pred, true = pred[box], true[box]
    predicted, reference = int(np.count_nonzero(pred)), int(np.count_nonzero(true))
    distances = surface_distances(pred, true, spacing) if predicted and reference else np.empty(0)
    return _Measured(predicted, reference, int(np.count_nonzero(pred & true)), distances)


def _score(measured: _Measured, convention: Convention, tolerance: float, diagonal: float) -> RegionScore:
    predicted, reference, overlap, distances = measured
    if not (predicted or reference):
        return RegionScore(1.0, 0.0, 0.0, 1.0, 0, 0)
    dice = (2 * overlap + convention.epsilon) / (predicted + reference + convention.epsilon)
    if not (predicted and reference):
        missed = diagonal if convention.missed_distance is None else convention.missed_distance
        return RegionScore(dice, missed, missed, 0.0, predicted, reference)
    hd95, assd = np.percentile(distances, 95), distances.mean()
    nsd = np.mean(distances <= tolerance * (1 + ROUNDING))
    return RegionScore(dice, float(hd95), float(assd), float(nsd), predicted, reference)


def calibration_error(probability: NDArray[np.floating], true: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error of one region (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).

    The voxels are sorted into bins of equal width by the probability that they belong to the region. In each bin, the
    mean probability should equal the share of voxels in the region; the error is the mean difference over the bins,
    weighted by their voxels. All voxels of the image count, and most are easy: compare it only between methods on the
    same images.

    Args:
        probability: of the region, 0 ... 1, any number of dimensions.
        true: bool, the same shape.
        bins: their number.

    Raises:
        ValueError: shapes that differ.
    """
    probability, true = _checked(probability, true, None)
    bin_of = np.minimum((probability * bins).astype(np.uint8), bins - 1).ravel()
    expected = np.bincount(bin_of, probability.ravel(), bins)
    found = np.bincount(bin_of, true.ravel(), bins)
    return float(np.abs(expected - found).sum() / true.size)


def score_region(
    pred: NDArray[np.bool_],
    true: NDArray[np.bool_],
    spacing: Sequence[float] | None = None,
    *,
    convention: Convention = CHALLENGE,
    tolerance: float = 1.0,
    diagonal: float | None = None,
) -> RegionScore:
    """Dice, HD95, ASSD and NSD of one region from a single pair of distance maps.

    Args:
        pred: bool, any number of dimensions.
        true: the same shape.
        spacing: size of a voxel along each axis in mm; ``None``: unknown, distances are in voxels.
        convention: rule for empty regions. Its ``min_ml`` needs region names: see `score_case`.
        tolerance: of NSD, in the unit of the distances.
        diagonal: distance for a missed region if ``pred`` is a crop; by default the diagonal of ``pred``.

    Raises:
        ValueError: shapes that differ, or a spacing for another number of axes.
    """
    pred, true = _checked(pred, true, spacing)
    diagonal = image_diagonal(pred.shape, spacing) if diagonal is None else diagonal
    return _score(_measure(pred.astype(bool), true.astype(bool), spacing), convention, tolerance, diagonal)


def score_case(
    pred: NDArray[np.integer],
    true: NDArray[np.integer],
    regions: Regions,
    spacing: Sequence[float] | None = None,
    *,
    case: str,
    combination: str,
    patient: str | None = None,
    probability: NDArray[np.floating] | None = None,
    conventions: Iterable[Convention] = (CHALLENGE, RELEASED),
    tolerance: float = 1.0,
    diagonal: float | None = None,
    voxel_ml: float | None = None,
) -> list[dict[str, Any]]:
    """Rows of `COLUMNS` for one segmented volume or slice, one per region and convention.

    Args:
        pred: labels, any number of dimensions.
        true: reference labels, the same shape.
        regions: region -> labels, e.g. `BRATS_REGIONS`.
        spacing: size of a voxel along each axis in mm; ``None``: unknown, distances are in voxels and volumes NaN.
        case: name of the volume or slice.
        combination: modalities that the network was given.
        patient: whose it is; by default ``case``.
        probability: of every class, background first, (K, ...), for ``ece``; by default that is NaN.
        conventions: for empty regions; surfaces are measured once for all of them.
        tolerance: of NSD, in mm.
        diagonal: distance for a missed region if ``pred`` is a crop; by default the diagonal of ``pred``.
        voxel_ml: volume of a voxel in mL; by default that of a three-dimensional ``spacing``.

    Raises:
        ValueError: shapes that differ, or a spacing for another number of axes.
    """
    pred, true = _checked(pred, true, spacing)
    diagonal = image_diagonal(pred.shape, spacing) if diagonal is None else diagonal
    if voxel_ml is None:
        voxel_ml = math.prod(spacing) / 1000 if spacing is not None and len(spacing) == 3 else math.nan
    conventions = tuple(conventions)
    errors = dict.fromkeys(regions, math.nan)
    if probability is not None:
        errors = {
            region: calibration_error(probability[list(labels)].sum(axis=0), np.isin(true, labels))
            for region, labels in regions.items()
        }
    box = _box((pred != 0) | (true != 0))
    pred, true = pred[box], true[box]
    rows = []
    for region, labels in regions.items():
        measured = _measure(np.isin(pred, labels), np.isin(true, labels), spacing)
        for convention in conventions:
            predicted_ml = measured.predicted * (0.001 if math.isnan(voxel_ml) else voxel_ml)
            removed = predicted_ml < convention.min_ml.get(region, 0) * (1 - ROUNDING)
            kept = measured._replace(predicted=0, overlap=0) if removed else measured
            score = _score(kept, convention, tolerance, diagonal)
            rows.append(
                {
                    "case": case,
                    "patient": case if patient is None else patient,
                    "combination": combination,
                    "region": region,
                    "convention": convention.name,
                    **{metric: getattr(score, metric) for metric in METRICS},
                    "predicted_ml": score.predicted * voxel_ml,
                    "reference_ml": score.reference * voxel_ml,
                    "ece": errors[region],
                }
            )
    return rows


def score_slices(
    pred: NDArray[np.integer],
    true: NDArray[np.integer],
    regions: Regions,
    spacing: Sequence[float] | None = None,
    *,
    patient: str,
    combination: str,
    case: str | None = None,
    probability: NDArray[np.floating] | None = None,
    conventions: Iterable[Convention] = (CHALLENGE, RELEASED),
    tolerance: float = 1.0,
    diagonal: float | None = None,
) -> list[dict[str, Any]]:
    """Rows of `COLUMNS` for every slice of a volume, each scored in two dimensions as the case ``<case>_<index>``.

    The same volume given to `score_case` is scored per patient, in three dimensions.

    Args:
        pred: labels (H, W, slices).
        true: reference labels, the same shape.
        regions: region -> labels, e.g. `MYOPS_REGIONS`.
        spacing: of (H, W, slices) in mm; ``None``: unknown, distances are in pixels and volumes NaN.
        patient: whose volume it is.
        combination: modalities that the network was given.
        case: name of the volume, before the number of the slice; by default ``patient``.
        probability: of every class, (K, H, W, slices), as for `score_case`.
        conventions: for empty regions.
        tolerance: of NSD, in mm.
        diagonal: as for `score_case`, of a slice.

    Raises:
        ValueError: not three dimensions, shapes that differ, or a spacing for another number of axes.
    """
    pred, true = _checked(pred, true, spacing)
    if pred.ndim != 3:
        raise ValueError(f"pred is {pred.ndim}-dimensional, must be (H, W, slices); give one slice to score_case")
    in_plane, voxel_ml = (None, math.nan) if spacing is None else (spacing[:2], math.prod(spacing) / 1000)
    return [
        row
        for index in range(pred.shape[2])
        for row in score_case(
            pred[..., index],
            true[..., index],
            regions,
            in_plane,
            case=f"{patient if case is None else case}_{index}",
            patient=patient,
            combination=combination,
            probability=None if probability is None else probability[..., index],
            conventions=conventions,
            tolerance=tolerance,
            diagonal=diagonal,
            voxel_ml=voxel_ml,
        )
    ]
