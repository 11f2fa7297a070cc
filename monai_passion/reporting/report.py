"""A report of finished runs: one HTML file that needs no network, and its figures and tables as files of their own."""

from __future__ import annotations

import base64
import datetime
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from monai_passion import NOTICE, __version__
from monai_passion.evaluation.metrics import CHALLENGE, METRICS, RELEASED
from monai_passion.evaluation.statistics import compare_methods
from monai_passion.evaluation.summary import AVERAGE, pool_regions, summarize, write_summary
from monai_passion.modalities import resolve
from monai_passion.reporting import examples, figures, paper, tables
from monai_passion.reporting.runs import Results, load_runs, run_facts, run_folders
from monai_passion.reporting.seeds import compare_to_first, endpoints
from monai_passion.reporting.tables import SCALES
from monai_passion.system.files import write_atomically
from monai_passion.system.output import writing
from monai_passion.system.templates import template

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

SHOWN = ("dice", "hd95")
"""Metrics whose tables the page shows; those of others are only files."""
EMPTY_REGIONS = {
    CHALLENGE.name: "Empty regions: one that only the network or only the reference has scores Dice 0 and, as a"
    " distance, the diagonal of the image, as in the BraTS challenge.",
    RELEASED.name: "Empty regions as in the published evaluation code: one that only the network or only the"
    " reference has scores a distance of 1, and a predicted enhancing tumor under 0.5 mL (500 voxels of 1 mm) is"
    " removed. That flatters; it is here for comparison with published numbers.",
}
LEGEND = (
    "Filled dots: modalities that the network was given. 95% CI of the average by bootstrap over {kind}s. Distances"
    " are in voxels where the size of a voxel was unknown."
)
BOLD = " Bold: best of its column and region."
BESIDE = " Differences are to the first method on the same {kind}s, with a bootstrap interval."
UNEQUAL = (
    "The methods were not scored on the same {kind}s and combinations, so their means cannot be compared and none is"
    " bold; differences are over what both methods have."
)
WORST = (
    "Differences are to the first method on the same {kind}, with a bootstrap interval over its combinations. A {kind}"
    " stands here because a method was poor on it, which biases its difference in the other method's favor."
)
LONG = ("settings", "command")
"""Columns of the table of runs whose text is wrapped."""
CURVES = {"beta": ("Beta", 1.0), "relative_preference": ("Relative preference", 0.0)}


class _Report(NamedTuple):
    """What all sections are made from; each adds its files."""

    results: Results
    summary: pd.DataFrame
    """The result of `summarize`, with a column ``method``."""
    comparison: pd.DataFrame | None
    """All pairs of methods, means over combinations; None for a single method."""
    kind: str
    """patient or phantom."""
    patients: str
    """Their number, such as ``n = 45 patients``."""
    files: dict[str, str]
    """Path below the output -> text."""


class _Picture(NamedTuple):
    name: str
    png: bytes
    caption: str
    alt: str

    @property
    def data(self) -> str:
        """The PNG as a page embeds it."""
        return base64.b64encode(self.png).decode()


class _Section(NamedTuple):
    """What the page shows under one title, in this order."""

    title: str
    notes: Sequence[str] = ()
    tables: Sequence[str] = ()
    pictures: Sequence[_Picture] = ()
    details: Sequence[tuple[str, str, str]] = ()
    """Folded away: summary, note, table."""
    folded: str = ""
    """Summary, of a section that is folded away."""


