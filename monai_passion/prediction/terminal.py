"""The messages of `predict` in a terminal: progress, findings as soon as there are any, and numbers at the end."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monai_passion.data.patient import Finding
from monai_passion.prediction.expectation import UNKNOWN
from monai_passion.system.status import time_text

if TYPE_CHECKING:
    from rich.console import Console

    from monai_passion.prediction.run import Stage

__all__ = [
    "Voice",
    "expected_text",
    "helpful_text",
    "print_check",
    "print_findings",
    "print_summary",
    "speaking",
    "unknown_text",
]

STYLES = {"unusable": "bold red", "warning": "yellow", "note": "dim"}


class Voice(NamedTuple):
    """The functions through which a run prints."""

    stage: Stage
    finding: Callable[..., None]
    """Called with a `Finding` and, in a cohort, the patient; one that another patient had is only counted."""
    repeat: Callable[[], None]
    """Prints which other patients had the same findings; called at the end."""


@contextmanager
def speaking(quiet: bool) -> Iterator[Voice]:
    """A changing line and bar in a terminal; elsewhere a line per stage and per quarter of a stage, with time left.

    All of it goes to standard error.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=quiet, soft_wrap=True)
    findings = _Findings(console)
    if not console.is_terminal:
        yield Voice(_Lines(console), findings.say, findings.repeat)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(name: str, share: float = 0.0) -> None:
            if not share:  # a new stage, whose length shows once a part of it is done
                progress.reset(task, description=f"{name} ...", total=None)
            else:
                progress.update(task, completed=share, total=1.0)

        yield Voice(show, findings.say, findings.repeat)


class _Lines:
    """A line per stage and per quarter of it."""

    def __init__(self, console: Console) -> None:
        self.console, self.told, self.began = console, ("", 0), 0.0

    def __call__(self, name: str, share: float = 0.0) -> None:
        quarters = int(4 * share)
        if name != self.told[0]:
            self.began = time.monotonic()
        if (name, quarters) != self.told and share < 1:
            left = (time.monotonic() - self.began) * (1 / share - 1) if share else 0.0
            part = f", {25 * quarters} %, about {time_text(left)} left" if quarters else ""
            self.console.print(f"{name}{part} ...", highlight=False, markup=False)
        self.told = (name, quarters)


class _Findings:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: dict[tuple[str, str], list[str]] = defaultdict(list)

    def say(self, finding: Finding, patient: str = "") -> None:
        whom = self.said[finding.level, finding.text]
        if patient not in whom:
            whom.append(patient)
            if len(whom) == 1 and (finding.level != "note" or not patient):
                self._print(patient, *finding)

    def repeat(self) -> None:
        for (level, text), patients in self.said.items():
            if len(patients) > 1 and level != "note":
                self._print(", ".join(patients[1:]) + " too", level, text)

    def _print(self, patient: str, level: str, text: str) -> None:
        from rich.markup import escape

        line = f"{patient}: {level}: {text}" if patient else f"{level}: {text}"
        self.console.print(f"[{STYLES[level]}]{escape(line)}", highlight=False)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print one plain line per finding, for commands without a `Voice`."""
    for finding in findings:
        print(f"{finding.level}: {finding.text}", file=sys.stderr)


def expected_text(quality: Sequence[Mapping[str, Any]], region: str) -> str:
    """The expected Dice of a region with its interval, or that it is not known."""
    for row in quality:
        if row["region"] == region:
            known = row["low"] is not None and row["high"] is not None
            interval = f" ({row['low']:.2f} to {row['high']:.2f})" if known else ""
            return f"{row['dice']:.2f}{interval}"
    return "unknown"


def unknown_text(quality: Sequence[Mapping[str, Any]]) -> str:
    """The sentence for a report without any known quality; empty if some is known."""
    return "" if quality else UNKNOWN


def print_summary(report: Mapping[str, Any], output: Path) -> None:
    """The numbers of one patient, to standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=f"{report['bundle']['name']} {report['bundle']['version']}", title_justify="left")
    for name, justify in (("", "left"), ("volume (mL)", "right"), ("components", "right"), ("expected Dice", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    quality = report["expected_quality"]
    for row in report["regions"]:
        numbers = f"{row['volume_ml']:.2f}", str(row["components"]), expected_text(quality, row["name"])
        table.add_row(f"[bold]{escape(_name(row))}[/bold]", *numbers)
    table.add_section()
    for row in report["labels"]:
        table.add_row(f"{row['value']} {escape(_name(row))}", f"{row['volume_ml']:.2f}", str(row["components"]), "")
    console.print(table)
    used, absent = report["modalities"]["used"], report["modalities"]["absent"]
    console.print(f"used: {', '.join(used)}; absent: {', '.join(absent) or 'none'}")
    if report["most_helpful"]:
        console.print(helpful_text(report))
    if uncertainty := report["uncertainty"]:
        console.print(f"mean uncertainty (0 to 1): {_or_dash(uncertainty['score'])}")
        for modality, dice in uncertainty["agreement"].items():
            rows = ", ".join(f"{region} {value:.2f}" for region, value in dice.items())
            console.print(f"Dice of {modality} alone with all together: {rows}")
    for row in report["combinations"]:
        rows = ", ".join(f"{region['name']} {region['volume_ml']:.2f}" for region in row["regions"])
        console.print(f"{'+'.join(row['modalities'])}: {rows} mL")
    for finding in sorted(report["findings"], key=lambda finding: list(STYLES).index(finding["level"]), reverse=True):
        console.print(f"[{STYLES[finding['level']]}]{finding['level']}: {escape(finding['text'])}")
    seconds = sum(report["seconds"].values())
    console.print(f"{seconds:.0f} s on {report['device']}, at most {report['peak_memory_mb']:.0f} MB")
    files = ", ".join(sorted(path.name for path in output.iterdir()))
    console.print(f"{output}: {files}", markup=False)
    console.print(f"[dim]{report['notice']}")


def print_check(found: Mapping[str, Any], patient: str = "") -> None:
    """The results of `check_patient` besides its findings, to standard output."""
    used, absent = found["modalities"]["used"], found["modalities"]["absent"]
    whose = f"{patient}: " if patient else ""
    lines = [
        f"used: {', '.join(used)}; absent: {', '.join(absent) or 'none'}; grid of {found['modalities']['reference']}"
    ]
    lines += [
        f"expected Dice of {row['region']}: {expected_text([row], row['region'])}" for row in found["expected_quality"]
    ]
    if found["most_helpful"]:
        lines.append(helpful_text(found))
    for line in lines:
        print(f"{whose}{line}")


def helpful_text(report: Mapping[str, Any]) -> str:
    """Which absent sequence would help most, as a sentence."""
    best = report["most_helpful"]
    title = report["titles"].get(best["modality"], best["modality"])
    return (
        f"The sequence that would help most is {title}: expected {best['region']} Dice {best['now']:.2f} "
        f"-> {best['then']:.2f}."
    )


def _name(row: Mapping[str, Any]) -> str:
    return row["name"] if row["title"] == row["name"] else f"{row['title']} ({row['name']})"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
