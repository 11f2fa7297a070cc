"""What a report is made from: the folders of finished runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from monai_passion.errors import InputError, UsageError
from monai_passion.evaluation.summary import read_metrics
from monai_passion.grids.folders import cell_facts, finished_cells
from monai_passion.modalities import combinations, parse_combination, resolve
from monai_passion.reporting.examples import Example, read_example
from monai_passion.system.schemas import check_schema
from monai_passion.tasks import load_task, task_names

__all__ = ["CURVE_COLUMNS", "Place", "Results", "load_runs", "run_facts", "run_folders"]

logger = logging.getLogger(__name__)

CURVE_COLUMNS = ("epoch", "name", "modality", "value")


class Place(NamedTuple):
    """Where a method stands in a table of the paper: the labels of its row."""

    setting: str = ""
    backbone: str = ""
    method: str = ""


class Results(NamedTuple):
    """All runs together.

    Attributes:
        rows: `monai_passion.evaluation.metrics.COLUMNS`, ``method``, ``run`` and ``seed`` (of ``run.json``, else the
            least number that no run of its method has); combinations in printed order.
        curves: `CURVE_COLUMNS`, ``method`` and ``run``; no rows where no run has curves.
        modalities: name -> title, in printed order, as the task has them.
        classes: title -> color of the classes 1, 2, ..., as the task has them; may be empty.
        combinations: those that occur, in printed order, as they stand in ``rows``.
        regions: in the order of the first run.
        methods: in the order of the runs.
        patients: how many.
        data: what they are, as ``run.json`` says, see `monai_passion.data.datalists.describe_data`; may be empty.
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
    """In place of a folder of experiments those of its cells that are done, in the order of their grid.

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

    Runs with the same ``label`` in their ``run.json`` are seeds of one method. Without one, the folder's name is it.

    Raises:
        InputError: a missing or unreadable file, or runs that were not scored on the same regions, data or split.
        UsageError: two runs without a label whose folders have the same name, or one folder twice.
    """
    rows: list[pd.DataFrame] = []
    seeds: list[tuple[str, int | None]] = []
    curves: list[pd.DataFrame] = []
    seen: dict[Path | str, Path] = {}
    data: dict[str, Path] = {}
    splits: dict[str, Path] = {}
    titles: dict[str, str] = {}
    classes: dict[str, str] = {}
    tables: set[str] = set()
    places: dict[str, Place] = {}
    examples: dict[str, Example] = {}
    for number, folder in enumerate(folders):
        if not folder.is_dir():
            raise InputError(f"no folder {folder}; give the folder of a run, which holds its metrics.csv")
        facts = _facts(folder)
        label = facts["label"]
        key = folder.resolve() if label else folder.resolve().name
        if key in seen:
            raise UsageError(
                f"{seen[key]} and {folder} have the same name; give each folder once, or a label in its run.json"
            )
        seen[key] = folder
        own: dict[str, Any] = {"method": label or folder.resolve().name, "run": number}
        seeds.append((own["method"], facts["seed"]))
        rows.append(read_metrics(folder / "metrics.csv").assign(**own))
        data.setdefault(facts["data"], folder)
        if facts["split"]:
            splits.setdefault(f"the {facts['split']} split", folder)
        titles = titles or facts["titles"]
        classes = classes or facts["classes"]
        tables.add(facts["table"])
        if facts["table"]:
            places[own["method"]] = Place(**{key: facts["row"].get(key, "") for key in Place._fields})
        if (folder / "curves.csv").exists():
            curves.append(_curves(folder / "curves.csv").assign(**own))
        if (folder / "example.npz").exists():
            examples.setdefault(own["method"], read_example(folder / "example.npz"))
    rows = [table.assign(seed=seed) for table, seed in zip(rows, _numbered(seeds), strict=True)]
    regions = [tuple(dict.fromkeys(table["region"])) for table in rows]
    for folder, names in zip(folders, regions, strict=True):
        if set(names) != set(regions[0]):
            raise InputError(
                f"{folder} was scored on {', '.join(names)}, {folders[0]} on {', '.join(regions[0])}; report them apart"
            )
    for scored in (data, splits):
        if len(scored) > 1:
            (one, first), (other, second) = list(scored.items())[:2]
            unknown = "unknown data"
            raise InputError(
                f"{first} was scored on {one or unknown}, {second} on {other or unknown}; report them apart"
            )
    table = pd.concat(rows, ignore_index=True)
    modalities = _modalities(table["combination"].unique(), titles, folders)
    spelled = {text: "+".join(parse_combination(text, tuple(modalities))) for text in table["combination"].unique()}
    table["combination"] = table["combination"].map(spelled)
    order = ["+".join(names) for names in combinations(tuple(modalities))]
    return Results(
        table,
        pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=[*CURVE_COLUMNS, "method", "run"]),
        modalities,
        classes,
        tuple(name for name in order if name in set(spelled.values())),
        regions[0],
        tuple(dict.fromkeys(table["method"])),
        table["patient"].nunique(),
        next(iter(data)),
        tables.pop() if len(tables) == 1 else "",
        places,
        examples,
        _alike(table),
    )


def _alike(rows: pd.DataFrame) -> bool:
    scored = rows.assign(what=rows["case"] + "\0" + rows["combination"]).groupby(["convention", "method"])["what"]
    return all(sets.nunique() == 1 for _, sets in scored.agg(frozenset).groupby(level="convention"))


def run_facts(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says; of a cell what the grid says of it takes precedence, as an evaluation by hand knows less.

    Raises:
        InputError: not a JSON object, or not as the schema wants it.
    """
    path = folder / "run.json"
    if not path.exists():
        return {}
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; it must be a JSON object") from None
    check_schema(given, "run", path)
    return {**given, **cell_facts(folder)}


def _facts(folder: Path) -> dict[str, Any]:
    """What `load_runs` wants to know of `run_facts`, empty where that does not say it."""
    facts: dict[str, Any] = {
        **dict.fromkeys(("label", "data", "split", "table"), ""),
        **{"row": {}, "titles": {}, "classes": {}, "seed": None},
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
        raise InputError(f"cannot read {path}: {str(error).strip().splitlines()[0]}; delete or rewrite it") from None
    missing = [name for name in CURVE_COLUMNS if name not in table]
    if missing:
        raise InputError(f"{path} lacks the column(s) {', '.join(missing)}; it must have {', '.join(CURVE_COLUMNS)}")
    for name in ("epoch", "value"):
        if len(table) and not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(f"{path}: column {name} has text among its numbers; delete or rewrite it")
    return table[list(CURVE_COLUMNS)]


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
