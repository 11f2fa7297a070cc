"""Folders of patients -> datalists: which files belong to whom, split by patient, absent modalities null."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_passion.data.nifti import read_header
from monai_passion.data.presence import plain_case_name
from monai_passion.errors import InputError, UsageError
from monai_passion.modalities import ALIASES, BRATS_MRI, MYOPS_CMR, resolve
from monai_passion.system.files import write_text

__all__ = [
    "FRACTIONS",
    "LAYOUTS",
    "SPLITS",
    "TASKS",
    "Datalist",
    "absolute",
    "load_datalist",
    "make_datalist",
    "slices_of",
    "whole_files",
    "write_datalist",
]

Datalist = dict[str, Any]
"""``{"task", "modalities", "training": [item, ...], "validation": [...], "test": [...]}``, as in a datalist JSON.

An item has ``case``, ``patient``, ``group``, ``image`` (modality -> path or None) and, where there is one, ``label``;
``slice`` where it is one slice of its files, ``channels`` where its files are 4-D, as `LoadModalitiesd` takes them.
"""

TASKS = {"brats_mri": BRATS_MRI, "myops_cmr": MYOPS_CMR}
"""Task -> its modalities in channel order."""
SPLITS = {"training": "train", "validation": "val", "test": "test"}
"""Key in a datalist -> name of the published list of its patients."""
FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of the patients for training, validation and test."""
LAYOUTS = {
    "brats2020": "CASE/CASE_{flair,t1,t1ce,t2,seg}.nii[.gz]; or all cases' files in one folder",
    "myops2020": "CASE/CASE_{C0,LGE,T2,gd}.nii[.gz]; or all cases' files in one folder or two",
    "msd": "dataset.json and 4-D files, as Task01_BrainTumour of the Medical Segmentation Decathlon",
    "cubes": "index.csv and CASE/CASE_{flair,t1,t1ce,t2,seg}.nii.gz; a case is PATIENT_L...",
}
"""Layout -> what a folder in it looks like."""
LABEL_NAMES = ("seg", "segm", "gd", "label")
UNKNOWN_GROUP = "unknown"
SLICE = re.compile(r"_slice_\d+$")
"""What the name of a slice ends with."""


def make_datalist(
    folder: str | os.PathLike[str],
    layout: str = "auto",
    *,
    fractions: Sequence[float] = FRACTIONS,
    split_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    slices: bool = False,
    full_only: bool = True,
) -> Datalist:
    """The datalist of a folder; a file that a case lacks is None.

    ``group`` is the grade (HGG, LGG) where ``name_mapping.csv`` of BraTS or the names in ``split_dir`` tell it,
    else "unknown".

    Args:
        folder: in one of the ``LAYOUTS``.
        layout: its name, or "auto".
        fractions: shares of the patients for training, validation and test; who is where is drawn from ``seed``.
        split_dir: a folder with train.txt, val.txt and test.txt, one patient or case a line, in place of fractions;
            an ``HG_`` or ``LG_`` before a name is taken off. Who is not listed is left out.
        seed: of the split.
        slices: one item for each slice of the third axis, named ``<case>_slice_<index>``.
        full_only: of cubes, only those without zero-padding, which betrays where the tumour's box ends.

    Returns:
        The datalist; its paths are relative to ``folder``.

    Raises:
        InputError: no patients there, two files for one modality, or a list that names none of them.
        UsageError: an unknown layout, or fractions that are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the patients")
    layout = _layout(folder) if layout == "auto" else layout
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout '{layout}'; known are {', '.join(LAYOUTS)}")
    task = "myops_cmr" if layout == "myops2020" else "brats_mri"
    items = _decathlon(folder) if layout == "msd" else _cases(folder, TASKS[task])
    if layout == "cubes":
        items = _cubes(folder, items, full_only)
    if not items:
        raise InputError(f"{folder} holds no patients in the layout {layout}: {LAYOUTS[layout]}")
    if slices:
        items = slices_of(items, folder)
    lists = _read_lists(Path(split_dir)) if split_dir is not None else None
    grades = _grades(folder, lists)
    for item in items:
        item["group"] = grades.get(item["patient"], UNKNOWN_GROUP)
    chosen = _split(items, fractions, seed) if lists is None else _split_by_lists(items, lists, str(split_dir))
    return {"task": task, "modalities": list(TASKS[task]), **chosen}


def slices_of(items: Iterable[Mapping[str, Any]], root: str | os.PathLike[str] = "") -> list[dict[str, Any]]:
    """One item for each slice of the third axis, named ``<case>_slice_<index>``; items of one slice stay.

    Args:
        root: the folder that the items' paths are relative to.
    """
    parts: list[dict[str, Any]] = []
    for item in items:
        if "slice" in item:
            parts.append(dict(item))
            continue
        path = next(path for path in item["image"].values() if path)
        depth = read_header(Path(root) / path, num_volumes=len(item.get("channels", "1"))).shape[2]
        parts += [{**item, "case": f"{item['case']}_slice_{k}", "slice": k} for k in range(depth)]
    return parts


def whole_files(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The reverse of `slices_of`: one item for all slices of the same files."""
    whole = {}
    for item in items:
        case = SLICE.sub("", item["case"]) if "slice" in item else item["case"]
        files = (case, *item["image"].values())
        whole[files] = {**{k: v for k, v in item.items() if k != "slice"}, "case": case}
    return list(whole.values())


