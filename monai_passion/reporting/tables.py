"""Tables of a report, each as CSV, as LaTeX (``booktabs``), and as HTML that a screen reader can follow."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from monai_passion import NOTICE
from monai_passion.evaluation.statistics import bootstrap_mean
from monai_passion.evaluation.summary import AVERAGE
from monai_passion.system.templates import template

__all__ = [
    "DASH",
    "EMPTY",
    "FILLED",
    "SCALES",
    "TEMPLATES",
    "Differences",
    "Scale",
    "combination_html",
    "combination_latex",
    "combination_table",
    "comparison_html",
    "comparison_latex",
    "csv_text",
    "differences_to",
    "latex_table",
    "latex_text",
    "number_text",
    "patients_text",
    "table_html",
]


class Scale(NamedTuple):
    """How a metric is printed."""

    title: str
    unit: str
    factor: float
    digits: int
    best: Callable[..., Any]


class Differences(NamedTuple):
    """A column of differences: its head and its texts."""

    title: str
    texts: Mapping[tuple[str, str], str]
    """(region, method) -> mean with its interval."""


_Cell = tuple[str, bool]
"""Text, and whether it is the best of its column."""
TEMPLATES = Path(__file__).with_name("templates")
SCALES = {
    "dice": Scale("Dice", "%", 100, 2, max),
    "hd95": Scale("HD95", "mm", 1, 2, min),
    "assd": Scale("ASSD", "mm", 1, 2, min),
    "nsd": Scale("NSD", "%", 100, 2, max),
}
WORST = 10
"""Number of worst patients that are listed per method."""
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
FILLED, EMPTY = "\N{BLACK CIRCLE}", "\N{WHITE CIRCLE}"
SIGNS = {
    MINUS: "$-$",
    DASH: "--",
    "<": "$<$",
    ">": "$>$",
    FILLED: r"$\bullet$",
    EMPTY: r"$\circ$",
    "\N{GREEK SMALL LETTER DELTA}": r"$\delta$",
    "\N{GREEK SMALL LETTER BETA}": r"$\beta$",
}
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


def patients_text(number: int, kind: str = "patient") -> str:
    """``n = 45 patients``, or phantoms."""
    return f"n = {number} {kind}{'' if number == 1 else 's'}"


def combination_table(
    summary: pd.DataFrame, metric: str, convention: str, combinations: Sequence[str], regions: Sequence[str]
) -> pd.DataFrame:
    """The paper's Table 3: a row per region and method, a column per combination, then the average over combinations.

    Args:
        summary: of `monai_passion.evaluation.summary.summarize`, with a column ``method``.
        metric: of `SCALES`; the numbers come in its unit.
        convention: for empty regions.
        combinations: columns, in this order.
        regions: blocks, in this order.

    Returns:
        ``region, method, n, <combinations>, average, low, high``; the bounds are those of the average.
    """
    chosen = summary[(summary["metric"] == metric) & (summary["convention"] == convention)]
    methods = list(dict.fromkeys(chosen["method"]))
    scaled = chosen.assign(**{name: chosen[name] * SCALES[metric].factor for name in ("mean", "low", "high")})
    means = scaled.pivot(index=["region", "method"], columns="combination", values="mean")
    overall = scaled[scaled["combination"] == AVERAGE].set_index(["region", "method"])
    rows = pd.MultiIndex.from_product([regions, methods], names=["region", "method"])
    table = means.reindex(index=rows, columns=[*combinations, AVERAGE])
    table.insert(0, "n", overall["n"])
    return table.join(overall[["low", "high"]]).reset_index().rename_axis(columns=None)


def csv_text(table: pd.DataFrame, patients: str) -> str:
    """The table as CSV below one comment line; ``pandas.read_csv(file, comment="#")`` reads it."""
    text = table.to_csv(index=False, float_format="%.6g")
    if "#" in text:  # between quotes it begins no comment
        text = table.to_csv(index=False, float_format="%.6g", quoting=csv.QUOTE_NONNUMERIC)
    return f"# {NOTICE} {patients}\n{text}"


def table_html(name: str, *values: Any, **options: Any) -> str:
    """A table by the macro ``name`` of ``templates/tables.html``."""
    text: str = getattr(template(TEMPLATES, "tables.html").module, name)(*values, **options)
    return text


def number_text(value: float, digits: int) -> str:
    """A number as tables print it; a dash for NaN."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}".replace("-", MINUS)


def _interval(low: float, high: float, digits: int) -> str:
    return DASH if math.isnan(low) else f"{number_text(low, digits)} to {number_text(high, digits)}"


