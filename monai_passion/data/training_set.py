"""The datalist of a training: missing images are taken out, by a table or by drawn rates, and the result is stored."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_passion.data.datalists import Datalist, absolute, load_datalist, make_datalist, write_datalist
from monai_passion.data.labels import find_convention
from monai_passion.data.presence import Presence, draw_presence, named_rates, read_presence, write_presence
from monai_passion.data.slices import SLICE, slices_of
from monai_passion.data.splits import SPLITS
from monai_passion.errors import InputError, PassionError, UsageError
from monai_passion.tasks import TaskLike, load_task

__all__ = ["describe_training_set", "draw_for_items", "prepare_datalist"]

logger = logging.getLogger(__name__)


def prepare_datalist(
    dataset_dir: str | os.PathLike[str],
    datalist: str | os.PathLike[str] | None = None,
    presence: str | os.PathLike[str] | None = None,
    missing_rates: Sequence[float] | Mapping[str, Any] | None = None,
    seed: int = 0,
    ckpt_dir: str | os.PathLike[str] | None = None,
    task: TaskLike = "brats_mri",
    per: str = "patient",
    **options: Any,
) -> Datalist:
    """The datalist of a training: the split, with the paths of missing images removed from the training items.

    With ``dataset_dir`` alone the split is drawn from the seed; with ``missing_rates`` the presence matrix is, too.
    Validation and test items keep all that they have.

    Given ``ckpt_dir``, ``datalist.json`` and ``presence.csv`` (one row per training item) are written there, and a
    later call with the same arguments returns what is stored. An evaluation takes the split of a training by
    ``datalist=<ckpt_dir>/datalist.json``.

    Args:
        dataset_dir: the folder of the patients; it may move between calls.
        datalist: a JSON of `write_datalist` with paths relative to ``dataset_dir``; by default one is made.
        presence: a CSV for `read_presence` that names every training case, or every training patient, or every slice
            (``<case>_slice_<index>``) of the training cases, which then become the items.
        missing_rates: for `draw_presence`, in the order of the task's modalities or by their names; or group -> rates.
            At least one file of a patient stays. Not together with ``presence``; without either, nothing is removed.
        seed: of the split and of the presence matrix.
        ckpt_dir: where the training keeps its checkpoints.
        task: see `monai_passion.tasks.load_task`.
        per: draw for each "patient" or for each "case"; they differ for slices and cubes.
        options: passed to `make_datalist`: layout, fractions, split_dir, slices, full_only, labels, patient_pattern.
            ``labels`` also holds for a given ``datalist``, which else keeps the meaning that it records; if it records
            none, that is found out.

    Returns:
        The datalist with absolute paths. If images were removed, ``removed`` has case -> modalities taken out.

    Raises:
        InputError: unreadable files, patients whom the presence table does not name, or who are left with nothing.
        UsageError: wrong rates or arguments, or what is stored in ``ckpt_dir`` was made with others.
    """
    task = load_task(task)
    modalities = task.modality_names
    if per not in ("patient", "case"):
        raise UsageError(f"per is '{per}'; give 'patient' or 'case'")
    if presence is not None and missing_rates is not None:
        raise UsageError("presence and missing_rates are both given; give the table or the rates to draw one from")
    root = Path(dataset_dir).absolute()
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder of the patients as dataset_dir")
    if missing_rates is not None:
        missing_rates = named_rates(missing_rates, modalities)
    made_from = _made_from(datalist, presence, missing_rates, seed, task.name, per, options)
    stored = None if ckpt_dir is None else Path(ckpt_dir) / "datalist.json"
    if stored is not None and stored.is_file():
        return absolute(_stored(stored, made_from, root), root)

    used = (
        make_datalist(root, task=task, seed=seed, **options) if datalist is None else load_datalist(datalist, task=task)
    )
    used.pop("made_from", None)
    if "labels" not in used or (datalist is not None and options.get("labels")):
        items = [item for split in SPLITS for item in used[split]]
        files = (root / item["label"] for item in items if item.get("label"))
        convention = find_convention(task, [item["case"] for item in items], files, options.get("labels"))
        if convention.doubt:
            logger.warning(convention.doubt)
        used["labels"] = convention.to_json()
    if used["modalities"] != list(modalities):
        raise InputError(
            f"{datalist or root} is for {used['task']} {used['modalities']}, not for {task.name} {modalities}"
        )
    if presence is not None:
        table = read_presence(presence, modalities)
        if any(SLICE.search(case) for case in table.cases):
            used["training"] = slices_of(used["training"], root)
        _remove(used, table, str(presence))
    elif missing_rates is not None:
        table = draw_for_items(used["training"], missing_rates, seed, per, modalities)
        _remove(used, table)
    _check_files(used, root)
    if stored is not None:
        kept = np.array([[bool(item["image"][m]) for m in modalities] for item in used["training"]])
        cases = tuple(item["case"] for item in used["training"])
        write_presence(stored.with_name("presence.csv"), Presence(cases, modalities, kept))
        write_datalist(stored, {**used, "made_from": made_from})
    return absolute(used, root)


def _made_from(
    datalist: str | os.PathLike[str] | None,
    presence: str | os.PathLike[str] | None,
    missing_rates: Sequence[float] | Mapping[str, Any] | None,
    seed: int,
    task: str,
    per: str,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments as JSON gives them back, files by what is in them."""
    arguments = {
        "datalist": None if datalist is None else _content(Path(datalist)),
        "presence": None if presence is None else _content(Path(presence)),
        "missing_rates": missing_rates,
        "seed": seed,
        "task": task,
        "per": per,
        "options": {
            key: _list_content(Path(value)) if key == "split_dir" and value is not None else value
            for key, value in sorted(options.items())
        },
    }
    return json.loads(json.dumps(arguments))


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path") from error