def write_report(folders: Sequence[Path], output: Path, rare: Sequence[str] = ()) -> Path:
    """Read the runs in ``folders`` and write ``report.html``, ``figures/``, ``tables/`` and ``summary.json``.

    Args:
        folders: each holds the cells of a grid, of which the finished ones are used; or it is a run with its
            ``metrics.csv`` (`monai_passion.evaluation.metrics`), and may hold ``curves.csv`` with the columns ``epoch,
            name, modality, value`` and ``run.json`` with a ``label``. Runs of equal label are seeds.
        output: made where it is missing; files of an earlier report are replaced.
        rare: modalities, for the endpoint ``dice_rare`` of ``tables/seeds.csv`` (`monai_passion.reporting.seeds`).

    Returns:
        The path of the HTML file.

    Raises:
        InputError: a file of a run is missing or not what it must be.
        ResourceError: ``output`` cannot be made.
        UsageError: two runs that cannot be told apart.
    """
    runs = run_folders(folders)
    results = load_runs(runs)
    rare = [resolve(name, tuple(results.modalities)) for name in rare]
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    kind = "phantom" if "phantom" in results.data.lower() else "patient"
    if not results.alike:
        logger.warning(UNEQUAL.format(kind=kind))
    summary = pd.concat(
        [summarize(own).assign(method=method) for method, own in results.rows.groupby("method", sort=False)],
        ignore_index=True,
    )
    several = len(results.methods) > 1
    comparison = compare_methods(pool_regions(results.rows), SHOWN, pooled=True) if several else None
    report = _Report(results, summary, comparison, kind, tables.patients_text(results.patients, kind), {})
    _add_table(report, "summary", summary)
    sections = [_paper_table(report)] if results.table else []
    sections += [_scores(report, convention) for convention in dict.fromkeys(results.rows["convention"])]
    if several:
        sections.append(_comparisons(report))
        _add_table(report, "seeds", endpoints(results.rows, rare).reset_index())
        _add_table(report, "seeds_comparison", compare_to_first(results.rows, rare))
    if results.examples:
        sections.append(_Section("Example", pictures=[_example_picture(report)]))
    if len(results.curves):
        sections.append(_Section("Training", pictures=_training_pictures(report)))
    sections.append(_runs(runs, results))
    for picture in (picture for section in sections for picture in section.pictures):
        _write(output / "figures" / f"{picture.name}.png", picture.png)
    for name, text in report.files.items():
        _write(output / name, text.encode())
    write_summary(summary, output / "summary.json", notice=NOTICE, patients=results.patients)
    return _write(output / "report.html", _page(report, sections).encode())


def _add_table(report: _Report, name: str, table: pd.DataFrame, note: str = "") -> None:
    report.files[f"tables/{name}.csv"] = tables.csv_text(table, f"{report.patients}{note}")


def _scores(report: _Report, convention: str) -> _Section:
    """Tables and figures of one convention; the released one is for comparison only and folded away."""
    rule, folded = EMPTY_REGIONS.get(convention, ""), convention == RELEASED.name
    legend, shown = _combination_tables(report, convention)
    return _Section(
        f"Scores, {convention} convention",
        notes=[legend] if folded else [rule, legend],
        tables=shown,
        pictures=_score_pictures(report, convention),
        details=[_worst_cases(report, convention)],
        folded=rule if folded else "",
    )


def _worst_cases(report: _Report, convention: str) -> tuple[str, str, str]:
    """The patients that were segmented worst, as one of the details of a section."""
    table, kind = tables.worst_table(report.results.rows, convention), report.kind
    _add_table(report, f"worst_{convention}", table)
    caption = (
        f"Dice (%) of the {kind}s segmented worst, mean over combinations, {convention} convention, {report.patients}. "
        f"{NOTICE}"
    )
    note = WORST.format(kind=kind) if len(report.results.methods) > 1 else ""
    return "Worst cases", note, tables.worst_html(table, caption, kind)


def _runs(folders: Sequence[Path], results: Results) -> _Section:
    """What was read: folder, method, when it was scored, with which version and split."""
    rows = []
    for folder, (_, own) in zip(folders, results.rows.groupby("run", sort=True), strict=True):
        facts = run_facts(folder)
        scored = datetime.datetime.fromtimestamp((folder / "metrics.csv").stat().st_mtime, datetime.timezone.utc)
        settings = ", ".join(f"{key} {value}" for key, value in (facts.get("settings") or {}).items())
        facts = {**facts, "settings": settings}
        known = [str(facts.get(key) or tables.DASH) for key in ("data", "split", "seed", "version", *LONG)]
        rows.append([str(own["method"].iloc[0]), folder.name, f"{scored:%Y-%m-%d %H:%M} UTC", *known])
    head = ["method", "folder", "scored", "data", "split", "seed", "version", *LONG]
    return _Section("Runs", tables=[tables.table_html("runs", head, rows, LONG)])


