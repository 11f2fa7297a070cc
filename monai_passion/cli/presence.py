"""`monai-passion presence`: draw a presence matrix, or count what is in one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from monai_passion.data.datalists import TASKS, load_datalist
from monai_passion.data.presence import Presence, draw_presence, read_presence, write_presence
from monai_passion.errors import UsageError
from monai_passion.modalities import combination_mask, combination_name, combinations

__all__ = ["add_arguments", "run"]

RATES = "one a modality, in the order of the modalities or as NAME=RATE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cases", type=int, metavar="N", help="draw for N cases, named case_0001 and so on")
    what.add_argument("--datalist", type=Path, metavar="D.json", help="draw for its training patients")
    what.add_argument("--read", type=Path, metavar="P.csv", help="count what is in a table, ours or a published one")
    parser.add_argument("--output", type=Path, metavar="P.csv", help="what to write")
    parser.add_argument("--missing-rates", nargs="+", metavar="RATE", help=f"{RATES}, as t1=0.2; each in [0, 1)")
    parser.add_argument(
        "--group-rates",
        nargs="+",
        action="append",
        metavar="GROUP RATE",
        help="a group of the datalist and its rates; once for each group, in place of --missing-rates",
    )
    parser.add_argument("--seed", type=int, default=0, help="who lacks what (default: 0)")
    parser.add_argument("--per", choices=["patient", "case"], default="patient", help="rows (default: patient)")
    parser.add_argument(
        "--task",
        choices=list(TASKS),
        default="brats_mri",
        help="its modalities (default: brats_mri, of a datalist: its)",
    )


def run(args: argparse.Namespace) -> int:
    presence = read_presence(args.read) if args.read else _draw(args)
    if args.output:
        write_presence(args.output, presence)
    _show(presence)
    if args.output:
        print(f"wrote {args.output}")
    return 0


def _draw(args: argparse.Namespace) -> Presence:
    if bool(args.missing_rates) == bool(args.group_rates):
        raise UsageError("give --missing-rates, or --group-rates for each group of the datalist")
    if args.datalist:
        datalist = load_datalist(args.datalist)
        modalities = tuple(datalist["modalities"])
        groups = {item[args.per]: item["group"] for item in datalist["training"]}
    else:
        modalities = TASKS[args.task]
        groups = {f"case_{n + 1:04d}": "unknown" for n in range(args.cases)}
    rates: Any = _rates(args.missing_rates or [])
    if args.group_rates:
        rates = {group: _rates(texts) for group, *texts in args.group_rates}
    table = draw_presence(len(groups), rates, args.seed, groups=list(groups.values()), modalities=modalities)
    return Presence(tuple(groups), modalities, table)


def _rates(texts: Sequence[str]) -> list[float] | dict[str, float]:
    """``["0.2", "0.4"]`` or ``["t1=0.2", "t2=0.4"]`` as numbers."""
    pairs = [text.rpartition("=") for text in texts]
    try:
        values = [float(value) for _, _, value in pairs]
    except ValueError:
        raise UsageError(f"'{' '.join(texts)}' are no missing rates; give {RATES}") from None
    names = [name for name, _, _ in pairs if name]
    if names and (len(names) != len(pairs) or len(set(names)) != len(names)):
        raise UsageError(f"'{' '.join(texts)}' has rates with and without name, or a name twice; give {RATES}")
    return dict(zip(names, values, strict=True)) if names else values


def _show(presence: Presence) -> None:
    total = len(presence.cases)
    console = Console()
    by_modality = Table("modality", "cases", "missing rate", title=f"{total} cases")
    for name, count in zip(presence.modalities, presence.table.sum(axis=0), strict=True):
        by_modality.add_row(name, str(count), f"{1 - count / total:.3f}")
    console.print(by_modality)
    by_combination = Table("combination", "cases", "share")
    for combination in combinations(presence.modalities):
        mask = combination_mask(combination, presence.modalities)
        count = int((presence.table == mask).all(axis=1).sum())
        by_combination.add_row(combination_name(mask, presence.modalities), str(count), f"{count / total:.3f}")
    console.print(by_combination)
