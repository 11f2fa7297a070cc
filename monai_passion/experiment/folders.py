"""The folder of a cell: its specification, what to run, its state, and the mark that it is done.

===================  ==================================================================================================
cell.json            the specification with its hash, and what a report says of the run
train_args.json      the training, for ``python -m monai.bundle run --args_file``
evaluate_args.json   the evaluation, likewise
train/               checkpoints and curves of the training
log.txt              what both printed, attempt after attempt
metrics.csv ...      the scores, with run.json and curves.csv: the folder is what ``monai-passion report`` reads
done.json            the hash of the specification that was run to its end, written last
===================  ==================================================================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai_passion.bundle.settings import as_text, check_settings, read_config
from monai_passion.errors import InputError, PassionError, UsageError
from monai_passion.experiment.grid import TRAINING_ONLY, Cell
from monai_passion.system.files import read_json, sha256, write_text
from monai_passion.system.locks import RunLock

__all__ = ["Source", "State", "cell_facts", "finished_cells", "is_done", "prepare", "read_state"]

AGAIN = "remove the cell's folder and run the grid again"


class Source(NamedTuple):
    """Where the bundles and the data are. Folders may move between two calls; only the content of files counts.

    Attributes:
        configs, bundles: the project's folders.
        dataset_dir: of the patients.
        datalist: their split, the same for all cells.
        presence_dir: published presence tables; without it they are drawn from the missing rates.
        split: the patients that are scored.
        data: name of the data set, see `monai_passion.data.datalists.describe_data`.
        device: ``cpu``, ``cuda:0``; by default the bundle's choice.
    """

    configs: Path
    bundles: Path
    dataset_dir: Path
    datalist: Path
    presence_dir: Path | None = None
    split: str = "validation"
    data: str = "other"
    device: str | None = None


class State(NamedTuple):
    """The state of a cell: ``state`` is done, running, stopped or waiting; ``epoch`` is the last saved one."""

    state: str
    epoch: int
    epochs: int
    seconds: float | None
    note: str

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 ... 1; the evaluation counts as one epoch."""
        return 1.0 if self.state == "done" else min(self.epoch / (self.epochs + 1), 1.0)


def prepare(cells: Sequence[Cell], runs: Path, source: Source, table: str | None = None) -> list[Path]:
    """Make the folder of every cell, ready to run; return them in the order of the cells.

    Raises:
        InputError: a configuration, a datalist or a presence table that does not exist.
        UsageError: a folder was made for another specification; nothing is written then.
    """
    files = [_files(cell, runs / cell.name, source, table) for cell in cells]
    for cell, content in zip(cells, files, strict=True):
        _check_same(runs / cell.name, content["cell.json"])
    for cell, content in zip(cells, files, strict=True):
        for name, document in content.items():
            write_text(runs / cell.name / name, json.dumps(document, indent=2) + "\n")
    return [runs / cell.name for cell in cells]


