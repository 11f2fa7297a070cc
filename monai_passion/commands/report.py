"""``monai-passion report``: tables and figures from the results of trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_passion.system.files import PathLike

__all__ = ["report"]


def report(runs: Sequence[PathLike], *, output: PathLike, rare: Sequence[str] = ()) -> Path:
    """Make tables and figures from the results of trainings.

    Example:
        monai-passion report RUNS --output REPORT
        monai-passion report BASELINE PASSION --output REPORT

    Args:
        runs: the output of ``experiments run``, whose finished cells are taken; or folders of runs, each with its
            metrics.csv and, if there, curves.csv and run.json. Runs with the same label in run.json are seeds of one
            method; give the baseline first.
        output: folder for report.html, figures/ and tables/. With several methods tables/seeds.csv has the endpoints of
            every training and patient, tables/seeds_comparison.csv the differences to the first method.
        rare: the modalities that are rarest; the Dice of their combinations is an endpoint of its own.

    Returns:
        The path of report.html.
    """
    from monai_passion.reporting.report import write_report

    page = write_report([Path(run) for run in runs], Path(output), rare)
    print(page)
    return page
