"""``monai-passion experiments``: run a grid of trainings, and say how far it is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from monai_passion.errors import InputError, PassionError, UsageError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    start = commands.add_parser("run", help="run the cells of a grid that are not done yet", allow_abbrev=False)
    start.add_argument("grid", type=Path, metavar="GRID.json", help="such as configs/experiments/table3.json")
    start.add_argument("--output", type=Path, required=True, metavar="RUNS", help="a folder a cell is made in it")
    data = start.add_argument_group("data")
    data.add_argument("--dataset-dir", type=Path, required=True, metavar="DIR", help="the patients")
    data.add_argument(
        "--datalist", type=Path, metavar="D.json", help="their split (default: RUNS/datalist.json, made when missing)"
    )
    data.add_argument(
        "--split-dir", type=Path, metavar="DIR", help="train.txt, val.txt, test.txt to make the datalist with"
    )
    data.add_argument(
        "--presence-dir", type=Path, metavar="DIR", help="published tables of who lacks what, in place of drawn ones"
    )
    data.add_argument("--split", choices=["validation", "test"], default="validation", help="that is scored")
    data.add_argument("--data", metavar="NAME", help="what the patients are (default: found out)")
    how = start.add_argument_group("how")
    how.add_argument("--engine", choices=["local", "ray"], default="local")
    how.add_argument("--jobs", type=int, metavar="N", help="cells at a time (default: 1; ray: what the cluster holds)")
    how.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of a cell (default: 1)")
    how.add_argument("--gpus", type=float, default=0.0, metavar="X", help="GPUs of a cell, for ray: 0.25 puts 4 on one")
    how.add_argument("--device", metavar="DEV", help="cpu, cuda:0 (default: a GPU where there is one)")
    how.add_argument("--only", action="append", default=[], metavar="TEXT", help="cells with TEXT in their name")
    how.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another override, as --set epochs=2"
    )
    how.add_argument("--configs", type=Path, metavar="DIR", help="fragments (default: the folder above the grid's)")
    how.add_argument("--bundles", type=Path, metavar="DIR", help="bundles (default: beside the fragments)")
    how.add_argument("--dry-run", action="store_true", help="print the cells and stop")
    status = commands.add_parser("status", help="how far each cell is", allow_abbrev=False)
    status.add_argument("runs", type=Path, metavar="RUNS", help="the --output of a run")


def run(args: argparse.Namespace) -> int:
    return _status(args.runs) if args.action == "status" else _run(args)


def _run(args: argparse.Namespace) -> int:
    from monai_passion.data.datalists import load_datalist, make_datalist, write_datalist
    from monai_passion.experiments.engines import LocalEngine, RayEngine
    from monai_passion.experiments.folders import Source, describe_data, prepare
    from monai_passion.experiments.grid import expand, load_grid
    from monai_passion.experiments.runner import run_cells

    grid = load_grid(args.grid)
    last = dict(map(_override, args.set))
    cells = [
        cell._replace(overrides={**cell.overrides, **last})
        for cell in expand(grid, str(args.grid))
        if all(text in cell.name for text in args.only)
    ]
    if not cells:
        raise UsageError(f"no cell of {args.grid} has {' and '.join(args.only)} in its name; see --dry-run")
    if args.dry_run:
        print("\n".join(f"{cell.name:<50} {cell.label}, seed {cell.seed}" for cell in cells))
        return 0
    if (args.jobs is not None and args.jobs < 1) or args.threads < 1:
        raise UsageError("--jobs and --threads must be 1 or more")
    if args.gpus and args.engine == "local":
        raise UsageError("--gpus shares cards among the cells of --engine ray; choose a card with --device cuda:0")
    datalist = args.datalist or args.output / "datalist.json"
    is_new = args.datalist is None and not datalist.is_file()
    split = make_datalist(args.dataset_dir, split_dir=args.split_dir) if is_new else load_datalist(datalist)
    if not split[args.split]:
        source = args.split_dir or args.dataset_dir if is_new else datalist
        raise InputError(f"{source} has no {args.split} patients to score; choose another --split, or other lists")
    if is_new:
        write_datalist(datalist, split)
    data = args.data or describe_data(args.dataset_dir, split)
    configs = args.configs or args.grid.absolute().parent.parent
    source = Source(
        configs,
        args.bundles or configs.parent / "bundles",
        args.dataset_dir,
        datalist,
        args.presence_dir,
        args.split,
        data,
        args.device,
    )
    folders = prepare(cells, args.output, source, grid.get("table"))
    if args.engine == "ray":
        engine: Any = RayEngine(args.jobs, args.threads, args.gpus)
    else:
        engine = LocalEngine(args.jobs or 1, args.threads)
    failed = run_cells(folders, engine, lambda line: print(line, flush=True))
    if failed:
        names = ", ".join(folder.name for folder in failed)
        raise PassionError(f"{len(failed)} of {len(folders)} cells failed ({names}); the last line of each is above")
    print(f"all done; next: monai-passion report {args.output} --output REPORT")
    return 0


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--set {text}: give KEY=VALUE, such as epochs=2")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _status(runs: Path) -> int:
    from rich.console import Console
    from rich.table import Table

    from monai_passion.experiments.folders import read_state

    cells = sorted(path.parent for path in runs.glob("*/cell.json"))
    if not cells:
        raise InputError(f"{runs} holds no cells; give the --output of `monai-passion experiments run`")
    states = {folder: read_state(folder) for folder in cells}
    count = {name: sum(s.state == name for s in states.values()) for name in ("done", "running", "stopped", "waiting")}
    table = Table(
        "cell", "state", "epoch", "Dice", "minutes", "note", title=", ".join(f"{n} {k}" for k, n in count.items())
    )
    for folder, s in states.items():
        minutes = "" if s.seconds is None else f"{s.seconds / 60:.1f}"
        table.add_row(folder.name, s.state, f"{s.epoch}/{s.epochs}", _dice(folder), minutes, s.note)
    Console().print(table)
    return 0


def _dice(folder: Path) -> str:
    """Mean Dice of the scores, else of the last validation of the training, in percent."""
    from monai_passion.errors import PassionError
    from monai_passion.evaluation.summary import read_metrics

    curves = folder / "train" / "curves.csv"
    try:
        rows = read_metrics(folder / "metrics.csv")
        return f"{100 * rows[rows['convention'] == 'challenge']['dice'].mean():.1f}"
    except PassionError:
        lines = curves.read_text().splitlines() if curves.is_file() else []
        scores = [line.rpartition(",")[2] for line in lines if line.split(",")[1:2] == ["mean_dice"]]
        return f"({100 * float(scores[-1]):.1f})" if scores else ""
