"""``monai-passion experiments``: run a grid of trainings, and say how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from monai_passion.errors import InputError, PassionError, UsageError
from monai_passion.system.files import PathLike

__all__ = ["run", "status"]

OF_A_CELL = {
    "seed": "the grid has the seeds, and --only chooses among them",
    "dataset_dir": "give --data",
    "datalist": "give --datalist or --split-dir",
    "presence": "the grid names the tables, and --presence-dir says where they are",
    "ckpt_dir": "give --output",
    "device": "give --device",
}
"""Settings that are each cell's own, and what sets them."""


def run(
    grid: PathLike,
    *,
    output: PathLike,
    data: PathLike,
    datalist: PathLike | None = None,
    split_dir: PathLike | None = None,
    presence_dir: PathLike | None = None,
    split: Literal["validation", "test"] = "validation",
    data_name: str | None = None,
    engine: Literal["local", "ray"] = "local",
    jobs: int | None = None,
    threads: int = 1,
    gpus: float = 0.0,
    device: str | None = None,
    only: Sequence[str] = (),
    set: Mapping[str, str] | None = None,
    configs: PathLike | None = None,
    bundles: PathLike | None = None,
    dry_run: bool = False,
    measure: bool = False,
) -> list[Path]:
    """Run the cells of a grid of trainings that are not done yet.

    Example:
        monai-passion experiments run configs/experiments/table3.json --output RUNS --data PATIENTS

    Args:
        grid: a file such as configs/experiments/table3.json, or the name of one of these, such as table3.
        output: a folder, in which each cell gets its own.
        data: folder of the patients.
        datalist: their split (default: datalist.json in the output, made when missing).
        split_dir: folder with train.txt, val.txt and test.txt to make the datalist with.
        presence_dir: folder of published presence tables, in place of drawn ones.
        split: the patients that are scored.
        data_name: the name of the data set in reports (default: found out).
        engine: where the cells run.
        jobs: cells at a time (default: 1; ray: what the cluster holds).
        threads: CPU threads of a cell.
        gpus: GPUs of a cell, for ray: 0.25 puts 4 on one.
        device: cpu, cuda:0 (default: a GPU where there is one).
        only: run the cells that have this text, or all of these texts, in their name.
        set: further settings of every cell, such as epochs=2; they take precedence over the grid's.
        configs: folder of the fragments (default: the one above the grid's).
        bundles: folder of the bundles (default: beside the fragments).
        dry_run: print the cells and how many steps each takes, and stop.
        measure: with ``dry_run``, run a step of every network and method here, and print how many hours that makes.

    Returns:
        The folders of the cells.

    Raises:
        UsageError: no such cell, or settings that do not go together.
        InputError: no patients to score.
        PassionError: cells failed, with the exit code of the first; the message names them.
    """
    from monai_passion.bundle.settings import read_value
    from monai_passion.data.datalists import describe_data, write_datalist
    from monai_passion.experiment.cost import cost_lines
    from monai_passion.experiment.folders import Source, prepare
    from monai_passion.experiment.grid import expand, find_grid, load_grid
    from monai_passion.experiment.runner import run_cells
    from monai_passion.system.engines import LocalEngine, RayEngine
    from monai_passion.system.output import check_folder

    grid, output, data = find_grid(grid), Path(output), Path(data)
    content = load_grid(grid)
    last = {key: read_value(value) for key, value in (set or {}).items()}
    if own := [key for key in last if key in OF_A_CELL]:
        raise UsageError(f"--set {own[0]}: {OF_A_CELL[own[0]]}")
    cells = [
        cell._replace(overrides={**cell.overrides, **last})
        for cell in expand(content, str(grid))
        if all(text in cell.name for text in only)
    ]
    if not cells:
        raise UsageError(f"no cell of {grid} has {' and '.join(only)} in its name; see --dry-run")
    fragments = grid.absolute().parent.parent if configs is None else Path(configs)
    shipped = fragments.parent / "bundles" if bundles is None else Path(bundles)
    if datalist is not None and split_dir is not None:
        raise UsageError("--datalist and --split-dir both say who is in which split; give one")
    lists = output / "datalist.json" if datalist is None else Path(datalist)
    is_new = datalist is None and not lists.is_file()
    if dry_run:
        try:
            training = _split_patients(data, None if is_new else lists, split_dir)["training"]
        except PassionError:  # the cells can be listed without data
            training = None
        print("\n".join(cost_lines(cells, fragments, shipped, training, data, threads, measure)))
        return []
    if (jobs is not None and jobs < 1) or threads < 1:
        raise UsageError("--jobs and --threads must be 1 or more")
    if gpus and engine == "local":
        raise UsageError("--gpus shares cards among the cells of --engine ray; choose a card with --device cuda:0")
    check_folder(output)
    patients = _split_patients(data, None if is_new else lists, split_dir)
    if not patients[split]:
        source = (split_dir or data) if is_new else lists
        raise InputError(f"{source} has no {split} patients to score; choose another --split, or other lists")
    if is_new:
        write_datalist(lists, patients)
    folders = prepare(
        cells,
        output,
        Source(
            fragments,
            shipped,
            data,
            lists,
            None if presence_dir is None else Path(presence_dir),
            split,
            data_name or describe_data(data, patients),
            device,
        ),
        content.get("table"),
    )
    runner: Any = RayEngine(jobs, threads, gpus) if engine == "ray" else LocalEngine(jobs or 1, threads)
    failed = run_cells(folders, runner, lambda line: print(line, flush=True))
    if failed:
        names = ", ".join(folder.name for folder in failed)
        error = PassionError(f"{len(failed)} of {len(folders)} cells failed ({names}); the last line of each is above")
        error.exit_code = max(next(iter(failed.values())), 1)  # below 0: ended by a signal
        raise error
    print(f"all done; next: monai-passion report {output} --output REPORT")
    return folders