def _p(value: float) -> str:
    return DASH if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _cells(block: pd.DataFrame, columns: Sequence[str], scale: Scale, bold: bool) -> list[list[_Cell]]:
    """The cells of every row; without ``bold`` none is best."""
    texts = [[number_text(value, scale.digits) for value in row] for row in block[list(columns)].to_numpy(float)]
    best = {}
    if bold and len(block) > 1:
        for column in columns:
            known = block[column].dropna()
            best[column] = number_text(scale.best(known), scale.digits) if len(known) > 1 else None
    return [[(text, text == best.get(name)) for name, text in zip(columns, row, strict=True)] for row in texts]


def differences_to(comparison: pd.DataFrame, metric: str, convention: str, first: str) -> Differences:
    """The differences of averages to the ``first`` method with their 95 % intervals, in the metric's unit.

    Args:
        comparison: of `monai_passion.evaluation.statistics.compare_methods`, mean over combinations.
    """
    own = comparison[
        (comparison["metric"] == metric) & (comparison["convention"] == convention) & (comparison["method_b"] == first)
    ]
    factor, digits = SCALES[metric].factor, SCALES[metric].digits
    texts = {}
    for row in own.to_dict("records"):
        mean, low, high = (row[name] * factor for name in ("mean_difference", "low", "high"))
        texts[row["region"], row["method_a"]] = difference_text(mean, low, high, digits)
    return Differences(f"Avg. {MINUS} {first}, 95% CI", texts)


def difference_text(mean: float, low: float, high: float, digits: int) -> str:
    """``+1.3 (0.4 to 2.2)``; a dash if there is none."""
    if math.isnan(mean):
        return DASH
    return f"{'+' if mean > 0 else ''}{number_text(mean, digits)} ({_interval(low, high, digits)})"


def _heads(differences: Differences | None) -> list[str]:
    return ["Avg.", "95% CI", *([differences.title] if differences else []), "n"]


def _given(table: pd.DataFrame, modalities: Mapping[str, str]) -> list[tuple[str, list[bool]]]:
    """Title of each modality, and whether it is in each combination of a `combination_table`."""
    combinations = [name.split("+") for name in table.columns[3:-3]]
    return [(title, [modality in names for names in combinations]) for modality, title in modalities.items()]


def _blocks(
    table: pd.DataFrame, metric: str, differences: Differences | None, bold: bool
) -> list[tuple[str, list[tuple[str, list[_Cell]]]]]:
    """The regions of a `combination_table`, each with its methods and their cells: `_heads`, then combinations."""
    scale, columns = SCALES[metric], [AVERAGE, *table.columns[3:-3]]
    blocks = []
    for region, block in table.groupby("region", sort=False):
        rows = []
        for row, (average, *others) in zip(block.to_dict("records"), _cells(block, columns, scale, bold), strict=True):
            apart = [differences.texts.get((region, row["method"]), DASH)] if differences else []
            beside = [_interval(row["low"], row["high"], scale.digits), *apart, f"{row['n']:.0f}"]
            rows.append((row["method"], [average, *((text, False) for text in beside), *others]))
        blocks.append(("Mean" if region == AVERAGE else str(region), rows))
    return blocks


def combination_html(
    table: pd.DataFrame,
    metric: str,
    modalities: Mapping[str, str],
    caption: str,
    differences: Differences | None = None,
    bold: bool = True,
) -> str:
    """`combination_table` with the paper's header of dots, which are filled for available modalities.

    Args:
        table: from `combination_table`.
        metric: of `SCALES`.
        modalities: name -> title.
        caption: of the table.
        differences: for a column beside the averages.
        bold: print the best of each column in bold, for methods scored on the same cases and combinations.
    """
    blocks = _blocks(table, metric, differences, bold)
    return table_html("dots", caption, _heads(differences), _given(table, modalities), blocks)


