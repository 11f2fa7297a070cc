"""Datalists: a cohort's items by split, as JSON; absent modalities are null."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_passion.data.labels import find_convention, label_classes
from monai_passion.data.layouts import LAYOUTS, NUMBER, Case, cube_items, find_cohort, guess_task, not_used
from monai_passion.data.naming import read_name, stem_of
from monai_passion.data.nifti import read_header
from monai_passion.data.presence import plain_case_name
from monai_passion.data.slices import slices_of
from monai_passion.data.splits import (
    FRACTIONS,
    SPLITS,
    check_patients,
    doubtful_patients,
    listed_split,
    patient_of,
    random_split,
    read_lists,
)
from monai_passion.data.tables import read_table
from monai_passion.errors import InputError, UsageError
from monai_passion.system.files import read_json, write_text
from monai_passion.system.schemas import check_schema
from monai_passion.tasks import Task, TaskLike, load_task, task_names

__all__ = [
    "Datalist",
    "absolute",
    "describe_data",
    "is_of",
    "labeled_items",
    "load_datalist",
    "make_datalist",
    "write_datalist",
]

logger = logging.getLogger(__name__)

Datalist = dict[str, Any]
"""``{"task", "modalities", "labels", "training": [item, ...], "validation": [...], "test": [...]}``, as in its JSON.

An item has ``case``, ``patient``, ``group``, ``image`` (modality -> path or None) and, where there is one, ``label``;
``slice`` where it is one slice of its files, ``channels`` where its files are 4-D, as `LoadModalitiesd` takes them.
``labels`` says what the values in label files mean, see `labels.Convention`.
"""
UNKNOWN_GROUP = "unknown"


def make_datalist(
    folder: str | os.PathLike[str],
    layout: str = "auto",
    *,
    task: TaskLike | None = None,
    fractions: Sequence[float] = FRACTIONS,
    split_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    slices: bool = False,
    full_only: bool = True,
    labels: str | None = None,
    patient_pattern: str | None = None,
) -> Datalist:
    """The datalist of a folder; files that a case lacks are None. One line logs the files that are not used.

    ``group`` is the grade (HGG, LGG) where ``name_mapping.csv`` of BraTS, a folder HGG or LGG, or the names in
    ``split_dir`` tell it, else "unknown".

    Args:
        folder: in one of the ``LAYOUTS``.
        layout: its name, or "auto".
        task: see `monai_passion.tasks.load_task`; by default the one of this package whose modalities the names tell.
        fractions: shares of the patients for training, validation and test; the split is drawn from ``seed``.
        split_dir: a folder with train.txt, val.txt and test.txt, one patient or case per line, in place of fractions; a
            prefix ``HG_`` or ``LG_`` is removed. Patients that are not listed are left out.
        seed: of the split.
        slices: one item for each slice of the third axis, named ``<case>_slice_<index>``.
        full_only: of cubes, only those without zero-padding, which reveals where the tumor's box ends.
        labels: what the values in label files mean, see `labels.parse_convention`; by default it is found out.
        patient_pattern: regular expression for the patient in a case's name, see `splits.patient_of`.

    Returns:
        The datalist; its paths are relative to ``folder``.

    Raises:
        InputError: no patients there, two files for one modality, a list that names none of them, or labels whose
            meaning cannot be told.
        UsageError: an unknown layout, or invalid fractions.
    """
    folder = Path(folder)
    chosen_task = load_task(task) if task is not None else guess_task(folder)
    if chosen_task.name in task_names() and (other := guess_task(folder, chosen_task)).name != chosen_task.name:
        raise InputError(
            f"{folder} holds images of {other.name} by their names, not of {chosen_task.name}; correct task"
        )
    cohort = find_cohort(folder, chosen_task, layout)
    cases = cohort.cases
    if cohort.layout == "cubes":
        cases = cube_items(folder, cases, full_only)
    if not cases:
        hint = f"; {not_used(cohort.unused, folder)}" if cohort.unused else ""
        what = f" in the layout {layout} ({LAYOUTS[layout]})" if layout != "auto" else ""
        raise InputError(f"{folder} holds no patients{what} with a sequence of {chosen_task.name}{hint}")
    items = [_item(case, folder, chosen_task, patient_pattern) for case in cases]
    convention = find_convention(
        chosen_task,
        [case.name for case in cases],
        (case.label for case in cases if case.label),
        labels,
        cohort.label_names,
        str(folder / "dataset.json"),
    )
    if convention.doubt:
        logger.warning(convention.doubt)
    if cohort.unused:
        logger.warning(not_used(cohort.unused, folder))
    if patient_pattern is None and (doubt := doubtful_patients(item["case"] for item in items)):
        logger.warning(doubt)
    if slices:
        items = slices_of(items, folder)
    lists = read_lists(Path(split_dir)) if split_dir is not None else None
    grades = _grades(folder, lists)
    for item in items:
        item["group"] = grades.get(item["case"], grades.get(item["patient"], item["group"]))
    if lists is not None:
        chosen = listed_split(items, lists, str(split_dir))
    elif sum(fraction > 0 for fraction in fractions) > 1:
        chosen = _split(items, {case.name for case in cases if case.split == "test"}, fractions, seed)
    else:
        chosen = random_split(items, fractions, seed)
    return {
        "task": chosen_task.name,
        "modalities": list(chosen_task.modality_names),
        "labels": convention.to_json(),
        **chosen,
    }


def _split(
    items: Sequence[dict[str, Any]], own_test: set[str], fractions: Sequence[float], seed: int
) -> dict[str, list[dict[str, Any]]]:
    """`random_split`, but for cases that the data set itself tests on: the test split, if labeled, else left out."""
    held = [item for item in items if item["case"] in own_test]
    others = [item for item in items if item["case"] not in own_test]
    test = [item for item in held if item.get("label")]
    if left := len(held) - len(test):
        logger.warning("%d cases that the data set tests on have no label and are left out", left)
    first, second, _ = fractions
    if not test or not first + second:
        return random_split(others, fractions, seed)
    logger.info("the test split is that of the data set: %d cases", len(test))
    total = first + second
    return {**random_split(others, (first / total, second / total, 0), seed), "test": test}


def _item(case: Case, folder: Path, task: Task, patient_pattern: str | None) -> dict[str, Any]:
    images = case.images
    grade = next((part for part in case.folder.relative_to(folder).parts if part in ("HGG", "LGG")), UNKNOWN_GROUP)
    item: dict[str, Any] = {"case": case.name, "patient": patient_of(case.name, patient_pattern), "group": grade}
    if case.channels:
        item["channels"] = list(case.channels)
    item["image"] = {m: _relative(images[m], folder) if m in images else None for m in task.modality_names}
    if case.label is not None:
        item["label"] = _relative(case.label, folder)
    return item


def write_datalist(path: str | os.PathLike[str], datalist: Mapping[str, Any]) -> None:
    """Write the JSON, whole or not at all."""
    write_text(path, json.dumps(datalist, indent=1) + "\n")


def load_datalist(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, task: TaskLike | None = None
) -> Datalist:
    """Read a datalist and check it: its keys, that every item has a file, and that no patient is in two splits.

    Datalists of the Decathlon and of MONAI's bundles (``{"training": [{"image": [4 paths], "label": ...}], "testing":
    [...]}``) are read, too: their file names tell the modalities.

    Args:
        path: a JSON file.
        root: the folder that its paths are relative to; if given, they come back absolute.
        task: that of a datalist of the Decathlon; by default brain tumors.

    Raises:
        InputError: it is not a datalist; the message says where.
    """
    path = Path(path)
    datalist = read_json(path, "check the path, or make one with `monai-passion datalist`")
    if (
        isinstance(datalist, dict)
        and "task" not in datalist
        and any(isinstance(datalist.get(k), list) for k in FOREIGN)
    ):
        datalist = _from_decathlon(path, datalist, load_task("brats_mri" if task is None else task))
    _check(path, datalist)
    return datalist if root is None else absolute(datalist, Path(root))


FOREIGN = {
    "training": "training",
    "train": "training",
    "validation": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
"""Key of a Decathlon's datalist -> ours."""