def _files(cell: Cell, folder: Path, source: Source, table: str | None) -> dict[str, dict[str, Any]]:
    own = source.bundles / cell.bundle / "configs"
    fragments = [source.configs / f"{name}.json" for name in cell.configs]
    train = [own / "train.json", *fragments]
    check_settings(cell.overrides, read_config(train))
    used = {path: read_json(path, "correct it") for path in dict.fromkeys([*train, own / "evaluate.json"])}
    scoring = [
        path
        for name, path in zip(cell.configs, fragments, strict=True)
        if not name.startswith(TRAINING_ONLY) and not any(key.startswith("train#") for key in used[path])
    ]
    evaluate = [own / "evaluate.json", *scoring]
    presence = source.presence_dir / cell.presence if source.presence_dir and cell.presence else None
    tables = {"datalist": source.datalist, **({"presence": presence} if presence else {})}
    specification = {
        "bundle": cell.bundle,
        "configs": list(cell.configs),
        "overrides": cell.overrides,
        "seed": cell.seed,
        "split": source.split,
        "contents": {f"{path.parent.name}/{path.name}": _hash(content) for path, content in used.items()}
        | {name: _file_hash(path) for name, path in tables.items()},
    }
    knobs = {
        "dataset_dir": as_text(str(source.dataset_dir.absolute())),
        "seed": cell.seed,
        "ckpt_dir": as_text(str((folder / "train").absolute())),
    }
    if source.device:
        knobs["device"] = source.device
    scored = {key for path in evaluate for key in used[path]}
    return {
        "cell.json": {
            "hash": _hash(specification),
            "position": cell.position,
            "label": cell.label,
            "row": cell.row,
            "table": table,
            "data": source.data,
            "epochs": cell.overrides.get(
                "epochs", next((used[p]["epochs"] for p in train[::-1] if "epochs" in used[p]), 0)
            ),
            "specification": specification,
        },
        "train_args.json": {
            "run_id": "training",
            "config_file": [str(path.absolute()) for path in train],
            **cell.overrides,
            **knobs,
            **{name: as_text(str(path.absolute())) for name, path in tables.items()},
        },
        "evaluate_args.json": {
            "run_id": "evaluating",
            "config_file": [str(path.absolute()) for path in evaluate],
            **{key: value for key, value in cell.overrides.items() if key.split("#")[0] in scored},
            **knobs,
            "output_dir": as_text(str(folder.absolute())),
            "label": as_text(cell.label),
            "split": source.split,
        },
    }


def _file_hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); the grid needs it") from error


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_same(folder: Path, cell: Mapping[str, Any]) -> None:
    if not (folder / "cell.json").is_file():
        return
    before = read_json(folder / "cell.json", AGAIN)
    if before.get("hash") == cell["hash"] and before.get("data") == cell["data"]:
        return
    old, new = ({**_flat(one.get("specification", {})), "data": one.get("data")} for one in (before, cell))
    what = "; ".join(
        f"{key} {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)
    )
    raise UsageError(f"{folder} was made for another run ({what}); give another --output or remove that folder")


def _flat(specification: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in specification.items():
        if key == "contents":
            flat |= {name: digest[:8] for name, digest in value.items()}
        elif isinstance(value, dict):
            flat |= value
        else:
            flat[key] = value
    return flat


def is_done(folder: Path) -> bool:
    """Whether the specification in ``cell.json`` was run to its end."""
    try:
        done, cell = read_json(folder / "done.json", AGAIN), read_json(folder / "cell.json", AGAIN)
    except PassionError:
        return False
    return done.get("hash") == cell["hash"] and (folder / "metrics.csv").is_file()


def cell_facts(folder: Path) -> dict[str, Any]:
    """The facts about a cell for a report, as keys of ``run.json``; empty if the folder is not a cell."""
    if not (folder / "cell.json").is_file():
        return {}
    cell = read_json(folder / "cell.json", AGAIN)
    facts = {key: cell[key] for key in ("label", "row", "table", "data")}
    return {**facts, "seed": cell["specification"]["seed"]}


def finished_cells(runs: Path) -> tuple[list[Path], int]:
    """The folders of the finished cells in ``runs``, in the order of their grid, and the number of the others."""
    cells = {path.parent: read_json(path, AGAIN) for path in runs.glob("*/cell.json")}
    order = sorted(cells, key=lambda folder: (cells[folder].get("position", 0), folder.name))
    done = [folder for folder in order if is_done(folder)]
    return done, len(order) - len(done)


def read_state(folder: Path) -> State:
    """The state of the cell in a folder.

    Raises:
        InputError: there is no cell.
    """
    cell = read_json(folder / "cell.json", AGAIN)
    saved = [int(path.stem.partition("=")[2]) for path in (folder / "train").glob("checkpoint_epoch=*.pt")]
    epoch, epochs = max(saved, default=0), int(cell["epochs"])
    if is_done(folder):
        return State("done", epochs, epochs, read_json(folder / "done.json", AGAIN).get("seconds"), "")
    owner = RunLock(folder).owner()
    if owner:
        return State("running", epoch, epochs, None, owner)
    log = folder / "log.txt"
    if not log.is_file():
        return State("waiting", epoch, epochs, None, "")
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return State("stopped", epoch, epochs, None, lines[-1] if lines else "")