def worst_table(rows: pd.DataFrame, convention: str) -> pd.DataFrame:
    """The patients with the lowest mean Dice over combinations and regions, the worst first.

    Returns:
        ``method, patient, <regions>, mean``, and for several methods ``difference, low, high``: to the first method on
        the same patient, with a bootstrap interval over its combinations. In percent; at most `WORST` rows per method.
    """
    own = rows[rows["convention"] == convention]
    means = own.groupby(["method", "patient", "region"], sort=False)["dice"].mean().unstack("region") * 100
    means = means[list(dict.fromkeys(own["region"]))].assign(mean=means.mean(axis=1)).reset_index()
    ordered = means.sort_values("mean", kind="stable").groupby("method", sort=False).head(WORST)
    order = {method: k for k, method in enumerate(dict.fromkeys(own["method"]))}
    worst = ordered.sort_values("method", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    if len(order) == 1:
        return worst
    first = next(iter(order))
    cells = own.groupby(["method", "patient", "combination"], sort=False)["dice"].mean() * 100
    differences = cells - cells[first].reindex(cells.index.droplevel("method")).to_numpy()
    found = [
        bootstrap_mean([] if method == first else differences.loc[method, patient])[:3]
        for method, patient in zip(worst["method"], worst["patient"], strict=True)
    ]
    return worst.assign(**dict(zip(("difference", "low", "high"), zip(*found, strict=True), strict=True)))


def worst_html(table: pd.DataFrame, caption: str, kind: str = "patient") -> str:
    """`worst_table` as HTML; ``kind`` heads the column of patients, or phantoms."""
    regions = [name for name in table.columns[2:] if name not in ("difference", "low", "high")]
    head = ["method", kind, *regions]
    if "difference" in table:
        head.append(f"mean {MINUS} {table['method'].iloc[0]}, 95% CI")
    rows = []
    for row in table.to_dict("records"):
        cells = [row["method"], row["patient"], *(number_text(row[name], 1) for name in regions)]
        if "difference" in row:
            cells.append(difference_text(row["difference"], row["low"], row["high"], 1))
        rows.append(("", (), cells))
    return table_html("listed", caption, head, rows)


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped, and the symbols of tables in ASCII."""
    text = text.translate(LATEX)
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    return text


def latex_table(caption: str, columns: str, head: list[str], blocks: list[list[str]]) -> str:
    """A ``table*`` of finished rows, with a rule after the head and between blocks."""
    body = "\n\\midrule\n".join("\n".join(rows) for rows in blocks)
    return (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{table*}\n\\centering\\scriptsize\\setlength{\\tabcolsep}{3pt}\n"
        f"\\caption{{{latex_text(caption)}}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
        + "\n".join(head)
        + f"\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table*}}\n"
    )


def combination_latex(
    table: pd.DataFrame,
    metric: str,
    modalities: Mapping[str, str],
    caption: str,
    differences: Differences | None = None,
    bold: bool = True,
) -> str:
    """`combination_table` as LaTeX in the paper's layout; the arguments are those of `combination_html`."""
    heads = [*map(latex_text, _heads(differences)[:-1]), "$n$"]
    head: list[str] = []
    for title, given in _given(table, modalities):
        dots = [SIGNS[FILLED if one else EMPTY] for one in given]
        rest = [""] * len(heads) if head else heads
        head.append(" & ".join(["", latex_text(title), *dots, *rest]) + " \\\\")
    blocks = []
    for region, rows in _blocks(table, metric, differences, bold):
        lines: list[str] = []
        for method, cells in rows:
            texts = [f"\\textbf{{{latex_text(text)}}}" if best else latex_text(text) for text, best in cells]
            first = "" if lines else latex_text(region)
            numbers = [*texts[len(heads) :], *texts[: len(heads)]]
            lines.append(" & ".join([first, latex_text(method), *numbers]) + " \\\\")
        blocks.append(lines)
    columns = "ll" + "c" * (len(table.columns) - 6) + "rc" + ("c" if differences else "") + "r"
    return latex_table(caption, columns, head, blocks)


def _comparison_rows(comparison: pd.DataFrame, metric: str) -> list[list[str]]:
    scale = SCALES[metric]
    place = ["combination", "region"] if "combination" in comparison else ["region"]
    rows = []
    for row in comparison.to_dict("records"):
        mean, low, high = (row[name] * scale.factor for name in ("mean_difference", "low", "high"))
        rows.append(
            [
                *(str(row[name]) for name in place),
                f"{row['method_a']} {MINUS} {row['method_b']}",
                str(row["n"]),
                number_text(mean, scale.digits),
                _interval(low, high, scale.digits),
                _p(row["p_value"]),
                _p(row["p_holm"]),
                number_text(row["rank_biserial"], 2),
            ]
        )
    return rows


def _comparison_head(comparison: pd.DataFrame, metric: str) -> list[str]:
    unit = "points" if SCALES[metric].unit == "%" else SCALES[metric].unit
    place = ["Combination", "Region"] if "combination" in comparison else ["Region"]
    return [*place, "Difference", "n", f"Mean ({unit})", "95% CI", "p", "p (Holm)", "Rank-biserial"]


def comparison_html(comparison: pd.DataFrame, metric: str, caption: str) -> str:
    """Rows of `monai_passion.evaluation.statistics.compare_methods` for one metric and convention."""
    rows = [("", (), cells) for cells in _comparison_rows(comparison, metric)]
    return table_html("listed", caption, _comparison_head(comparison, metric), rows)


def comparison_latex(comparison: pd.DataFrame, metric: str, caption: str) -> str:
    """The same rows as LaTeX."""
    head = _comparison_head(comparison, metric)
    rows = [" & ".join(map(latex_text, row)) + " \\\\" for row in _comparison_rows(comparison, metric)]
    texts = len(head) - 6
    return latex_table(caption, "l" * texts + "r" * 6, [" & ".join(map(latex_text, head)) + " \\\\"], [rows])