def _write(path: Path, content: bytes) -> Path:
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _combination_tables(report: _Report, convention: str) -> tuple[str, list[str]]:
    """What is to be known of the tables of a convention, and those that are shown."""
    results = report.results
    beside = "" if len(results.methods) == 1 else (BOLD if results.alike else f" {UNEQUAL}") + BESIDE
    legend = (LEGEND + beside).format(kind=report.kind)
    shown = []
    for metric in METRICS:
        scale = SCALES[metric]
        regions = [*results.regions, AVERAGE]
        table = tables.combination_table(report.summary, metric, convention, results.combinations, regions)
        better = "higher" if scale.best is max else "lower"
        caption = (
            f"{scale.title} ({scale.unit}), {better} is better, {convention} convention, {report.patients}. {NOTICE}"
        )
        differences = (
            None
            if report.comparison is None or metric not in SHOWN
            else tables.differences_to(report.comparison, metric, convention, results.methods[0])
        )
        _add_table(report, f"{metric}_{convention}", table)
        report.files[f"tables/{metric}_{convention}.tex"] = tables.combination_latex(
            table, metric, results.modalities, f"{caption} {legend}", differences, results.alike
        )
        if metric in SHOWN:
            shown.append(
                tables.combination_html(table, metric, results.modalities, caption, differences, results.alike)
            )
    return legend, shown


def _paper_table(report: _Report) -> _Section:
    """The table of the paper that the runs belong to, with its numbers where the data are the same."""
    results, summary, comparison, kind, patients, files = report
    beside = paper.comparable(results.data)
    conventions = list(dict.fromkeys(results.rows["convention"]))
    wanted = RELEASED.name if beside else CHALLENGE.name
    convention = wanted if wanted in conventions else conventions[0]
    if beside:
        note = (
            f"The paper's numbers stand beneath ours; both are of {results.data}. The paper's are of its "
            f"{paper.PAPER_DATA[results.data]} test patients; ours of those that were scored here, {patients}, with "
            "the conventions of the published evaluation code. What the paper calls HD is what that code computes, "
            "HD95."
        )
    else:
        note = (
            f"These runs are of {results.data or 'unknown data'}, not of the paper's data. The paper's numbers are not "
            "comparable with them and are left out; only its layout is used."
        )
    if not results.alike:
        note += " " + UNEQUAL.format(kind=kind)
    if comparison is not None:
        note += " " + paper.DIFFERENCES.format(kind=kind)
    name = f"table{results.table}"
    title = f"Table {results.table} of the paper, {'with its numbers' if beside else 'its layout'}"
    what = f"{results.data or 'Unknown data'}, {convention} convention, {patients}. {NOTICE}"
    if results.table == "3":
        table = paper.dots_table(summary, results, convention)
        differences = None if comparison is None else paper.dots_differences(comparison, results, convention)
        caption = f"Dice (%) of {what}"
        given = table, "dice", results.modalities
        shown = tables.combination_html(*given, caption, differences, results.alike)
        files[f"tables/{name}.tex"] = tables.combination_latex(*given, f"{caption} {note}", differences, results.alike)
    else:
        table = paper.score_table(summary, results, results.table, convention)
        columns = {} if comparison is None else paper.score_differences(comparison, results, convention)
        backbones = ", ".join(dict.fromkeys(table["backbone"]))
        caption = f"Dice (%) and HD95 (mm), mean over combinations, {backbones}. {what}"
        shown = paper.score_html(table, results.table, caption, columns)
        files[f"tables/{name}.tex"] = paper.score_latex(table, results.table, f"{caption} {note}", columns)
    _add_table(report, name, table, f". {note}")
    return _Section(title, notes=[note], tables=[shown])


def _score_pictures(report: _Report, convention: str) -> list[_Picture]:
    results, patients = report.results, report.patients
    by_combination = figures.combination_figure(
        report.summary, "dice", convention, results.combinations, results.modalities, results.regions, patients
    )
    by_number, means = figures.number_figure(results.rows, "dice", convention, results.regions, patients)
    _add_table(report, f"dice_by_number_{convention}", means)
    overall = tables.combination_table(report.summary, "dice", convention, [], results.regions)
    ends = means[means["modalities"].isin([means["modalities"].min(), means["modalities"].max()])]
    return [
        _picture(
            f"dice_{convention}",
            by_combination,
            f"Dice of every combination of modalities with its 95% CI, {convention} convention.",
            "Averages: " + _spoken(zip(overall["region"], overall["method"], overall[AVERAGE], strict=True)),
        ),
        _picture(
            f"dice_by_number_{convention}",
            by_number,
            f"Mean Dice against the number of modalities given, with its 95% CI, {convention} convention.",
            "Ends: " + _spoken(zip(ends["region"], ends["method"], ends["mean"], ends["modalities"], strict=True)),
        ),
    ]


