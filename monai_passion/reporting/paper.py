"""Tables 1, 2 and 3 of the paper, with its numbers beside ours where both are of the same data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from monai_passion.evaluation.summary import AVERAGE
from monai_passion.reporting.runs import Place, Results
from monai_passion.reporting.tables import (
    DASH,
    EMPTY,
    FILLED,
    SCALES,
    Differences,
    differences_to,
    latex_table,
    latex_text,
    number_text,
    table_html,
)

__all__ = [
    "DIFFERENCES",
    "PAPER_DATA",
    "comparable",
    "dots_differences",
    "dots_table",
    "paper_numbers",
    "score_differences",
    "score_html",
    "score_latex",
    "score_table",
]

PAPER_DATA = {"BraTS2020": 100, "MyoPS2020": 5}
"""Data sets of the paper -> number of its test patients."""
METRICS = {"dice": "dice", "hd": "hd95"}
"""Metric of the paper -> metric that its released code computes under that name."""
COMPONENTS = {
    "pixel": "L_pixel",
    "proto": "L_proto",
    "delta": "\N{GREEK SMALL LETTER DELTA}",
    "beta": "\N{GREEK SMALL LETTER BETA}",
}
OURS, PAPER = "ours", "paper"
DIFFERENCES = (
    "Differences are between our own runs: to the first with the same backbone (and, where the methods have a column, "
    "the same setting), on the same {kind}s, with a bootstrap interval."
)


@cache
def paper_numbers() -> pd.DataFrame:
    """The numbers printed in Tables 1 to 3: Dice in percent and HD in mm.

    Returns:
        ``table, data, setting, backbone, method, metric, region, combination, value``; `AVERAGE` as combination is the
        mean over all combinations, as region the mean over the three regions, both as printed.
    """
    text = dict.fromkeys(("table", "data", "setting", "backbone", "method", "metric", "region", "combination"), str)
    return pd.read_csv(Path(__file__).with_name("paper.csv"), dtype=text, keep_default_na=False)


def comparable(data: str) -> bool:
    """Whether the paper's numbers may stand beside numbers of these data."""
    return data in PAPER_DATA


class Cells(NamedTuple):
    """One row of a table: method, source (ours or the paper), number of patients, and column -> number."""

    place: Place
    source: str
    n: int
    values: dict[tuple[str, str], float]


def _rows(
    summary: pd.DataFrame, results: Results, table: str, convention: str, columns: tuple[str, str]
) -> list[Cells]:
    """All rows of a table: the paper's, each after ours, then those of ours that the paper lacks.

    ``columns`` are the two fields that make a column; the other of metric, region, combination is fixed by the caller.
    """
    own = summary[summary["convention"] == convention]
    ours = {}
    for method, cells in own.groupby("method", sort=False):
        if method in results.places:
            factor = cells["metric"].map({name: scale.factor for name, scale in SCALES.items()})
            keys = zip(cells[columns[0]], cells[columns[1]], strict=True)
            n = int(cells["n"].max())
            place = results.places[str(method)]
            ours[place] = Cells(place, OURS, n, dict(zip(keys, cells["mean"] * factor, strict=True)))
    rows = []
    if comparable(results.data):
        numbers = paper_numbers()
        numbers = numbers[(numbers["table"] == table) & (numbers["data"] == results.data)].replace({"metric": METRICS})
        for key, cells in numbers.groupby(["setting", "backbone", "method"], sort=False):
            place = Place(*key)
            keys = zip(cells[columns[0]], cells[columns[1]], strict=True)
            printed = Cells(place, PAPER, PAPER_DATA[results.data], dict(zip(keys, cells["value"], strict=True)))
            rows += [ours.pop(place, Cells(place, OURS, 0, {})), printed]
    return [*rows, *ours.values()]


def dots_table(summary: pd.DataFrame, results: Results, convention: str) -> pd.DataFrame:
    """Table 3 in the form of `monai_passion.reporting.tables.combination_table`: Dice of every combination.

    Args:
        summary: of `monai_passion.evaluation.summary.summarize`, with a column ``method``.
        results: of the same runs.
        convention: for empty regions.
    """
    dice = summary[summary["metric"] == "dice"]
    table = []
    for region in results.regions:
        for row in _rows(dice, results, "3", convention, ("region", "combination")):
            cells = {name: row.values.get((region, name), math.nan) for name in (*results.combinations, AVERAGE)}
            name = _row_name(row.place, row.source, results.data)
            table.append({"region": region, "method": name, "n": row.n, **cells, "low": math.nan, "high": math.nan})
    return pd.DataFrame(table)


def _row_name(place: Place, source: str, data: str) -> str:
    name = " ".join(part for part in place if part)
    return f"{name}, {source}" if comparable(data) else name