def _from_decathlon(path: Path, given: Mapping[str, Any], task: Task) -> Datalist:
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    try:
        names = label_classes(given["labels"], task) if given.get("labels") else {}
        channels = [read_name(str(name), task).role for _, name in sorted((given.get("modality") or {}).items())]
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: labels or modality are not as in the Decathlon ({error}); correct them") from error
    folds: set[Any] = set()
    for key, split in FOREIGN.items():
        for k, entry in enumerate(given.get(key) or []):
            entry = entry if isinstance(entry, dict) else {"image": entry}
            images = entry.get("image")
            where = f"{path}: {key}[{k}]"
            if "fold" in entry:
                folds.add(entry["fold"])
            if isinstance(images, dict):
                files = _by_modality(where, images, task)
            elif isinstance(images, str):
                role = read_name(Path(images).name, task, Path(images).parent.name).role
                if not channels and role not in task.modality_names:
                    raise InputError(
                        f"{where}: {images} is one file and nothing says what its channels are; add to {path.name} "
                        '"modality": {"0": "FLAIR", ...} as in the Decathlon'
                    )
                files = dict.fromkeys([c for c in channels if c] if channels else [str(role)], images)
            elif isinstance(images, list) and all(isinstance(image, str) for image in images):
                roles = [read_name(Path(image).name, task, Path(image).parent.name).role for image in images]
                if None in roles or len(set(roles)) < len(roles):
                    name = images[roles.index(None)] if None in roles else f"two of {', '.join(images)}"
                    raise InputError(f"{where}: the name of {name} does not tell its sequence; make a datalist of ours")
                files = dict(zip(map(str, roles), images, strict=True))
            else:
                raise InputError(f"{where}: image is {images!r}; give the paths of a patient's files")
            first = Path(next(filter(None, files.values()), ""))
            case = str(entry.get("case") or _case_of(first, task, isinstance(images, str)))
            item: dict[str, Any] = {"case": case, "patient": patient_of(case), "group": UNKNOWN_GROUP}
            item["image"] = {m: files.get(m) for m in task.modality_names}
            if isinstance(images, str) and channels:
                item["channels"] = list(channels)
            if isinstance(entry.get("label"), str):
                item["label"] = entry["label"]
            splits[split].append(item)
    if len(folds) > 1:
        logger.warning(
            '%s: folds are not used: every entry stays in its list; move those that validate into "validation"', path
        )
    known: Datalist = {"task": task.name, "modalities": list(task.modality_names)}
    if names:
        known["labels"] = find_convention(task, [], [], None, names, str(path)).to_json()
    return {**known, **splits}