def _list_content(folder: Path) -> str:
    return " ".join(f"{path.stem}:{_content(path)}" for path in sorted(folder.glob("*.txt")))


def _stored(path: Path, made_from: Mapping[str, Any], root: Path) -> Datalist:
    datalist = load_datalist(path)
    before = datalist.pop("made_from", None)
    if not isinstance(before, Mapping):
        raise InputError(f"{path} does not say what it was made from; remove it, or take another ckpt_dir")
    for name, value in made_from.items():
        stored = before.get(name)
        if name == "missing_rates" and stored is not None:
            stored = _by_name(stored, datalist["modalities"])
        if stored != value:
            is_file = name in ("datalist", "presence")
            how = f"another {name} file" if is_file else f"{name} = {stored}, not {value}"
            raise UsageError(f"{path} was made with {how}; give the same, take another ckpt_dir, or remove {path.name}")
    try:
        _check_files(datalist, root)
    except InputError as error:
        raise UsageError(f"{path} was made from other data ({error}); correct dataset_dir or take another") from error
    return datalist


def _check_files(datalist: Datalist, root: Path) -> None:
    for item in (item for split in SPLITS for item in datalist[split]):
        for path in (*item["image"].values(), item.get("label")):
            if path and not (root / path).is_file():
                raise InputError(f"{root / path} of {item['case']} does not exist; check dataset_dir")


def _by_name(rates: Any, modalities: Sequence[str]) -> Any:
    try:
        return named_rates(rates, modalities)
    except PassionError:  # of another task, which the comparison tells
        return rates


def draw_for_items(
    items: Sequence[Mapping[str, Any]], rates: Any, seed: int, per: str, modalities: Sequence[str]
) -> Presence:
    """The presence of each patient or case (``per``), drawn from the modalities that it has; see `draw_presence`."""
    groups = {item[per]: item["group"] for item in items}
    have = dict.fromkeys(groups, (False,) * len(modalities))
    for item in items:
        have[item[per]] = tuple(
            had or bool(item["image"][m]) for had, m in zip(have[item[per]], modalities, strict=True)
        )
    table = draw_presence(
        len(groups),
        rates,
        seed,
        groups=list(groups.values()),
        modalities=modalities,
        have=np.array(list(have.values()), dtype=bool).reshape(len(groups), len(modalities)),
    )
    return Presence(tuple(groups), tuple(modalities), table)


def _remove(datalist: Datalist, presence: Presence, table: str = "") -> None:
    """Null the paths of what is missing, of each training item by its case or else its patient, and note it.

    Where ``table`` names a file, it must fit: name every item and leave each something.
    """
    rows = dict(zip(presence.cases, presence.table.tolist(), strict=True))
    items, removed = datalist["training"], datalist.setdefault("removed", {})
    if unnamed := [item["case"] for item in items if item["case"] not in rows and item["patient"] not in rows]:
        raise InputError(
            f"{table} does not name {len(unnamed)} of {len(items)} training cases ({', '.join(unnamed[:3])}, ...); "
            f"add them to the table or take them out of the datalist"
        )
    for item in items:
        row = rows.get(item["case"], rows.get(item["patient"]))
        kept = {m for m, has in zip(presence.modalities, row or (), strict=True) if has}
        found = [m for m, path in item["image"].items() if path]
        if not kept & set(found):
            if table:
                raise InputError(
                    f"{table} leaves {item['case']} with nothing: of {', '.join(sorted(kept))} it has no file; "
                    f"give a presence table that leaves it one"
                )
            kept = set(found)  # a case that has none of the files that its patient keeps
        if gone := [m for m in found if m not in kept]:
            removed[item["case"]] = [*removed.get(item["case"], ()), *gone]
        item["image"] = {m: path if m in kept else None for m, path in item["image"].items()}


def describe_training_set(datalist: Mapping[str, Any]) -> str:
    """A table of the images found, taken out on purpose and used, per modality and per number of modalities of an item.

    Args:
        datalist: from `prepare_datalist`.
    """
    items, removed = datalist["training"], datalist.get("removed", {})
    modalities = datalist["modalities"]
    used = np.array([[bool(item["image"][m]) for m in modalities] for item in items], dtype=bool)
    gone = np.array([[m in removed.get(item["case"], ()) for m in modalities] for item in items], dtype=bool)
    lines = [f"{'images':<16}{'found':>8}{'taken out':>12}{'used':>8}"]
    for name, out, stay in zip((*modalities, "all"), (*gone.T, gone), (*used.T, used), strict=True):
        lines.append(f"{name:<16}{out.sum() + stay.sum():>8}{out.sum():>12}{stay.sum():>8}")
    lines.append(f"{'items that have':<16}{'found':>8}{'':>12}{'used':>8}")
    before, after = (used | gone).sum(axis=1), used.sum(axis=1)
    for number in range(1, len(modalities) + 1):
        name = f"{number} of {len(modalities)}"
        lines.append(f"{name:<16}{(before == number).sum():>8}{'':>12}{(after == number).sum():>8}")
    return "\n".join(lines)
