"""Read the folders of finished runs for a report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from monai_passion.errors import InputError, UsageError, first_line
from monai_passion.evaluation.summary import read_metrics
from monai_passion.experiment.folders import cell_facts, finished_cells
from monai_passion.handlers.curves import COLUMNS
from monai_passion.modalities import combinations, parse_combination, resolve
from monai_passion.reporting.examples import Example, read_example
from monai_passion.system.files import read_json
from monai_passion.system.schemas import check_schema
from monai_passion.tasks import load_task, task_names

__all__ = ["Place", "Results", "load_runs", "run_facts", "run_folders"]

logger = logging.getLogger(__name__)

SEEDS_APART = 0.1
"""By which missing rates of one method may differ: those that chance leaves of the patients drawn."""


class Place(NamedTuple):
    """The place of a method in a table of the paper: the labels of its row."""

    setting: str = ""
    backbone: str = ""
    method: str = ""


class Results(NamedTuple):
    """All runs together.

    Attributes:
        rows: `monai_passion.evaluation.metrics.COLUMNS`, ``method``, ``run`` and ``seed`` (from ``run.json``, else the
            least number that no run of its method has); combinations in printed order.
        curves: `monai_passion.handlers.curves.COLUMNS`, ``method`` and ``run``; no rows where no run has curves.
        modalities: name -> title, in printed order, as the task has them.
        classes: title -> color of the classes 1, 2, ..., as the task has them; may be empty.
        combinations: those that occur, in printed order, as they stand in ``rows``.
        regions: in the order of the first run.
        methods: in the order of the runs.
        patients: how many.
        data: name of the data set in ``run.json``, see `monai_passion.data.datalists.describe_data`; may be empty.
        table: number of the paper's table that the runs belong to; may be empty.
        places: method -> its row there.
        examples: method -> a segmented slice, of its first run that kept one.
        alike: whether all methods were scored on the same cases and combinations.
    """

    rows: pd.DataFrame
    curves: pd.DataFrame
    modalities: dict[str, str]
    classes: dict[str, str]
    combinations: tuple[str, ...]
    regions: tuple[str, ...]
    methods: tuple[str, ...]
    patients: int
    data: str
    table: str
    places: dict[str, Place]
    examples: dict[str, Example]
    alike: bool


def run_folders(folders: Sequence[Path]) -> list[Path]:
    """The folders of runs; a folder of experiments is replaced by its finished cells, in the order of their grid.

    Raises:
        InputError: none of its cells is done.
    """
    runs: list[Path] = []
    for folder in folders:
        done, waiting = finished_cells(folder)
        if not done and waiting:
            raise InputError(f"none of the {waiting} cells in {folder} is done; see: experiments status {folder}")
        if waiting:
            logger.warning(f"{folder}: {waiting} of {len(done) + waiting} cells are not done and left out")
        runs += done or [folder]
    return runs


def load_runs(folders: Sequence[Path]) -> Results:
    """Read ``metrics.csv`` and, where they are, ``curves.csv``, ``example.npz`` and ``run.json`` of every folder.

    Runs with the same ``label`` in their ``run.json`` are seeds of one method and differ only by chance. By default the
    label is the folder's name.

    Raises:
        InputError: a missing or unreadable file, or runs that were not scored on the same regions, data or split.
        UsageError: two runs without a label whose folders have the same name, one folder twice, or two trainings of one
            label that are of another network, settings or missing rates.
    """
    seen: dict[Path | str, Path] = {}
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"no folder {folder}; give the folder of a run, which holds its metrics.csv")
        run = _read_run(folder)
        key = folder.resolve() if run.facts["label"] else run.method
        if key in seen:
            raise UsageError(
                f"{seen[key]} and {folder} have the same name; give each folder once, or a label in its run.json"
            )
        seen[key] = folder
        runs.append(run)
    _check_comparable(runs)
    _check_seeds(runs)
    if unknown := [run for run in runs if run.facts["seed"] is None and sum(run.method == o.method for o in runs) > 1]:
        logger.warning(
            f"{unknown[0].folder} does not say the seed of its training; seeds without a number are compared in the "
            'order in which their folders are given (or put "seed" into each run.json)'
        )
    seeds = _numbered([(run.method, run.facts["seed"]) for run in runs])
    owners = [{"method": run.method, "run": number} for number, run in enumerate(runs)]
    rows = pd.concat(
        [run.rows.assign(**own, seed=seed) for run, own, seed in zip(runs, owners, seeds, strict=True)],
        ignore_index=True,
    )
    curves = [run.curves.assign(**own) for run, own in zip(runs, owners, strict=True) if run.curves is not None]
    found = rows["combination"].unique()
    modalities = _modalities(found, _first(runs, "titles"), folders)
    spelled = {text: "+".join(parse_combination(text, tuple(modalities))) for text in found}
    rows["combination"] = rows["combination"].map(spelled)
    order = ["+".join(names) for names in combinations(tuple(modalities))]
    tables = {run.facts["table"] for run in runs}
    examples: dict[str, Example] = {}
    for run in runs:
        if run.example is not None:
            examples.setdefault(run.method, run.example)
    return Results(
        rows,
        pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=[*COLUMNS, "method", "run"]),
        modalities,
        _first(runs, "classes"),
        tuple(name for name in order if name in set(spelled.values())),
        runs[0].regions,
        tuple(dict.fromkeys(rows["method"])),
        rows["patient"].nunique(),
        runs[0].facts["data"],
        tables.pop() if len(tables) == 1 else "",
        {
            run.method: Place(**{key: run.facts["row"].get(key, "") for key in Place._fields})
            for run in runs
            if run.facts["table"]
        },
        examples,
        _alike(rows),
    )


class _Run(NamedTuple):
    """What one folder holds."""

    folder: Path
    facts: dict[str, Any]
    """See `_facts`."""
    rows: pd.DataFrame
    curves: pd.DataFrame | None
    example: Example | None

    @property
    def method(self) -> str:
        return self.facts["label"] or self.folder.resolve().name

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.rows["region"]))


def _read_run(folder: Path) -> _Run:
    facts, rows = _facts(folder), read_metrics(folder / "metrics.csv")
    curves, example = folder / "curves.csv", folder / "example.npz"
    return _Run(
        folder,
        facts,
        rows,
        _curves(curves) if curves.exists() else None,
        read_example(example) if example.exists() else None,
    )


def _check_comparable(runs: Sequence[_Run]) -> None:
    """Refuse runs of different regions, data or splits; a run of an unknown split goes with every one."""
    first = runs[0]
    for run in runs:
        if set(run.regions) != set(first.regions):
            raise InputError(
                f"{run.folder} was scored on {', '.join(run.regions)}, {first.folder} on {', '.join(first.regions)}; "
                "report them separately"
            )
    data = {run.folder: run.facts["data"] or "unknown data" for run in runs}
    splits = {run.folder: f"the {run.facts['split']} split" for run in runs if run.facts["split"]}
    for scored in (data, splits):
        for folder, what in scored.items():
            start, expected = next(iter(scored.items()))
            if what != expected:
                raise InputError(f"{start} was scored on {expected}, {folder} on {what}; report them separately")


def _check_seeds(runs: Sequence[_Run]) -> None:
    """Refuse to take trainings of other networks or settings for seeds of one method; doubt those of other rates."""
    first: dict[str, _Run] = {}
    seeds = set[tuple[str, int | None]]()
    for run in runs:
        other = first.setdefault(run.method, run)
        both = f"{other.folder} and {run.folder} are both '{run.method}'"
        remedy = 'give each its own --label of evaluate, or "label" in its run.json'
        if run is not other and run.facts["seed"] is not None and (run.method, run.facts["seed"]) in seeds:
            raise UsageError(f"{both}, with seed {run.facts['seed']}; give each training once, or {remedy}")
        seeds.add((run.method, run.facts["seed"]))
        for what in ("network", "settings"):
            mine, others = run.facts[what], other.facts[what]
            if mine and others and (apart := _apart(mine, others)):
                raise UsageError(f"{both}, but their {what} differ ({apart}); {remedy}")
        mine, others = run.facts["missing_rates"], other.facts["missing_rates"]
        if any(abs(rate - others.get(m, rate)) > SEEDS_APART for m, rate in mine.items()):
            apart = _apart(mine, others)
            logger.warning(f"{both}, but of other missing rates ({apart}); unless chance made them, {remedy}")


def _apart(mine: Any, others: Any) -> str:
    """Where two facts differ, in words; "" where they do not."""
    if not isinstance(mine, dict) or not isinstance(others, dict):
        return f"{others} and {mine}" if mine != others else ""
    return ", ".join(
        f"{k}: {others.get(k)} and {mine.get(k)}" for k in {**others, **mine} if others.get(k) != mine.get(k)
    )


def _first(runs: Sequence[_Run], fact: str) -> dict[str, str]:
    """The value of the first run that has it; empty if none has."""
    return next((run.facts[fact] for run in runs if run.facts[fact]), {})


def _alike(rows: pd.DataFrame) -> bool:
    scored = rows.assign(what=rows["case"] + "\0" + rows["combination"]).groupby(["convention", "method"])["what"]
    return all(sets.nunique() == 1 for _, sets in scored.agg(frozenset).groupby(level="convention"))


def run_facts(folder: Path) -> dict[str, Any]:
    """The content of ``run.json``; for a cell, facts of the grid take precedence: an evaluation by hand has fewer.

    Raises:
        InputError: not a JSON object, or it does not fit the schema.
    """
    path = folder / "run.json"
    if not path.exists():
        return {}
    given = read_json(path, "score the run again")
    check_schema(given, "run", path)
    return {**given, **cell_facts(folder)}


def _facts(folder: Path) -> dict[str, Any]:
    """What `load_runs` wants to know of `run_facts`, empty where that does not say it."""
    facts: dict[str, Any] = {
        **dict.fromkeys(("label", "data", "split", "table", "network"), ""),
        **{"row": {}, "titles": {}, "classes": {}, "settings": {}, "missing_rates": {}, "seed": None},
    }
    given = run_facts(folder)
    facts |= {key: given[key] for key in facts if given.get(key) is not None}
    return {key: value.strip() if isinstance(value, str) else value for key, value in facts.items()}


def _numbered(seeds: Sequence[tuple[str, int | None]]) -> list[int]:
    """The seed of each run, given those of some and the methods of all."""
    taken = set(seeds)
    numbered = []
    for method, seed in seeds:
        number = seed if seed is not None else next(n for n in count() if (method, n) not in taken)
        taken.add((method, number))
        numbered.append(number)
    return numbered


def _curves(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(
            path, dtype={"name": str, "modality": str}, keep_default_na=False, na_values={"value": ["", "nan"]}
        )
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}; delete or rewrite it") from None
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise InputError(f"{path} lacks the column(s) {', '.join(missing)}; it must have {', '.join(COLUMNS)}")
    for name in ("epoch", "value"):
        if len(table) and not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(f"{path}: column {name} has text among its numbers; delete or rewrite it")
    return table[list(COLUMNS)]


def _modalities(found: Sequence[str], titles: Mapping[str, str], folders: Sequence[Path]) -> dict[str, str]:
    """Name -> title in printed order: as ``run.json`` says, else of the task of this package that has them all."""
    names = list(dict.fromkeys(part.strip() for text in found for part in text.split("+")))
    if "" in names:
        raise InputError(f"{folders[0] / 'metrics.csv'}: an empty modality; write combinations as t1+flair")
    tasks = [load_task(name) for name in task_names()]
    for order in (titles, *({m: task.titles[m] for m in task.printed} for task in tasks)):
        try:
            used = {resolve(name, tuple(order)) for name in names}
        except UsageError:
            continue
        return {name: title for name, title in order.items() if name in used}
    return {name: name for name in names}