def _to_own_first(
    comparison: pd.DataFrame, results: Results, metric: str, convention: str, alike: tuple[str, ...]
) -> dict[tuple[str, Place], str]:
    """(region, place) -> the difference to the first method whose place is the same in the fields ``alike``."""
    texts, first = {}, dict[tuple[str, ...], str]()
    for method in (method for method in results.methods if method in results.places):
        place = results.places[method]
        baseline = first.setdefault(tuple(getattr(place, field) for field in alike), method)
        for (region, other), text in differences_to(comparison, metric, convention, baseline).texts.items():
            if other == method:
                texts[region, place] = text
    return texts


def dots_differences(comparison: pd.DataFrame, results: Results, convention: str) -> Differences:
    """The differences to the first method with the same backbone, as a column of `dots_table`.

    Args:
        comparison: of `monai_passion.evaluation.statistics.compare_methods`.
        results: of the same runs.
        convention: for empty regions.
    """
    found = _to_own_first(comparison, results, "dice", convention, ("backbone",))
    texts = {(region, _row_name(place, OURS, results.data)): text for (region, place), text in found.items()}
    return Differences("Difference, 95% CI", texts)


def score_differences(comparison: pd.DataFrame, results: Results, convention: str) -> dict[str, dict[Place, str]]:
    """The differences to the first method with the same setting and backbone, as columns of `score_table`.

    Args:
        comparison: of `monai_passion.evaluation.statistics.compare_methods`, with `AVERAGE` as region too.
        results: of the same runs.
        convention: for empty regions.

    Returns:
        Head of the column -> place -> text.
    """
    columns = {}
    for metric in METRICS.values():
        found = _to_own_first(comparison, results, metric, convention, ("setting", "backbone"))
        texts = {place: text for (region, place), text in found.items() if region == AVERAGE}
        columns[f"{SCALES[metric].title} Avg., difference, 95% CI"] = texts
    return columns


def score_table(summary: pd.DataFrame, results: Results, table: str, convention: str) -> pd.DataFrame:
    """Tables 1 and 2: Dice and HD95 of every region, averaged over the combinations.

    Returns:
        ``setting, backbone, method, source, n``, then ``dice WT``, ..., ``hd95 average``.
    """
    overall = summary[summary["combination"] == AVERAGE]
    names = [(metric, region) for metric in METRICS.values() for region in (*results.regions, AVERAGE)]
    return pd.DataFrame(
        [
            {**row.place._asdict(), "source": row.source, "n": row.n}
            | {" ".join(name): row.values.get(name, math.nan) for name in names}
            for row in _rows(overall, results, table, convention, ("metric", "region"))
        ]
    )


def _head(table: pd.DataFrame, number: str, differences: Mapping[str, Mapping[Place, str]]) -> list[str]:
    lead = ["MR", *(COMPONENTS.values() if number == "2" else ["Method"])]
    columns = (name.split(" ") for name in table.columns[5:])
    return [
        *lead,
        "",
        "n",
        *(f"{SCALES[metric].title} {'Avg.' if region == AVERAGE else region}" for metric, region in columns),
        *differences,
    ]


def _texts(
    table: pd.DataFrame, number: str, differences: Mapping[str, Mapping[Place, str]]
) -> list[tuple[str, list[str], list[str]]]:
    """Source, what leads the row, and its numbers."""
    several = table["backbone"].nunique() > 1
    rows = []
    for row in table.to_dict("records"):
        method = f"{row['backbone']} {row['method']}".strip() if several else row["method"]
        used = [part.strip() for part in str(row["method"]).split("+")]
        ticks = [FILLED if name in used else EMPTY for name in COMPONENTS]
        lead = [row["setting"], *(ticks if number == "2" else [method])]
        numbers = [number_text(row[name], SCALES[name.split(" ")[0]].digits) for name in table.columns[5:]]
        place = Place(row["setting"], row["backbone"], row["method"])
        n = str(row["n"]) if row["n"] else DASH
        to_first = [texts.get(place, DASH) if row["source"] == OURS else DASH for texts in differences.values()]
        rows.append((row["source"], lead, [n, *numbers, *to_first]))
    return rows


def score_html(
    table: pd.DataFrame,
    number: str,
    caption: str,
    differences: Mapping[str, Mapping[Place, str]] = MappingProxyType({}),
) -> str:
    """`score_table` with `score_differences` as HTML; the paper's rows are gray and italic, beneath ours."""
    rows = [(source, [*lead, source], numbers) for source, lead, numbers in _texts(table, number, differences)]
    return table_html("listed", caption, _head(table, number, differences), rows)


def score_latex(
    table: pd.DataFrame,
    number: str,
    caption: str,
    differences: Mapping[str, Mapping[Place, str]] = MappingProxyType({}),
) -> str:
    """The same rows as LaTeX."""
    head: Sequence[str] = _head(table, number, differences)
    rows = []
    for source, lead, numbers in _texts(table, number, differences):
        texts = [latex_text(text) for text in [*lead, source, *numbers]]
        rows.append(" & ".join(texts) + " \\\\")
    leads = len(head) - len(table.columns[5:]) - len(differences) - 1
    return latex_table(
        caption, "l" * leads + "r" * (len(head) - leads), [" & ".join(map(latex_text, head)) + " \\\\"], [rows]
    )
