"""Methods compared over several trainings: endpoints per seed and patient, differences, detectable differences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from monai_passion.evaluation.metrics import CHALLENGE
from monai_passion.evaluation.statistics import SeedComparison, compare_seeds
from monai_passion.evaluation.summary import overlap_ml

__all__ = ["ENDPOINTS", "compare_to_first", "endpoints"]

ENDPOINTS = ("dice", "dice_rare", "false_positive_ml", "hd95", "ece")
"""Mean Dice of all combinations; of the combinations of rare modalities; false-positive volume (mL); HD95 (mm) if both
regions exist; expected calibration error, if probabilities were scored."""
CELL = ["seed", "patient", "case", "combination", "region"]


def endpoints(rows: pd.DataFrame, rare: Sequence[str] = ()) -> pd.DataFrame:
    """The endpoints of every training and patient, means over its cases, regions and combinations.

    The false-positive volume is the predicted volume outside the reference: predicted - Dice (predicted + reference) /
    2.

    Args:
        rows: the columns of `monai_passion.evaluation.metrics.COLUMNS`, ``method`` and ``seed``, of the convention
            ``challenge`` (others are left out).
        rare: modalities, as spelled in ``combination``; a combination is rare if it has only these. Without any,
            ``dice_rare`` is NaN.

    Returns:
        Index method, seed, patient, methods in their order; columns `ENDPOINTS`.
    """
    return _scored(rows, rare).groupby(["method", "seed", "patient"], sort=False)[list(ENDPOINTS)].mean()


def compare_to_first(rows: pd.DataFrame, rare: Sequence[str] = ()) -> pd.DataFrame:
    """Every method against the first, endpoint by endpoint, over the seeds that both have.

    An endpoint is compared over the rows (case, combination, region) where both methods have it: HD95 is undefined if a
    method finds nothing, and a method must not gain by finding nothing in hard rows.

    Args:
        rows, rare: of `endpoints`.

    Returns:
        ``endpoint, method, baseline``, the fields of `SeedComparison` (difference = method - baseline) and ``counts``.
    """
    scored = _scored(rows, rare)
    first, *others = dict.fromkeys(scored["method"]) or [""]
    results = []
    for endpoint in ENDPOINTS:
        for method in others:
            cells = {name: _cells(scored, name, endpoint) for name in (method, first)}
            both = pd.concat(cells, axis=1, join="inner").dropna().groupby(["seed", "patient"]).mean()
            if both.empty:
                continue
            comparison = compare_seeds(both[method], both[first])
            names = {"endpoint": endpoint, "method": method, "baseline": first}
            results.append({**names, **comparison._asdict(), "counts": comparison.counts})
    return pd.DataFrame(results, columns=["endpoint", "method", "baseline", *SeedComparison._fields, "counts"])


def _scored(rows: pd.DataFrame, rare: Sequence[str]) -> pd.DataFrame:
    """The rows of the challenge's convention with all of `ENDPOINTS`."""
    rows = rows[rows["convention"] == CHALLENGE.name]
    is_rare = rows["combination"].map(lambda text: bool(rare) and set(text.split("+")) <= set(rare)).astype(bool)
    both = (rows["predicted_ml"] > 0) & (rows["reference_ml"] > 0)
    return rows.assign(
        hd95=rows["hd95"].where(both),
        dice_rare=rows["dice"].where(is_rare),
        false_positive_ml=(rows["predicted_ml"] - overlap_ml(rows)).clip(lower=0),
    )


def _cells(scored: pd.DataFrame, method: str, endpoint: str) -> pd.Series:
    """One method's values of an endpoint by `CELL`."""
    return scored[scored["method"] == method].groupby(CELL)[endpoint].mean()
