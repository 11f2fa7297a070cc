"""Tables of scores in Markdown for the card of weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from monai_passion.evaluation.metrics import CHALLENGE
from monai_passion.evaluation.statistics import bootstrap_mean
from monai_passion.evaluation.summary import overlap_ml

__all__ = ["card_tables"]

SCORES = {
    "Dice": ("dice", 100, 1),
    "HD95": ("hd95", 1, 0),
    "sensitivity": ("sensitivity", 100, 0),
    "volume error": ("error_ml", 1, 1),
}
"""Title -> column, factor, digits."""


def card_tables(rows: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Three tables: means by combination and region; their intervals; every patient with all sequences.

    Dice and sensitivity are in %, HD95 in mm, the absolute error of the volume in mL. Sensitivity follows from Dice and
    the volumes, over the patients who have the region.

    Args:
        rows: of `monai_passion.evaluation.metrics.COLUMNS`.
        titles: modality -> name in the tables, in channel order.

    Returns:
        Markdown.
    """
    rows = rows[rows["convention"] == CHALLENGE.name].copy()
    rows["sensitivity"] = (overlap_ml(rows) / rows["reference_ml"]).where(rows["reference_ml"] > 0)
    rows["error_ml"] = (rows["predicted_ml"] - rows["reference_ml"]).abs()
    regions = list(rows["region"].unique())
    combinations = sorted(rows["combination"].unique(), key=lambda name: name.count("+"))
    head = [f"{score} {regions[0]}" if region == regions[0] else region for score in SCORES for region in regions]
    parts = {" + ".join(titles[m] for m in name.split("+")): rows[rows["combination"] == name] for name in combinations}
    *_, fullest = parts
    by_case = parts[fullest].pivot_table("dice", "case", "region", sort=False)[regions]
    parts[f"**mean of {len(combinations)}**"] = rows
    means = [[name, *_means(part, regions)] for name, part in parts.items()]
    intervals = [[name, *(_interval(part[part["region"] == r]) for r in regions)] for name, part in parts.items()]
    cases = [[str(case), *(f"{100 * dice:.1f}" for dice in scores)] for case, scores in by_case.iterrows()]
    return "\n".join(
        [
            *_table(["sequences", *head], means),
            "",
            "Mean Dice with 95 % intervals (bootstrap over patients):",
            "",
            *_table(["sequences", *regions], intervals),
            "",
            f"Dice with {fullest}, by case:",
            "",
            *_table(["case", *regions], cases),
            "",
        ]
    )


def _means(part: pd.DataFrame, regions: list[str]) -> list[str]:
    return [
        f"{factor * part.loc[part['region'] == region, column].mean():.{digits}f}"
        for column, factor, digits in SCORES.values()
        for region in regions
    ]


def _interval(part: pd.DataFrame) -> str:
    mean, low, high, n = bootstrap_mean(part["dice"], part["patient"].to_numpy())
    between = f" ({100 * low:.1f} to {100 * high:.1f})" if np.isfinite([low, high]).all() else ""
    return f"{100 * mean:.1f}{between}, n = {n}"


def _table(head: list[str], lines: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)]
