"""``monai-passion report``: tables and figures from the results of trainings."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="the --output of `experiments run`, whose finished cells are taken; or the folder of a run, with its "
        "metrics.csv and, if there, curves.csv and run.json; runs with the same label in run.json are seeds of one "
        "method; give the baseline first",
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, required=True, help="folder for report.html, figures/ and tables/"
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and print where it is."""
    from monai_passion.reporting.report import write_report

    print(write_report(args.runs, args.output))
    return 0
