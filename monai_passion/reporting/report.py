"""A report of finished runs: one HTML file that needs no network, and its figures and tables as files of their own."""

from __future__ import annotations

import base64
import datetime
import html
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from monai_passion import NOTICE, __version__
from monai_passion.errors import InputError
from monai_passion.evaluation.metrics import METRICS
from monai_passion.evaluation.statistics import compare_methods
from monai_passion.evaluation.summary import AVERAGE, pool_regions, summarize, write_summary
from monai_passion.modalities import resolve
from monai_passion.reporting import examples, figures, paper, tables
from monai_passion.reporting.runs import Results, load_runs, run_facts, run_folders
from monai_passion.reporting.seeds import compare_to_first, endpoints
from monai_passion.reporting.tables import SCALES
from monai_passion.system.files import write_atomically

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

SHOWN = ("dice", "hd95")
"""Metrics whose tables the page shows; the other ones are files."""
EMPTY_REGIONS = {
    "challenge": "Empty regions: one that only the network or only the reference has scores Dice 0 and, as a distance,"
    " the diagonal of the image, as in the BraTS challenge.",
    "released": "Empty regions as in the published evaluation code: one that only the network or only the reference has"
    " scores a distance of 1, and a predicted enhancing tumor under 0.5 mL (500 voxels of 1 mm) is removed. That"
    " flatters; it is here for comparison with published numbers.",
}
LEGEND = (
    "Filled dots: modalities that the network was given. 95% CI of the average by bootstrap over {kind}s. Distances"
    " are in voxels where the size of a voxel was unknown."
)
BOLD = " Bold: best of its column and region."
BESIDE = " Differences are to the first method on the same {kind}s, with a bootstrap interval."
UNEQUAL = (
    "The methods were not scored on the same {kind}s and combinations, so that their means are no comparison and none"
    " is bold; differences are of what both have."
)
WORST = (
    "Differences are to the first method on the same {kind}, with a bootstrap interval over its combinations. A {kind}"
    " stands here because a method was poor on it, which leans its difference to the other method's favor."
)
LONG = ("settings", "command")
"""Columns of the table of runs that are wrapped."""
CURVES = {"beta": ("Beta", 1.0), "relative_preference": ("Relative preference", 0.0)}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff }
body { max-width: 76rem; margin: 0 auto; padding: 1rem }
h1 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #767676 }
.notice { border-left: .4rem solid #D55E00; padding: .3rem 1rem; font-weight: 600 }
.wide { overflow-x: auto; margin: 1rem 0 } .wide:focus { outline: 2px solid #0072B2 }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums }
caption { text-align: left; white-space: nowrap; font-weight: 600; padding: .3rem 0 }
th, td { padding: .15rem .4rem; text-align: right; white-space: nowrap } th { font-weight: 600 }
.dots tbody th { position: sticky; left: 0; background: #fff }
.dots thead th[rowspan] { white-space: normal; max-width: 9rem }
.long { white-space: normal; overflow-wrap: anywhere; min-width: 16rem; max-width: 36rem; text-align: left }
summary { cursor: pointer } nav ol { columns: 2; max-width: 50rem }
thead { border-top: 2px solid; border-bottom: 1px solid } tbody { border-bottom: 1px solid }
tbody th, td:first-child, thead th:first-child { text-align: left }
tr.paper { color: #595959; font-style: italic } .dots thead td { text-align: center } .dots td b { font-weight: 700 }
figure { margin: 1.5rem 0 } img { max-width: 100%; height: auto } figcaption { font-size: .9rem }
@media print { body { max-width: none; font-size: 10pt } table { font-size: 6.5pt } th, td { padding: 1px 4px }
  .wide { overflow: visible } figure, tbody { break-inside: avoid } }
@page { size: A4 landscape; margin: 12mm }
"""


class _Picture(NamedTuple):
    name: str
    png: bytes
    caption: str
    alt: str


def write_report(folders: Sequence[Path], output: Path, rare: Sequence[str] = ()) -> Path:
    """Read the runs in ``folders`` and write ``report.html``, ``figures/``, ``tables/`` and ``summary.json``.

    Args:
        folders: each holds the cells of a grid, of which those that are done are taken; or it is a run with its
            ``metrics.csv`` (`monai_passion.evaluation.metrics`), and may hold ``curves.csv`` with the columns ``epoch,
            name, modality, value`` and ``run.json`` with a ``label``. Runs of equal label are seeds.
        output: made where it is missing; files of an earlier report are replaced.
        rare: modalities, for the endpoint ``dice_rare`` of ``tables/seeds.csv`` (`monai_passion.reporting.seeds`).

    Returns:
        The path of the HTML file.

    Raises:
        InputError: a file of a run is missing or not what it must be, or ``output`` cannot be made.
        UsageError: two runs that cannot be told apart.
    """
    runs = run_folders(folders)
    results = load_runs(runs)
    rare = [resolve(name, tuple(results.modalities)) for name in rare]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {output}: {error.strerror}; give another --output") from error
    n = tables.patients(results.patients, _kind(results))
    if not results.alike:
        logger.warning(UNEQUAL.format(kind=_kind(results)))
    summary = pd.concat(
        [summarize(own).assign(method=method) for method, own in results.rows.groupby("method", sort=False)],
        ignore_index=True,
    )
    pictures: list[_Picture] = []
    files: dict[str, str] = {"tables/summary.csv": tables.csv_text(summary, n)}
    apart = compare_methods(pool_regions(results.rows), SHOWN, pooled=True) if len(results.methods) > 1 else None
    sections = [_paper_table(results, summary, apart, n, files)] if results.table else []
    for convention in dict.fromkeys(results.rows["convention"]):
        rule = html.escape(EMPTY_REGIONS.get(convention, ""))
        parts = [] if convention == "released" else [f"<p>{rule}</p>"]
        parts += _combination_tables(results, summary, apart, convention, n, files)
        pictures += (own := _score_pictures(results, summary, convention, n, files))
        parts += map(_embed, own)
        parts.append(_worst_cases(results, convention, n, files))
        title, text = f"Scores, {convention} convention", "".join(parts)
        if convention == "released":  # for comparison only
            text = f"<details><summary>{rule}</summary>{text}</details>"
        sections.append(f"<h2>{title}</h2>{text}")
    if len(results.methods) > 1:
        sections.append(f"<h2>Paired comparisons</h2>{_comparisons(results, n, files)}")
        files["tables/seeds.csv"] = tables.csv_text(endpoints(results.rows, rare).reset_index(), n)
        files["tables/seeds_comparison.csv"] = tables.csv_text(compare_to_first(results.rows, rare), n)
    if results.examples:
        pictures += (own := [_example_picture(results)])
        sections.append(f"<h2>Example</h2>{''.join(map(_embed, own))}")
    if len(results.curves):
        pictures += (own := _training_pictures(results, f"Evaluated on {n}"))
        sections.append(f"<h2>Training</h2>{''.join(map(_embed, own))}")
    sections.append(_runs(runs, results))
    for picture in pictures:
        _write(output / "figures" / f"{picture.name}.png", picture.png)
    for name, text in files.items():
        _write(output / name, text.encode())
    write_summary(summary, output / "summary.json", notice=NOTICE, patients=results.patients)
    return _write(output / "report.html", _page(results, n, sections).encode())


def _kind(results: Results) -> str:
    """Phantoms are named as such."""
    return "phantom" if "phantom" in results.data.lower() else "patient"


def _worst_cases(results: Results, convention: str, n: str, files: dict[str, str]) -> str:
    """The patients that were segmented worst, folded away."""
    table, kind = tables.worst_table(results.rows, convention), _kind(results)
    files[f"tables/worst_{convention}.csv"] = tables.csv_text(table, n)
    caption = f"Dice (%) of the {kind}s segmented worst, mean over combinations, {convention} convention, {n}. {NOTICE}"
    note = f"<p>{WORST.format(kind=kind)}</p>" if len(results.methods) > 1 else ""
    return f"<details><summary>Worst cases</summary>{note}{tables.worst_html(table, caption, kind)}</details>"


def _contents(sections: Sequence[str]) -> tuple[str, list[str]]:
    """A list of links to the sections, and the sections with their anchors."""
    links, anchored = [], []
    for number, section in enumerate(sections):
        title = section.partition("<h2>")[2].partition("</h2>")[0]
        links.append(f'<li><a href="#s{number}">{title}</a></li>')
        anchored.append(section.replace("<h2>", f'<h2 id="s{number}">', 1))
    return f'<nav aria-label="contents"><ol>{"".join(links)}</ol></nav>', anchored


def _runs(folders: Sequence[Path], results: Results) -> str:
    """What was read: folder, method, when it was scored, with which version and split."""
    rows = []
    for folder, (_, own) in zip(folders, results.rows.groupby("run", sort=True), strict=True):
        facts = run_facts(folder)
        scored = datetime.datetime.fromtimestamp((folder / "metrics.csv").stat().st_mtime, datetime.timezone.utc)
        settings = ", ".join(f"{key} {value}" for key, value in (facts.get("settings") or {}).items())
        facts = {**facts, "settings": settings}
        known = [str(facts.get(key) or tables.DASH) for key in ("data", "split", "seed", "version", *LONG)]
        cells = [str(own["method"].iloc[0]), folder.name, f"{scored:%Y-%m-%d %H:%M} UTC", *known]
        short, long = cells[: -len(LONG)], cells[-len(LONG) :]
        columns = [f"<td>{html.escape(cell)}</td>" for cell in short]
        columns += [f'<td class="long">{html.escape(cell)}</td>' for cell in long]
        rows.append(f"<tr>{''.join(columns)}</tr>")
    head = "".join(
        f"<th>{name}</th>" for name in ("method", "folder", "scored", "data", "split", "seed", "version", *LONG)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<h2>Runs</h2><div class="wide" tabindex="0" role="region" aria-label="runs">{table}</div>'


def _write(path: Path, content: bytes) -> Path:
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _combination_tables(
    results: Results,
    summary: pd.DataFrame,
    apart: pd.DataFrame | None,
    convention: str,
    n: str,
    files: dict[str, str],
) -> list[str]:
    beside = "" if len(results.methods) == 1 else (BOLD if results.alike else f" {UNEQUAL}") + BESIDE
    legend = (LEGEND + beside).format(kind=_kind(results))
    shown = [f"<p>{legend}</p>"]
    for metric in METRICS:
        scale = SCALES[metric]
        table = tables.combination_table(summary, metric, convention, results.combinations, [*results.regions, AVERAGE])
        better = "higher" if scale.best is max else "lower"
        caption = f"{scale.title} ({scale.unit}), {better} is better, {convention} convention, {n}. {NOTICE}"
        differences = (
            None
            if apart is None or metric not in SHOWN
            else tables.differences_to(apart, metric, convention, results.methods[0])
        )
        files[f"tables/{metric}_{convention}.csv"] = tables.csv_text(table, n)
        files[f"tables/{metric}_{convention}.tex"] = tables.combination_latex(
            table, metric, results.modalities, f"{caption} {legend}", differences, results.alike
        )
        if metric in SHOWN:
            shown.append(
                tables.combination_html(table, metric, results.modalities, caption, differences, results.alike)
            )
    return shown


def _paper_table(
    results: Results, summary: pd.DataFrame, apart: pd.DataFrame | None, n: str, files: dict[str, str]
) -> str:
    """The table of the paper that the runs belong to, with its numbers where the data are the same."""
    beside = paper.comparable(results.data)
    conventions = list(dict.fromkeys(results.rows["convention"]))
    wanted = "released" if beside else "challenge"
    convention = wanted if wanted in conventions else conventions[0]
    if beside:
        note = (
            f"The paper's numbers stand beneath ours; both are of {results.data}. The paper's are of its "
            f"{paper.PAPER_DATA[results.data]} test patients; ours of those that were scored here, {n}, with the "
            "conventions of the published evaluation code. What the paper calls HD is what that code computes, HD95."
        )
    else:
        note = (
            f"These runs are of {results.data or 'unknown data'}, not of the paper's data. The paper's numbers are not "
            "comparable with them and are left out; only its layout is used."
        )
    if not results.alike:
        note += " " + UNEQUAL.format(kind=_kind(results))
    if apart is not None:
        note += " " + paper.DIFFERENCES.format(kind=_kind(results))
    name = f"table{results.table}"
    title = f"Table {results.table} of the paper, {'with its numbers' if beside else 'its layout'}"
    what = f"{results.data or 'Unknown data'}, {convention} convention, {n}. {NOTICE}"
    if results.table == "3":
        table = paper.dots_table(summary, results, convention)
        differences = None if apart is None else paper.dots_differences(apart, results, convention)
        caption = f"Dice (%) of {what}"
        given = table, "dice", results.modalities
        shown = tables.combination_html(*given, caption, differences, results.alike)
        files[f"tables/{name}.tex"] = tables.combination_latex(*given, f"{caption} {note}", differences, results.alike)
    else:
        table = paper.score_table(summary, results, results.table, convention)
        columns = {} if apart is None else paper.score_differences(apart, results, convention)
        backbones = ", ".join(dict.fromkeys(table["backbone"]))
        caption = f"Dice (%) and HD95 (mm), mean over combinations, {backbones}. {what}"
        shown = paper.score_html(table, results.table, caption, columns)
        files[f"tables/{name}.tex"] = paper.score_latex(table, results.table, f"{caption} {note}", columns)
    files[f"tables/{name}.csv"] = tables.csv_text(table, f"{n}. {note}")
    return f"<h2>{html.escape(title)}</h2><p>{html.escape(note)}</p>{shown}"


def _score_pictures(
    results: Results, summary: pd.DataFrame, convention: str, n: str, files: dict[str, str]
) -> list[_Picture]:
    by_combination = figures.combination_figure(
        summary, "dice", convention, results.combinations, results.modalities, results.regions, n
    )
    by_number, means = figures.number_figure(results.rows, "dice", convention, results.regions, n)
    files[f"tables/dice_by_number_{convention}.csv"] = tables.csv_text(means, n)
    overall = tables.combination_table(summary, "dice", convention, [], results.regions)
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


def _comparisons(results: Results, n: str, files: dict[str, str]) -> str:
    kind = _kind(results)
    parts = [
        f"<p>Each difference is between two methods on the same {kind}s: the runs of a method are averaged first, then"
        f" the scores of a {kind}. p: Wilcoxon's signed-rank test, two-sided, with Holm's correction for all tests of a"
        f" table. Rank-biserial: 1 where the first method has the larger score for every {kind}, "
        f"{tables.MINUS}1 where the second has. The interval is a bootstrap over {kind}s and is not corrected.</p>"
    ]
    for per_combination in (False, True):
        comparison = compare_methods(
            results.rows, SHOWN if per_combination else METRICS, per_combination=per_combination
        )
        name = "comparison_per_combination" if per_combination else "comparison"
        files[f"tables/{name}.csv"] = tables.csv_text(comparison, n)
        for (convention, metric), family in comparison.groupby(["convention", "metric"], sort=False):
            if metric not in SHOWN:
                continue
            what = "within each combination" if per_combination else "mean over combinations"
            caption = f"{SCALES[metric].title}, {what}, {convention} convention, {n}. {NOTICE}"
            table = tables.comparison_html(family, metric, caption)
            if per_combination:
                title = f"{SCALES[metric].title} {what}, {convention} convention"
                parts.append(f"<details><summary>{title}</summary>{table}</details>")
            else:
                files[f"tables/{name}_{metric}_{convention}.tex"] = tables.comparison_latex(family, metric, caption)
                parts.append(table)
    return "".join(parts)


def _example_picture(results: Results) -> _Picture:
    figure = examples.example_figure(
        results.examples, results.combinations, results.modalities, results.classes, _kind(results)
    )
    caption = (
        f"One slice of one {_kind(results)} as each combination segments it, over the first modality of the dots; "
        "it illustrates, and proves nothing."
    )
    return _picture("example", figure, caption, f"Methods: {', '.join(results.examples)}")


def _training_pictures(results: Results, n: str) -> list[_Picture]:
    pictures = []
    curves = results.curves.sort_values("epoch", kind="stable")
    for name, (title, neutral) in CURVES.items():
        own = curves[curves["name"] == name]
        if len(own):
            figure = figures.modality_curves(own, title, neutral, results.modalities, n)
            caption = f"{title} of each modality over the epochs; {neutral:g} favors none."
            pictures.append(_picture(name, figure, caption, _last(own, "modality")))
    general = curves[curves["modality"] == ""]
    if len(general):
        figure = figures.training_curves(general, n)
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


def _embed(picture: _Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(picture.alt)}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _page(results: Results, n: str, sections: Sequence[str]) -> str:
    runs = results.rows.groupby("method", sort=False).agg(runs=("run", "nunique"), patients=("patient", "nunique"))
    listed = "".join(
        f"<li>{html.escape(str(method))}: runs {row.runs}, {tables.patients(row.patients, _kind(results))}</li>"
        for method, row in runs.iterrows()
    )
    contents, sections = _contents(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Segmentation with missing sequences</title><style>{STYLE}</style></head><body><main>"
        f'<h1>Segmentation with missing sequences</h1><p class="notice" role="note">{NOTICE}</p>'
        f"<p>{n}. Methods:</p><ul>{listed}</ul>{contents}{''.join(sections)}</main>"
        f"<footer><p>{NOTICE} {n}. Made by monai_passion {__version__}. The same tables as CSV and LaTeX lie in"
        " <code>tables</code>, the figures in <code>figures</code>, beside this file.</p></footer></body></html>\n"
    )