def _by_modality(where: str, images: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Files by the task's own names of modalities."""
    files: dict[str, Any] = {}
    for name, image in images.items():
        try:
            modality = task.resolve(name)
        except UsageError as error:
            raise InputError(f"{where}: {error}") from error
        if modality in files:
            raise InputError(f"{where}: image gives {modality} twice; keep one")
        files[modality] = image
    return files


def _case_of(path: Path, task: Task, is_whole: bool) -> str:
    """The name of a case by its first file: what that begins with, or else its folder's."""
    patient = read_name(path.name, task, path.parent.name).patient
    if is_whole:
        return patient or stem_of(path.name)
    return (path.parent.name if NUMBER.fullmatch(patient) else patient) or stem_of(path.name)


def is_of(path: Path, root: Path) -> bool:
    """Whether ``root`` holds all files of the datalist ``path``, wherever they were before.

    Raises:
        InputError: see `load_datalist`; a datalist that is not there has no data.
    """
    items = _items(load_datalist(path)) if path.is_file() else []
    paths = [name for item in items for name in (*item["image"].values(), item.get("label")) if name]
    return bool(paths) and all((root / name).is_file() for name in paths)


def absolute(datalist: Datalist, root: Path) -> Datalist:
    """The datalist with absolute paths below ``root``, and the meaning of labels in each item (``label_values``)."""
    values = datalist.get("labels", {}).get("values")
    for item in _items(datalist):
        item["image"] = {m: str(root / path) if path else None for m, path in item["image"].items()}
        if item.get("label"):
            item["label"] = str(root / item["label"])
            if values:
                item["label_values"] = dict(values)
    return datalist


def labeled_items(items: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The items of a datalist that have a label, and the names of the cases that have none, sorted."""
    labeled: list[dict[str, Any]] = []
    others = set()
    for item in items:
        if item.get("label"):
            labeled.append(item)
        else:
            others.add(item["case"])
    return labeled, sorted(others)


def _items(datalist: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [item for split in SPLITS for item in datalist[split]]


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _grades(folder: Path, lists: Mapping[str, Iterable[str]] | None) -> dict[str, str]:
    mapping = folder / "name_mapping.csv"
    if mapping.is_file():
        table = read_table(mapping)
        key = next((name for name in table.columns if name.startswith("BraTS_2020_subject")), None)
        if key and "Grade" in table.columns:
            return {name: grade for name, grade in zip(table[key], table["Grade"], strict=True) if grade}
    names = [name for listed in (lists or {}).values() for name in listed]
    return {plain_case_name(name): f"{name[:2]}G" for name in names if name != plain_case_name(name)}


def _check(path: Path, datalist: Any) -> None:
    """Raises InputError where ``datalist`` is not as `Datalist` says."""
    check_schema(datalist, "datalist", path)
    modalities = datalist["modalities"]
    for split in SPLITS:
        seen = set()
        for k, item in enumerate(datalist[split]):
            where = f"{path}: {split}[{k}] ({item['case']})"
            if set(item["image"]) != set(modalities):
                raise InputError(f"{where}: image must give a path or null for {', '.join(modalities)}")
            if not any(item["image"].values()):
                raise InputError(f"{where} has no image at all; give one path or take the case out")
            if item["case"] in seen:
                raise InputError(f"{where} is there twice; keep it once")
            seen.add(item["case"])
    check_patients(str(path), datalist)


def describe_data(dataset_dir: Path, datalist: Mapping[str, Any]) -> str:
    """``phantom``, ``BraTS2020 cubes``, ``BraTS2020``, ``MyoPS2020`` or ``other``: the kind of data, for comparisons.

    BraTS2020 needs the published names, at least the 269 patients of the paper's training and validation, and volumes
    of 240 x 240 x 155 voxels; MyoPS2020 the 25 published names. Splits may be left out of ``datalist``.
    """
    if (dataset_dir / "phantom.json").is_file():
        return "phantom"
    if (dataset_dir / "index.csv").is_file():
        return "BraTS2020 cubes"
    items = [item for split in SPLITS for item in datalist.get(split, ())]
    patients = {item["patient"] for item in items}
    if len(patients) >= 269 and all(re.fullmatch(r"BraTS20_Training_\d{3}", name) for name in patients):
        first = next(path for path in items[0]["image"].values() if path)
        if tuple(read_header(dataset_dir / first).shape) == (240, 240, 155):
            return "BraTS2020"
    if len(patients) == 25 and all(re.fullmatch(r"myops_training_1\d\d", name) for name in patients):
        return "MyoPS2020"
    return "other"