def _spoken(numbers: Iterable[tuple[Any, ...]]) -> str:
    return "; ".join(
        f"{region}, {method}{f', {count[0]} of them' if count else ''}: {value:.1f}%"
        for region, method, value, *count in numbers
    )


def _comparisons(report: _Report) -> _Section:
    kind = report.kind
    note = (
        f"Each difference is between two methods on the same {kind}s: the runs of a method are averaged first, then"
        f" the scores of a {kind}. p: Wilcoxon's signed-rank test, two-sided, with Holm's correction for all tests of a"
        f" table. Rank-biserial: 1 where the first method has the larger score for every {kind}, "
        f"{tables.MINUS}1 where the second has. The interval is a bootstrap over {kind}s and is not corrected."
    )
    shown, details = [], []
    for per_combination in (False, True):
        metrics = SHOWN if per_combination else METRICS
        comparison = compare_methods(report.results.rows, metrics, per_combination=per_combination)
        name = "comparison_per_combination" if per_combination else "comparison"
        _add_table(report, name, comparison)
        for (convention, metric), family in comparison.groupby(["convention", "metric"], sort=False):
            if metric not in SHOWN:
                continue
            what = "within each combination" if per_combination else "mean over combinations"
            caption = f"{SCALES[metric].title}, {what}, {convention} convention, {report.patients}. {NOTICE}"
            table = tables.comparison_html(family, metric, caption)
            if per_combination:
                title = f"{SCALES[metric].title} {what}, {convention} convention"
                details.append((title, "", table))
            else:
                path = f"tables/{name}_{metric}_{convention}.tex"
                report.files[path] = tables.comparison_latex(family, metric, caption)
                shown.append(table)
    return _Section("Paired comparisons", notes=[note], tables=shown, details=details)


def _example_picture(report: _Report) -> _Picture:
    results = report.results
    figure = examples.example_figure(
        results.examples, results.combinations, results.modalities, results.classes, report.kind
    )
    caption = (
        f"One slice of one {report.kind} as each combination segments it, over the first modality of the dots; "
        "it is an illustration, not evidence."
    )
    return _picture("example", figure, caption, f"Methods: {', '.join(results.examples)}")


def _training_pictures(report: _Report) -> list[_Picture]:
    pictures, results, evaluated = [], report.results, f"Evaluated on {report.patients}"
    curves = results.curves.sort_values("epoch", kind="stable")
    for name, (title, neutral) in CURVES.items():
        own = curves[curves["name"] == name]
        if len(own):
            figure = figures.modality_curves(own, title, neutral, results.modalities, evaluated)
            caption = f"{title} of each modality over the epochs; {neutral:g} favors none."
            pictures.append(_picture(name, figure, caption, _last(own, "modality")))
    general = curves[curves["modality"] == ""]
    if len(general):
        figure = figures.training_curves(general, evaluated)
        pictures.append(_picture("training", figure, "Losses and validation scores.", _last(general, "name")))
    return pictures


def _last(curves: pd.DataFrame, kind: str) -> str:
    """The last value of each curve in words, averaged over runs."""
    last = curves.groupby(["method", kind, "run"], sort=False)["value"].last().groupby(level=[0, 1], sort=False).mean()
    return "At the end: " + "; ".join(f"{method}, {name}: {value:.3g}" for (method, name), value in last.items())


def _picture(name: str, figure: Figure, caption: str, numbers: str) -> _Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Title": name, "Description": NOTICE})
    return _Picture(name, buffer.getvalue(), caption, f"{caption} {numbers}.")


def _page(report: _Report, sections: Sequence[_Section]) -> str:
    methods = [
        (method, own["run"].nunique(), tables.patients_text(own["patient"].nunique(), report.kind))
        for method, own in report.results.rows.groupby("method", sort=False)
    ]
    text: str = template(tables.TEMPLATES, "report.html").render(
        notice=NOTICE, version=__version__, patients=report.patients, methods=methods, sections=sections
    )
    return text
