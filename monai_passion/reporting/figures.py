"""Figures of a report: color-blind-safe, distinguishable by marker and dash too, readable in print.

The colors are those of Okabe and Ito. Every figure carries the notice and the number of patients.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monai_passion import NOTICE
from monai_passion.evaluation.statistics import average_seeds, bootstrap_mean
from monai_passion.reporting.tables import SCALES

__all__ = ["combination_figure", "modality_curves", "number_figure", "training_curves"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
GRAY = "#767676"


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    looks = zip(cycle(COLORS), cycle(MARKERS), cycle(DASHES), strict=False)
    return {
        name: {"color": color, "marker": marker, "linestyle": dash, "markersize": 4.5, "linewidth": 1.4}
        for name, (color, marker, dash) in zip(names, looks, strict=False)
    }


def _figure(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=200)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#E0E0E0", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
    return figure, axes


def _finish(figure: Figure, axis: Any, title: str, patients: str) -> Figure:
    handles, labels = axis.get_legend_handles_labels()
    options = {"ncols": min(len(labels), 5), "frameon": False, "fontsize": 9, "title_fontsize": 11, "handlelength": 3}
    figure.legend(handles, labels, title=title, loc="outside upper center", **options)
    figure.supxlabel(f"{patients}. {NOTICE}", fontsize=7, color=GRAY)
    return figure


def combination_figure(
    summary: pd.DataFrame,
    metric: str,
    convention: str,
    combinations: Sequence[str],
    modalities: Mapping[str, str],
    regions: Sequence[str],
    patients: str,
) -> Figure:
    """Mean and interval of every method per combination, a panel per region, above the paper's dots.

    Args:
        summary: of `monai_passion.evaluation.summary.summarize`, with a column ``method``.
        metric: of `SCALES`.
        convention: for empty regions.
        combinations: positions, in this order.
        modalities: name -> title; rows of dots, in this order.
        regions: panels, in this order.
        patients: for the foot line, e.g. ``n = 45 patients``.
    """
    scale = SCALES[metric]
    chosen = summary[(summary["metric"] == metric) & (summary["convention"] == convention)]
    styles = _styles(list(dict.fromkeys(chosen["method"])))
    height = 1.7 * len(regions) + 0.22 * len(modalities) + 1.2
    ratios = [1.7] * len(regions) + [0.22 * len(modalities)]
    figure, axes = _figure(
        max(5.0, 0.55 * len(combinations) + 1.5), height, len(ratios), 1, sharex=True, height_ratios=ratios
    )
    place = np.arange(len(combinations))
    for axis, region in zip(axes[:-1, 0], regions, strict=True):
        for number, (method, style) in enumerate(styles.items()):
            cells = chosen[(chosen["region"] == region) & (chosen["method"] == method)].set_index("combination")
            mean, low, high = cells.reindex(combinations)[["mean", "low", "high"]].to_numpy(float).T * scale.factor
            shift = (number - (len(styles) - 1) / 2) * 0.7 / len(styles)
            look = {**style, "linestyle": "none", "elinewidth": 1.0}
            axis.errorbar(place + shift, mean, np.nan_to_num([mean - low, high - mean]), label=method, **look)
        axis.set_ylabel(f"{region} {scale.title} ({scale.unit})", fontsize=9)
        axis.tick_params(axis="x", length=0)
        for edge in place[:-1] + 0.5:
            axis.axvline(edge, color="#E0E0E0", linewidth=0.6)
    dots = axes[-1, 0]
    for row, modality in enumerate(modalities):
        given = np.array([modality in name.split("+") for name in combinations])
        dots.scatter(place[given], np.full(given.sum(), row), s=34, color="black", clip_on=False)
        dots.scatter(
            place[~given], np.full((~given).sum(), row), s=34, facecolor="white", edgecolor=GRAY, clip_on=False
        )
    dots.set_yticks(range(len(modalities)), list(modalities.values()))
    dots.tick_params(length=0)
    dots.set_ylim(len(modalities) - 0.5, -0.5)
    dots.set_xlim(-0.6, len(combinations) - 0.4)
    dots.set_xticks([])
    dots.grid(visible=False)
    dots.spines[:].set_visible(False)
    title = f"{scale.title} per combination of modalities (95% CI, {convention} convention)"
    return _finish(figure, axes[0, 0], title, patients)


def number_figure(
    rows: pd.DataFrame, metric: str, convention: str, regions: Sequence[str], patients: str
) -> tuple[Figure, pd.DataFrame]:
    """Mean and interval over all combinations of one, two, ... modalities, and the same numbers as a table.

    Args:
        rows: the columns of `monai_passion.evaluation.metrics.COLUMNS` and ``method``.
        metric: of `SCALES`.
        convention: for empty regions.
        regions: panels, in this order.
        patients: for the foot line.
    """
    scale = SCALES[metric]
    chosen = rows[rows["convention"] == convention]
    styles = _styles(list(dict.fromkeys(chosen["method"])))
    table = []
    for method, own in chosen.groupby("method", sort=False):
        averaged = average_seeds(own, [metric])
        numbers = averaged["combination"].str.count(r"\+") + 1
        for (region, number), cell in averaged.groupby(["region", numbers], sort=False):
            ci = bootstrap_mean(cell[metric], cell["patient"].to_numpy())
            table.append({"region": region, "method": method, "modalities": number, **ci._asdict()})
    means = pd.DataFrame(table)
    means[["mean", "low", "high"]] *= scale.factor
    figure, axes = _figure(2.6 * len(regions) + 1.0, 3.3, 1, len(regions))
    for axis, region in zip(axes[0], regions, strict=True):
        for number, (method, style) in enumerate(styles.items()):
            own = means[(means["region"] == region) & (means["method"] == method)].sort_values("modalities")
            x = own["modalities"] + (number - (len(styles) - 1) / 2) * 0.06
            spread = np.nan_to_num([own["mean"] - own["low"], own["high"] - own["mean"]])
            axis.errorbar(x, own["mean"], spread, label=method, elinewidth=1.0, **style)
        axis.set_xticks(sorted(means["modalities"].unique()))
        axis.set_title(region, fontsize=10)
        axis.set_xlabel("Number of modalities", fontsize=9)
    axes[0, 0].set_ylabel(f"{scale.title} ({scale.unit})", fontsize=9)
    title = f"{scale.title} by number of modalities (95% CI, {convention} convention)"
    return _finish(figure, axes[0, 0], title, patients), means


def modality_curves(
    curves: pd.DataFrame, title: str, neutral: float, modalities: Mapping[str, str], patients: str
) -> Figure:
    """One quantity per modality over the epochs, a panel per method; single runs are thin lines, their mean is thick.

    Args:
        curves: `monai_passion.handlers.curves.COLUMNS`, ``method`` and ``run``, all of one ``name``.
        title: what it is, e.g. ``Beta``.
        neutral: value that favors no modality, drawn as a gray line.
        modalities: name -> title; lines, in this order.
        patients: for the foot line.
    """
    methods = list(dict.fromkeys(curves["method"]))
    columns = min(len(methods), 3)
    lines = -(-len(methods) // columns)
    figure, axes = _figure(2.6 * columns + 1.4, 2.4 * lines + 1.0, lines, columns, sharex=True, sharey=True)
    for axis in axes.flat[len(methods) :]:
        axis.set_visible(False)
    styles = _styles(list(modalities))
    for axis, method in zip(axes.flat, methods, strict=False):
        axis.axhline(neutral, color=GRAY, linewidth=0.8)
        for modality, style in styles.items():
            own = curves[(curves["method"] == method) & (curves["modality"] == modality)]
            _runs_and_mean(axis, own, modalities[modality], style)
        axis.set_title(textwrap.fill(method, 30), fontsize=10)
        axis.set_xlabel("Epoch", fontsize=9)
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel(title, fontsize=9)
    return _finish(figure, axes[0, 0], f"{title} during training", patients)


def training_curves(curves: pd.DataFrame, patients: str) -> Figure:
    """Losses and validation scores over the epochs, a panel per name; curves that belong to no modality."""
    names = sorted(dict.fromkeys(curves["name"]), key=lambda name: name.startswith("loss/"))
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure, axes = _figure(2.6 * columns + 1.4, 2.2 * lines + 1.0, lines, columns, sharex=True)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    styles = _styles(list(dict.fromkeys(curves["method"])))
    for axis, name in zip(axes.flat, names, strict=False):
        for method, style in styles.items():
            _runs_and_mean(axis, curves[(curves["name"] == name) & (curves["method"] == method)], method, style)
        axis.set_title(name.replace("/", ": ").replace("_", " "), fontsize=10)
        axis.set_xlabel("Epoch", fontsize=9)
        axis.tick_params(labelbottom=True)
    return _finish(figure, axes[0, 0], "Training", patients)


def _runs_and_mean(axis: Any, curve: pd.DataFrame, label: str, style: dict[str, Any]) -> None:
    by_run = curve.pivot_table(index="epoch", columns="run", values="value")
    if by_run.shape[1] > 1:
        axis.plot(by_run.index, by_run.to_numpy(), color=style["color"], linewidth=0.5, alpha=0.6)
    mean = by_run.mean(axis=1)
    axis.plot(mean.index, mean, label=label, markevery=max(1, len(mean) // 6), **style)