def _split_patients(data: Path, lists: Path | None, split_dir: PathLike | None) -> Any:
    """The datalist in ``lists``, which a split folder must agree with; a new one where there is no file yet."""
    from monai_passion.data.datalists import load_datalist, make_datalist

    if lists is None:
        return make_datalist(data, split_dir=split_dir)
    known = load_datalist(lists)
    if split_dir is not None and make_datalist(data, split_dir=split_dir) != known:
        raise UsageError(f"{lists} has other splits than {split_dir}; give another --output, or no --split-dir")
    return known


def status(runs: PathLike) -> None:
    """Say how far each cell is.

    Example:
        monai-passion experiments status RUNS

    Args:
        runs: the output of ``experiments run``.

    Raises:
        InputError: there are no cells in it.
    """
    from rich.console import Console
    from rich.table import Table

    from monai_passion.experiment.folders import read_state

    cells = sorted(path.parent for path in Path(runs).glob("*/cell.json"))
    if not cells:
        raise InputError(f"{runs} holds no cells; give the --output of `monai-passion experiments run`")
    states = {folder: read_state(folder) for folder in cells}
    count = {name: sum(s.state == name for s in states.values()) for name in ("done", "running", "stopped", "waiting")}
    table = Table(
        "cell", "state", "epoch", "Dice", "minutes", "note", title=", ".join(f"{n} {k}" for k, n in count.items())
    )
    for folder, s in states.items():
        minutes = "" if s.seconds is None else f"{s.seconds / 60:.1f}"
        table.add_row(folder.name, s.state, f"{s.epoch}/{s.epochs}", _mean_dice(folder), minutes, s.note)
    Console().print(table)


def _mean_dice(folder: Path) -> str:
    """In percent: of the scores, else, in parentheses, of the last validation of the training."""
    from monai_passion.evaluation.metrics import CHALLENGE
    from monai_passion.evaluation.summary import read_metrics

    curves = folder / "train" / "curves.csv"
    try:
        rows = read_metrics(folder / "metrics.csv")
        return f"{100 * rows[rows['convention'] == CHALLENGE.name]['dice'].mean():.1f}"
    except PassionError:
        text = curves.read_text(encoding="utf-8") if curves.is_file() else ""
        lines = text.split("\n")[:-1]  # without one that is half written
        scores = [line.split(",")[-1] for line in lines if line.split(",")[1:2] == ["mean_dice"]]
        return f"({100 * float(scores[-1]):.1f})" if scores else ""