def write_datalist(path: str | os.PathLike[str], datalist: Mapping[str, Any]) -> None:
    """Write the JSON, whole or not at all."""
    write_text(path, json.dumps(datalist, indent=1) + "\n")


def load_datalist(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Datalist:
    """Read a datalist and check it: its keys, that every item has a file and no patient is in two splits.

    Args:
        path: a JSON file.
        root: the folder that its paths are relative to; given it, they come back absolute.

    Raises:
        InputError: it is no such file; the message says where.
    """
    path = Path(path)
    try:
        datalist = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); make it with `monai-passion datalist`") from error
    _check(path, datalist)
    return datalist if root is None else absolute(datalist, Path(root))


def absolute(datalist: Datalist, root: Path) -> Datalist:
    """The same with the folder that its paths are relative to put before them."""
    for item in (item for split in SPLITS for item in datalist[split]):
        item["image"] = {m: str(root / path) if path else None for m, path in item["image"].items()}
        if item.get("label"):
            item["label"] = str(root / item["label"])
    return datalist


def _layout(folder: Path) -> str:
    if (folder / "dataset.json").is_file():
        return "msd"
    if (folder / "index.csv").is_file():
        return "cubes"
    known = {name for m in MYOPS_CMR if m not in BRATS_MRI for name in (m, *ALIASES[m])}
    roles = {role.lower() for _, role, _ in _files(folder)}
    return "myops2020" if known & roles else "brats2020"


def _files(folder: Path) -> list[tuple[str, str, Path]]:
    """(case, role, path) of each NIfTI file up to three folders deep; a role is "flair", "seg", ..."""
    paths = sorted(
        path for depth in ("", "*/", "*/*/") for end in (".nii", ".nii.gz") for path in folder.glob(f"{depth}*{end}")
    )
    case_folders = {path.parent for path in paths if path.name.startswith(f"{path.parent.name}_")}
    found = []
    for path in paths:
        stem, home = path.name.removesuffix(".gz").removesuffix(".nii"), path.parent.name
        if stem.startswith(f"{home}_"):
            found.append((home, stem[len(home) + 1 :], path))
        else:
            case, _, role = stem.rpartition("_")
            # In its case's folder, one label of BraTS2020 lies under a name of its own.
            found.append((case if case and path.parent not in case_folders else home, role, path))
    return found


def _cases(folder: Path, modalities: Sequence[str]) -> list[dict[str, Any]]:
    cases: dict[str, dict[str, Path]] = {}
    for case, role, path in _files(folder):
        try:
            name = "label" if role.lower() in LABEL_NAMES else resolve(role, modalities)
        except UsageError:
            continue
        other = cases.setdefault(case, {}).setdefault(name, path)
        if other != path:
            raise InputError(f"{case} has two files for {name}: {other} and {path}; keep one")
    items = []
    for case, files in sorted(cases.items()):
        image = {m: _relative(files[m], folder) if m in files else None for m in modalities}
        if any(image.values()):
            label = {"label": _relative(files["label"], folder)} if "label" in files else {}
            items.append({"case": case, "patient": case, "group": UNKNOWN_GROUP, "image": image, **label})
    return items


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _decathlon(folder: Path) -> list[dict[str, Any]]:
    path = folder / "dataset.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        names = [index["modality"][str(k)] for k in range(len(index["modality"]))]
        channels = [resolve(name, BRATS_MRI) for name in names]
        pairs = sorted((entry["image"].removeprefix("./"), entry["label"]) for entry in index["training"])
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise InputError(f"{path} is not the dataset.json of the Decathlon's Task01_BrainTumour ({error})") from error
    items = []
    for image, label in pairs:
        case = Path(image).name.split(".")[0]
        item = {"case": case, "patient": case, "group": UNKNOWN_GROUP, "channels": channels}
        paths = {m: image if m in channels else None for m in BRATS_MRI}
        items.append({**item, "image": paths, "label": label.removeprefix("./")})
    return items


def _cubes(folder: Path, items: Iterable[dict[str, Any]], full_only: bool) -> list[dict[str, Any]]:
    path = folder / "index.csv"
    try:
        index = pd.read_csv(path, dtype={"case": str}).set_index("case")["valid_voxels"].to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no index of cubes with the columns case and valid_voxels ({error})") from error
    full = max(index.values(), default=0)
    return [
        {**item, "patient": re.sub(r"_L\d+$", "", item["case"])}
        for item in items
        if item["case"] in index and (index[item["case"]] == full or not full_only)
    ]


