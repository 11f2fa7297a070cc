"""``monai-passion report``: tables and figures from the results of trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_passion.system.files import PathLike

__all__ = ["report"]


def report(runs: Sequence[PathLike], *, output: PathLike, rare: Sequence[str] = (), overwrite: bool = False) -> Path:
    """Make tables and figures from the results of trainings.

    Example:
        monai-passion report RUNS --output REPORT
        monai-passion report BASELINE PASSION --output REPORT

    Args:
        runs: the output of ``experiments run``, of which the finished cells are used; or folders of runs, each with a
            metrics.csv and optionally curves.csv and run.json. Runs with the same label in run.json are seeds of one
            method; give the baseline first.
        output: folder for report.html, figures/ and tables/. With several methods tables/seeds.csv has the endpoints of
            every training and patient, tables/seeds_comparison.csv the differences to the first method.
        rare: the rarest modalities; the Dice of their combinations is an endpoint of its own.
        overwrite: replace an older report.

    Returns:
        The path of report.html.
    """
    from monai_passion.reporting.report import write_report
    from monai_passion.system.output import output_folder

    with output_folder(Path(output), overwrite=overwrite, last="report.html") as folder:
        page = Path(output) / write_report([Path(run) for run in runs], folder, rare).name
    print(page)
    return page
