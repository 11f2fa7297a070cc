"""Confidence intervals of means and paired tests between methods, with the patient as the unit.

Several scores of one patient (slices, runs with other seeds, combinations) are not independent: the bootstrap draws
patients with all their scores, and the paired tests see one number per patient. Every result says its ``n``: patients.

Where methods are compared by several trainings, the seed is the unit and patients are nested in it: `compare_seeds`.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = [
    "MeanCI",
    "Paired",
    "SeedComparison",
    "average_seeds",
    "bootstrap_mean",
    "compare_methods",
    "compare_seeds",
    "detectable_difference",
    "holm",
    "paired_comparison",
]

CONFIDENCE = 0.95
"""Confidence level of every interval; reports and figures say 95 %."""
POWER = 0.8
"""Power of the test behind `detectable_difference`."""
BOUNDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
"""Quantiles of an interval."""
SEED_DRAWS = 4000
"""Bootstrap draws of seeds and patients together."""


class MeanCI(NamedTuple):
    """A mean with its confidence interval, of ``n`` patients. NaN bounds where fewer than two patients were scored."""

    mean: float
    low: float
    high: float
    n: int


class Paired(NamedTuple):
    """How a differs from b over ``n`` patients.

    Attributes:
        n: patients with both scores.
        mean_difference: of a - b, with the bounds ``low`` and ``high`` of its confidence interval.
        p_value: two-sided, Wilcoxon's signed-rank test; NaN where no patient has both scores.
        rank_biserial: matched-pairs rank-biserial correlation, (R+ - R-) / (R+ + R-) of the rank sums: 1 where a is
            larger for every patient, -1 where b is. Equal pairs are left out.
    """

    n: int
    mean_difference: float
    low: float
    high: float
    p_value: float
    rank_biserial: float


class SeedComparison(NamedTuple):
    """How method a differs from b over trainings with the same seeds, scored on the same patients.

    Attributes:
        seeds, patients: how many.
        difference: mean of a - b over seeds and patients, with the bounds ``low`` and ``high`` of its interval; NaN
            where there are fewer than two seeds or two patients.
        detectable: see `detectable_difference`.
    """

    seeds: int
    patients: int
    difference: float
    low: float
    high: float
    detectable: float

    @property
    def counts(self) -> bool:
        """Whether the interval excludes zero and the difference reaches the detectable one."""
        return (self.low > 0 or self.high < 0) and abs(self.difference) >= self.detectable


def bootstrap_mean(
    values: ArrayLike,
    patients: Sequence[Hashable] | NDArray | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> MeanCI:
    """Mean of all values with its percentile bootstrap interval; the bootstrap draws patients with all their values.

    Args:
        values: one dimension; NaN is left out.
        patients: the patient of each value; by default each value has its own.
        resamples: number of draws.
        seed: the same seed draws the same patients.

    Raises:
        ValueError: not one patient per value.
    """
    scores = np.asarray(values, dtype=float)
    owners = np.arange(len(scores)) if patients is None else np.asarray(patients)
    if scores.shape != owners.shape:
        raise ValueError(f"{len(scores)} values but {len(owners)} patients; name the patient of each value")
    known = ~np.isnan(scores)
    scores = scores[known]
    names, index = np.unique(owners[known], return_inverse=True)
    n = len(names)
    if n == 0:
        return MeanCI(np.nan, np.nan, np.nan, 0)
    sums, counts = np.bincount(index, weights=scores), np.bincount(index)
    mean = float(scores.mean())
    if n == 1:
        return MeanCI(mean, np.nan, np.nan, 1)
    drawn = _draws(n, resamples, seed)
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, BOUNDS)
    # Of values that are all equal, the mean of a draw is another by rounding.
    return MeanCI(mean, min(float(low), mean), max(float(high), mean), n)


@functools.lru_cache(maxsize=4)
def _draws(n: int, resamples: int, seed: int) -> NDArray[np.integer]:
    """(resamples, n), each row n of n patients with replacement, as `scipy.stats.bootstrap` draws them.

    Kept, as a report has thousands of intervals over the same patients; scipy's own takes ten times as long for one.
    """
    return np.random.default_rng(seed).integers(n, size=(resamples, n))


def paired_comparison(a: ArrayLike, b: ArrayLike) -> Paired:
    """Compare two methods by one score per patient each, in the same order; pairs with a NaN are left out.

    Raises:
        ValueError: lengths that differ.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} scores against {len(b)}; give both methods' scores of the same patients")
    difference = (a - b)[~np.isnan(a - b)]
    mean, low, high, n = bootstrap_mean(difference)
    if n == 0:
        return Paired(0, mean, low, high, np.nan, np.nan)
    unequal = difference[difference != 0]
    if len(unequal) == 0:
        return Paired(n, mean, low, high, 1.0, 0.0)
    ranks = stats.rankdata(np.abs(unequal))
    rank_biserial = float(np.sum(np.sign(unequal) * ranks) / ranks.sum())
    return Paired(n, mean, low, high, float(stats.wilcoxon(unequal).pvalue), rank_biserial)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p values corrected for multiple tests by Holm's step-down method; NaN stays NaN and does not count."""
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def average_seeds(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Mean of the metrics over the runs of a method, one row per case, patient, combination, region and convention.

    Args:
        rows: the columns of `monai_passion.evaluation.metrics.COLUMNS` for one or more runs of one method.
        metrics: columns to average.
    """
    keys = ["case", "patient", "combination", "region", "convention"]
    return rows.groupby(keys, sort=False, as_index=False)[list(metrics)].mean()


def compare_methods(
    rows: pd.DataFrame,
    metrics: Sequence[str] = ("dice", "hd95"),
    *,
    per_combination: bool = False,
    pooled: bool = False,
) -> pd.DataFrame:
    """All pairs of methods, per convention, region and metric, with Holm's correction within convention and metric.

    Runs of one method (other seeds) are averaged first; then the mean over the cases and combinations that both methods
    have gives one number per patient.

    Args:
        rows: the columns of `monai_passion.evaluation.metrics.COLUMNS` and ``method``.
        metrics: columns to compare.
        per_combination: compare within each combination; Holm's correction then covers the combinations too.
        pooled: the mean difference, with its interval, weighs all cases alike, so it equals the difference of two means
            of `monai_passion.evaluation.summary.summarize`. Without it, every patient weighs alike, which differs where
            patients have unequal numbers of cases or combinations. Tests are always by patient.

    Returns:
        ``convention, metric[, combination], region, method_a, method_b``, the fields of `Paired`, and ``p_holm``. The
        difference is a - b, and a is the later method: for baseline and passion, passion - baseline.
    """
    averaged = {method: average_seeds(own, metrics) for method, own in rows.groupby("method", sort=False)}
    keys = ["case", "patient", "combination", "region", "convention"]
    cells = ["convention", *(["combination"] if per_combination else []), "region"]
    results = []
    for first, second in combinations(averaged, 2):
        both = averaged[second].merge(averaged[first], on=keys, suffixes=("_a", "_b"))
        for cell, group in both.groupby(cells, sort=False):
            for metric in metrics:
                known = group[["patient", f"{metric}_a", f"{metric}_b"]].dropna()
                pairs = known.groupby("patient").mean()
                paired = paired_comparison(pairs[f"{metric}_a"], pairs[f"{metric}_b"])
                if pooled:
                    difference = known[f"{metric}_a"] - known[f"{metric}_b"]
                    mean, low, high, _ = bootstrap_mean(difference, known["patient"].to_numpy())
                    paired = paired._replace(mean_difference=mean, low=low, high=high)
                methods = {"metric": metric, "method_a": second, "method_b": first}
                results.append({**dict(zip(cells, cell, strict=True)), **methods, **paired._asdict()})
    columns = [cells[0], "metric", *cells[1:], "method_a", "method_b", *Paired._fields]
    table = pd.DataFrame(results, columns=columns)
    table["p_holm"] = np.nan
    for _, family in table.groupby(["convention", "metric"]):
        table.loc[family.index, "p_holm"] = holm(family["p_value"])
    return table.sort_values(["convention", "metric"], kind="stable", ignore_index=True)


def detectable_difference(differences: ArrayLike) -> float:
    """The difference that a paired t-test over the seeds finds with a power of 0.8: (t_0.975 + t_0.8) s / sqrt(n).

    Args:
        differences: one per seed; s is their standard deviation, the quantiles have n - 1 degrees of freedom.

    Returns:
        >= 0; NaN for fewer than two seeds.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if n < 2:
        return float("nan")
    quantiles = stats.t.ppf(BOUNDS[1], n - 1) + stats.t.ppf(POWER, n - 1)
    return float(quantiles * values.std(ddof=1) / np.sqrt(n))


def compare_seeds(a: pd.Series, b: pd.Series) -> SeedComparison:
    """Compare two methods by the scores of the seeds and patients that both have.

    The bootstrap draws seeds and patients, both with replacement, and takes every drawn patient of every drawn seed.

    Args:
        a, b: scores with an index of (seed, patient); NaN is left out.

    Raises:
        ValueError: no seed and patient in common.
    """
    difference = (a - b).unstack()
    difference = difference.dropna(axis=0, how="all").dropna(axis=1, how="all")
    if difference.empty:
        raise ValueError("the two methods have no seed and patient in common")
    values = difference.to_numpy(dtype=float)
    seeds, patients = values.shape
    low = high = float("nan")
    if min(seeds, patients) > 1:
        rng = np.random.default_rng(0)
        rows = rng.integers(seeds, size=(SEED_DRAWS, seeds, 1))
        columns = rng.integers(patients, size=(SEED_DRAWS, 1, patients))
        means = np.nanmean(values[rows, columns], axis=(1, 2))
        low, high = (float(q) for q in np.nanquantile(means, BOUNDS))
    by_seed = np.nanmean(values, axis=1)
    return SeedComparison(seeds, patients, float(np.nanmean(values)), low, high, detectable_difference(by_seed))
