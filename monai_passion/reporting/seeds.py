"""Methods compared by several trainings: endpoints of every seed and patient, differences, and what could be seen."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from monai_passion.evaluation.metrics import CHALLENGE
from monai_passion.evaluation.statistics import SeedComparison, compare_seeds

__all__ = ["ENDPOINTS", "compare_to_first", "endpoints"]

ENDPOINTS = ("dice", "dice_rare", "false_positive_ml", "hd95", "ece")
"""Mean Dice of all combinations; of those of rare modalities alone; false-positive volume (mL); HD95 (mm) where both
regions are there; expected calibration error, where probabilities were scored."""


def endpoints(rows: pd.DataFrame, rare: Sequence[str] = ()) -> pd.DataFrame:
    """The endpoints of every training and patient, means over its cases, regions and combinations.

    The false-positive volume is what was predicted outside the reference: predicted - Dice (predicted + reference) / 2.

    Args:
        rows: the columns of `monai_passion.evaluation.metrics.COLUMNS`, ``method`` and ``seed``, of the convention
            ``challenge`` (others are left out).
        rare: modalities; a combination is rare if it has no other. Without any, ``dice_rare`` is NaN.

    Returns:
        Index method, seed, patient, methods in their order; columns `ENDPOINTS`.
    """
    rows = rows[rows["convention"] == CHALLENGE.name]
    intersection = rows["dice"] * (rows["predicted_ml"] + rows["reference_ml"]) / 2
    is_rare = rows["combination"].map(lambda text: bool(rare) and set(text.split("+")) <= set(rare))
    both = (rows["predicted_ml"] > 0) & (rows["reference_ml"] > 0)
    scored = rows.assign(
        hd95=rows["hd95"].where(both),
        dice_rare=rows["dice"].where(is_rare),
        false_positive_ml=(rows["predicted_ml"] - intersection).clip(lower=0),
    )
    return scored.groupby(["method", "seed", "patient"], sort=False)[list(ENDPOINTS)].mean()


def compare_to_first(table: pd.DataFrame) -> pd.DataFrame:
    """Every method against the first, endpoint by endpoint, over the seeds that both have.

    Args:
        table: of `endpoints`.

    Returns:
        ``endpoint, method, baseline``, the fields of `SeedComparison` (difference = method - baseline) and ``counts``.
    """
    methods = list(dict.fromkeys(table.index.get_level_values("method")))
    table = table.sort_index()
    results = []
    for endpoint in ENDPOINTS:
        first = table.loc[methods[0], endpoint].dropna()
        for method in methods[1:]:
            own = table.loc[method, endpoint].dropna()
            if own.index.intersection(first.index).empty:
                continue
            comparison = compare_seeds(own, first)
            names = {"endpoint": endpoint, "method": method, "baseline": methods[0]}
            results.append({**names, **comparison._asdict(), "counts": comparison.counts})
    return pd.DataFrame(results, columns=["endpoint", "method", "baseline", *SeedComparison._fields, "counts"])
