"""Summarize rows of cases as means with confidence intervals; read and write both."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monai_passion.errors import InputError, first_line
from monai_passion.evaluation.metrics import COLUMNS, METRICS
from monai_passion.evaluation.statistics import average_seeds, bootstrap_mean
from monai_passion.system.files import write_atomically, write_text

__all__ = ["AVERAGE", "overlap_ml", "pool_regions", "read_metrics", "summarize", "write_metrics", "write_summary"]

AVERAGE = "average"
"""Stands for the mean over all combinations or regions."""


def write_metrics(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Write rows of `score_case` as ``metrics.csv``."""
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return write_atomically(path, lambda temporary: table.to_csv(temporary, index=False))


def read_metrics(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows of a ``metrics.csv``.

    Raises:
        InputError: no such file, not a CSV with all of `COLUMNS`, no rows, text where a number belongs, or a case
            that was scored twice.
    """
    text = dict.fromkeys(("case", "patient", "combination", "region", "convention"), str)
    try:
        rows = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise InputError(f"cannot read {path}: {reason}; it must be the metrics.csv of an evaluation") from error
    rows = rows.assign(ece=rows.get("ece", math.nan))  # older files lack it
    missing = [name for name in COLUMNS if name not in rows]
    if missing:
        raise InputError(f"{path} lacks the column(s) {', '.join(missing)}; it must have {', '.join(COLUMNS)}")
    if rows.empty:
        raise InputError(f"{path} has no rows; run the evaluation to its end")
    for name in COLUMNS:
        if name in text and rows[name].isna().any():
            raise InputError(f"{path}, line {int(rows[name].isna().argmax()) + 2}: {name} is empty; fill it in")
        if name not in text and not pd.api.types.is_numeric_dtype(rows[name]):
            raise InputError(f"{path}: column {name} has text among its numbers; write it again from the evaluation")
    if (odd := ~rows["convention"].str.fullmatch(r"[^/\\]+")).any():  # it is part of the names of files
        raise InputError(f"{path}, line {int(odd.argmax()) + 2}: convention has a slash; write a plain name")
    twice = rows.duplicated(["case", "patient", "combination", "region", "convention"])
    if twice.any():
        raise InputError(
            f"{path}, line {int(twice.argmax()) + 2}: this case was scored before; give each run its own file"
        )
    return rows[list(COLUMNS)]


def pool_regions(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, followed by a copy of all rows with `AVERAGE` as region."""
    return pd.concat([rows, rows.assign(region=AVERAGE)])


def overlap_ml(rows: pd.DataFrame) -> pd.Series:
    """Overlap of prediction and reference (mL), from the Dice and the volumes of each row."""
    return rows["dice"] * (rows["predicted_ml"] + rows["reference_ml"]) / 2


def summarize(rows: pd.DataFrame, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Mean and bootstrap interval by patient of every metric, per convention, combination and region.

    Args:
        rows: the columns of `COLUMNS` for one or more runs (seeds) of one method; runs are averaged first.
        metrics: columns to summarize.

    Returns:
        ``convention, combination, region, metric, mean, low, high, n, cases``: ``n`` patients and ``cases`` scored
        volumes or slices. `AVERAGE` as combination or region pools the rows of all of them.
    """
    rows = average_seeds(rows, metrics)
    pooled = pool_regions(rows)
    pooled = pd.concat([pooled, pooled.assign(combination=AVERAGE)])
    results = []
    for (convention, combination, region), cell in pooled.groupby(["convention", "combination", "region"], sort=False):
        for metric in metrics:
            summary = bootstrap_mean(cell[metric], cell["patient"].to_numpy())
            results.append(
                {
                    "convention": convention,
                    "combination": combination,
                    "region": region,
                    "metric": metric,
                    **summary._asdict(),
                    "cases": cell.loc[cell[metric].notna(), "case"].nunique(),
                }
            )
    return pd.DataFrame(results)


def write_summary(summary: pd.DataFrame, path: str | os.PathLike[str], **facts: Any) -> Path:
    """Write a summary as JSON: ``facts`` (what was run on what) and a list ``results``; NaN becomes null."""
    document = {**facts, "results": json.loads(summary.to_json(orient="records", double_precision=15))}
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    return write_text(path, text)
