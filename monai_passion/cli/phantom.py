"""``monai-passion phantom``: a cohort of digital phantoms."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("layout", choices=("brats", "myops"), help="brain tumours or infarcted hearts")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder, or one with the same cohort to go on with")
    parser.add_argument("--cases", type=int, default=24, metavar="N", help="how many patients (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes (default %(default)s)")
    parser.add_argument(
        "--size",
        type=int,
        metavar="V",
        help="voxels an edge: brats V^3 over the whole head (default 240x240x155 at 1 mm), myops in-plane (256)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the cohort, with a progress bar in a terminal and a line a case elsewhere."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from monai_passion.data.phantom import write_cohort

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{args.layout} phantoms", total=args.cases)

        def report(name: str, written: bool) -> None:
            nonlocal done
            done += 1
            progress.advance(task)
            if not console.is_terminal:
                print(f"{done}/{args.cases} {name}{'' if written else ' (kept)'}", file=sys.stderr, flush=True)

        write_cohort(args.out, args.layout, args.cases, args.seed, args.size, report)
    print(f"{args.cases} {args.layout} phantoms in {args.out}")
    return 0