def _read_lists(folder: Path) -> dict[str, list[str]]:
    lists = {}
    for split, name in SPLITS.items():
        path = folder / f"{name}.txt"
        try:
            lists[split] = path.read_text(encoding="utf-8").split() if path.is_file() else []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no list of names ({error})") from error
    if not lists["training"]:
        raise InputError(f"{folder} has no train.txt with names, one a line; give the folder of the lists")
    return lists


def _grades(folder: Path, lists: Mapping[str, Iterable[str]] | None) -> dict[str, str]:
    mapping = folder / "name_mapping.csv"
    if mapping.is_file():
        table = pd.read_csv(mapping, dtype=str)
        key = next((name for name in table.columns if name.startswith("BraTS_2020_subject")), None)
        if key and "Grade" in table.columns:
            return dict(zip(table[key], table["Grade"], strict=True))
    names = [name for listed in (lists or {}).values() for name in listed]
    return {plain_case_name(name): f"{name[:2]}G" for name in names if name != plain_case_name(name)}


def _split(items: Sequence[dict[str, Any]], fractions: Sequence[float], seed: int) -> dict[str, list[dict[str, Any]]]:
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or not fractions[0] or abs(sum(fractions) - 1) > 1e-6:
        raise UsageError(
            f"fractions are {tuple(fractions)}; give three that add to 1, for training, validation and test"
        )
    patients = sorted({item["patient"] for item in items})
    wanted = [k for k, fraction in enumerate(fractions) if fraction > 0]
    if len(patients) < len(wanted):
        raise InputError(f"{len(patients)} patients cannot be split into {len(wanted)} parts; set fractions to 0 or 1")
    # Everyone who is wanted gets one patient, the others go where the shares are least filled.
    counts = [int(fraction > 0) for fraction in fractions]
    for _ in range(len(patients) - len(wanted)):
        counts[min(wanted, key=lambda k: (counts[k] + 0.5) / fractions[k])] += 1
    order = np.random.default_rng(seed).permutation(patients)
    bounds = np.cumsum([0, *counts])
    return {
        split: [item for item in items if item["patient"] in set(order[bounds[k] : bounds[k + 1]])]
        for k, split in enumerate(SPLITS)
    }


def _split_by_lists(
    items: Sequence[dict[str, Any]], lists: Mapping[str, Iterable[str]], source: str
) -> dict[str, list[dict[str, Any]]]:
    """An item goes where its case or its patient is listed; a patient is listed, too, by any of its slices."""
    chosen: dict[str, list[dict[str, Any]]] = {}
    for split, listed in lists.items():
        names = {plain_case_name(name) for name in listed}
        names |= {re.sub(r"_slice_\d+$", "", name) for name in names}
        chosen[split] = [item for item in items if item["case"] in names or item["patient"] in names]
    if not chosen["training"]:
        raise InputError(f"train.txt in {source} names none of the {len(items)} cases, as {items[0]['case']}")
    _check_patients(source, chosen)
    return chosen


def _check_patients(source: str, splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    home: dict[str, str] = {}
    for split in SPLITS:
        for item in splits[split]:
            other = home.setdefault(item["patient"], split)
            if other != split:
                raise InputError(f"{source} has the patient {item['patient']} in {other} and in {split}; keep one")


def _check(path: Path, datalist: Any) -> None:
    """Raises InputError where ``datalist`` is not as `Datalist` says."""
    if not isinstance(datalist, dict) or not {"task", "modalities", *SPLITS} <= set(datalist):
        raise InputError(f"{path} is no datalist (task, modalities, {', '.join(SPLITS)}); see `monai-passion datalist`")
    modalities = datalist["modalities"]
    if not isinstance(modalities, list) or not modalities or not all(isinstance(m, str) for m in modalities):
        raise InputError(f"{path}: modalities is {modalities!r}; give a list of names")
    for split in SPLITS:
        if not isinstance(datalist[split], list):
            raise InputError(f"{path}: {split} is not a list of cases")
        seen = set()
        for k, item in enumerate(datalist[split]):
            where = f"{path}: {split}[{k}]"
            if not isinstance(item, dict) or not all(
                isinstance(item.get(n), str) for n in ("case", "patient", "group")
            ):
                raise InputError(f"{where} lacks case, patient or group; give each as text")
            image = item.get("image")
            if not isinstance(image, dict) or set(image) != set(modalities):
                raise InputError(
                    f"{where} ({item['case']}): image must give a path or null for {', '.join(modalities)}"
                )
            if not all(isinstance(file, str | None) for file in (*image.values(), item.get("label"))):
                raise InputError(f"{where} ({item['case']}): a path must be text or null")
            if not any(image.values()):
                raise InputError(f"{where} ({item['case']}) has no image at all; give one path or take the case out")
            if not isinstance(item.get("slice", 0), int) or not isinstance(item.get("channels", []), list):
                raise InputError(f"{where} ({item['case']}): slice must be a whole number, channels a list of names")
            if item["case"] in seen:
                raise InputError(f"{where}: {item['case']} is there twice; keep it once")
            seen.add(item["case"])
    _check_patients(str(path), datalist)
