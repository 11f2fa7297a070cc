"""The meaning of the values in label files: data sets number the same tissues differently.

A convention maps the values of a file to those of the task. It is found out once, for a cohort, recorded in its
datalist, and checked against every label file that is read: a value that the convention does not have is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_passion.data.nifti import MAX_VOXELS, Volume, read_volume
from monai_passion.errors import InputError, UsageError
from monai_passion.tasks import Task

__all__ = [
    "CONVENTIONS",
    "Convention",
    "check_values",
    "find_convention",
    "label_classes",
    "map_values",
    "parse_convention",
    "read_label",
    "readable_values",
    "task_values",
    "values_in",
    "whole_numbers",
]

BACKGROUND = "background"


ROUNDING = 1e-3
"""Distance from a whole number that a stored label may have, for example because of a slope."""


class Convention(NamedTuple):
    """How a data set numbers the classes of a task."""

    name: str
    values: Mapping[int, int]
    """Value in a file -> value of the task (`Task.label_values`), background included."""
    doubt: str = ""
    """A warning if neither names nor values tell the convention for sure."""

    def to_json(self) -> dict[str, Any]:
        return {"convention": self.name, "values": {str(k): v for k, v in sorted(self.values.items())}}


CONVENTIONS: dict[str, tuple[str, dict[int, str]]] = {
    "brats2015": (
        "BraTS 2012 to 2016: 1 necrosis, 2 edema, 3 non-enhancing, 4 enhancing",
        {1: "NCR/NET", 2: "ED", 3: "NCR/NET", 4: "ET"},
    ),
    "brats2020": (
        "BraTS 2017 to 2021, UPENN-GBM, UCSF-PDGM: 1 necrosis, 2 edema, 4 enhancing",
        {1: "NCR/NET", 2: "ED", 4: "ET"},
    ),
    "brats2023": (
        "BraTS from 2023 on (GLI, SSA, MET, MEN, PED 2023): 1 necrosis, 2 edema, 3 enhancing",
        {1: "NCR/NET", 2: "ED", 3: "ET"},
    ),
    "brats2024": (
        "BraTS 2024 after treatment: as brats2023, 4 the resection cavity, which counts as background",
        {1: "NCR/NET", 2: "ED", 3: "ET", 4: BACKGROUND},
    ),
    "brats_ped2024": (
        "BraTS-PEDs 2024: 1 enhancing, 2 non-enhancing, 3 cystic, 4 edema",
        {1: "ET", 2: "NCR/NET", 3: "NCR/NET", 4: "ED"},
    ),
    "msd": ("Task01 of the Decathlon: 1 edema, 2 non-enhancing, 3 enhancing", {1: "ED", 2: "NCR/NET", 3: "ET"}),
    "deepbratumia": ("DeepBraTumIA, as in LUMIERE: 1 enhancing, 2 necrosis, 3 edema", {1: "ET", 2: "NCR/NET", 3: "ED"}),
    "hdglio": ("HD-GLIO, as in LUMIERE: 1 T2/FLAIR abnormality, 2 enhancing", {1: "ED", 2: "ET"}),
}
"""Name -> what it is, and value -> class, for brain tumors."""

BY_NAME = (
    (re.compile(r"brats_2013_|^VSD\.Brain|brats_tcia_pat", re.IGNORECASE), "brats2015"),
    (re.compile(r"^Brats(17|18|19|20|2021)_|^UPENN-GBM-|^UCSF-PDGM-", re.IGNORECASE), "brats2020"),
    (re.compile(r"^BraTS-GLI-\d+-1\d\d$|^PatientID_\d+_Timepoint", re.IGNORECASE), "brats2024"),
    (re.compile(r"^BraTS-(GLI|SSA|MET|MEN(?!-RT)|GoAT)-", re.IGNORECASE), "brats2023"),
    (re.compile(r"^BraTS-PED-", re.IGNORECASE), "brats2023 or brats_ped2024"),
)
"""Pattern of a case's name -> convention; the first that fits. With two conventions the name does not decide."""
BY_FILE = (
    (re.compile("DeepBraTumIA", re.IGNORECASE), "deepbratumia"),
    (re.compile("HD-?GLIO", re.IGNORECASE), "hdglio"),
)
"""Pattern of a label map's folder -> convention."""
MEANINGS = (
    ("ED", "ed edema oedema edematous snfh infiltration infiltrated invaded hyperintensity abnormality"),
    ("NCR/NET", "ncr net ncrnet netc necrosis necrotic nonenhancing cyst cystic cc"),
    ("ET", "et enhancing enhancement active at"),
)
"""Words of a ``dataset.json`` for the classes of brain tumors; of a name with words of several the first class."""


def task_values(task: Task) -> Convention:
    """The convention in which a task states its own label values."""
    return Convention(task.name, {value: value for value in task.label_values})


def _known(name: str, task: Task) -> Convention:
    by_class = {label.name: label.value for label in task.classes} | {BACKGROUND: 0}
    return Convention(name, {0: 0} | {value: by_class[c] for value, c in CONVENTIONS[name][1].items()})


def _applicable(task: Task) -> list[str]:
    classes = {label.name for label in task.classes} | {BACKGROUND}
    return [name for name, (_, values) in CONVENTIONS.items() if set(values.values()) <= classes]


def parse_convention(text: str, task: Task) -> Convention:
    """The convention of a name in ``CONVENTIONS``, or one spelled out: ``"1=ED,2=NCR/NET,3=ET"``; 0 is background.

    Raises:
        UsageError: no such name, value or class.
    """
    if "=" not in text:
        if text == task.name:
            return task_values(task)
        if text not in _applicable(task):
            names = ", ".join((*_applicable(task), task.name))
            raise UsageError(f"unknown labels '{text}'; give one of {names}, or what each value is, as 1=ED,2=ET")
        return _known(text, task)
    values = {0: 0}
    for pair in text.split(","):
        value, _, name = (part.strip() for part in pair.partition("="))
        label = _class_of(name, task)
        if not value.isdigit() or label is None or "=" in name:
            classes = ", ".join(one.name for one in task.classes)
            raise UsageError(f"labels: '{pair}' is not VALUE=CLASS; the classes are {classes}")
        if values.get(int(value), label) != label:
            raise UsageError(f"labels: {value} is given as two classes; give each value one (0 is background)")
        values[int(value)] = label
    return Convention(text, values)


def _class_of(name: str, task: Task) -> int | None:
    """The value of the class that a name means; None for none or several."""
    words = re.sub(r"[^a-z0-9]", "", name.lower())
    found = {
        label.value
        for label in task.classes
        if words in {re.sub(r"[^a-z0-9]", "", text.lower()) for text in (label.name, label.title)}
    }
    if not found and (words in (BACKGROUND, "rc") or "cavity" in words):
        found = {0}
    if not found:
        said = set(re.findall("[a-z]+", re.sub("non[ _-]?enhancing", "nonenhancing", name.lower())))
        meant = next((label for label, text in MEANINGS if said & set(text.split())), None)
        both = meant == "ED" and said & {"necrosis", "necrotic", "ncr", "enhancing"}  # one label for two classes
        found = {label.value for label in task.classes if label.name == meant and not both}
    return found.pop() if len(found) == 1 else None


def label_classes(labels: Mapping[str, Any], task: Task) -> dict[int, str]:
    """Value -> name, of the labels of a ``dataset.json``: of the Decathlon, of nnU-Net, also by regions.

    For regions ({"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}), a value means the class that
    is in the same regions of the task.

    Raises:
        ValueError: they are none of these, or a value is in regions that no class is in.
    """
    if all(str(key).isdigit() for key in labels):
        return {int(key): str(name) for key, name in labels.items()}
    values = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    if all(len(value) == 1 for value in values.values()):
        return {int(value): str(name) for name, (value,) in values.items()}
    regions = {}
    for region in task.regions:
        known = {re.sub("[^a-z]", "", text.lower().replace("tumour", "tumor")) for text in (region.name, region.title)}
        names = [name for name in values if re.sub("[^a-z]", "", name.lower().replace("tumour", "tumor")) in known]
        regions[region.name] = {int(value) for name in names for value in values[name]}
    within = [{region.name for region in task.regions if k in region.classes} for k in range(len(task.classes))]
    pairs = {}
    for value in sorted({int(value) for listed in values.values() for value in listed}):
        inside = {name for name, own in regions.items() if value in own}
        if within.count(inside) != 1:
            raise ValueError(f"the label {value} is in {sorted(inside)}, as no class of {task.name}")
        pairs[value] = task.classes[within.index(inside)].name
    return pairs


def find_convention(
    task: Task,
    cases: Sequence[str],
    labels: Iterable[Path],
    given: str | None = None,
    names: Mapping[int, str] | None = None,
    where: str = "dataset.json",
) -> Convention:
    """The convention of a cohort: as given, else from ``dataset.json`` or the cases' names, else from the values.

    The values tell {0, 1, 2, 4} from sets with a 3, but not the meaning of a 3, which is an error that asks for it.

    Args:
        task: whose classes are meant.
        cases: names of the cohort's cases.
        labels: its label files; read one after the other, only as far as needed.
        given: see `parse_convention`.
        names: value -> name of ``dataset.json``, where there is one.
        where: that file, for messages.

    Raises:
        UsageError: ``given`` is not a convention.
        InputError: the convention cannot be found; the message says what to give.
    """
    if given:
        return parse_convention(given, task)
    if names:
        values = {value: _class_of(name, task) for value, name in names.items()}
        if unknown := [f"{value} ({names[value]})" for value, label in values.items() if label is None]:
            classes = ", ".join(one.name for one in task.classes)
            raise InputError(
                f"{where} has the label {', '.join(unknown)}, which is not one of {classes}; say what each is, "
                f"as --labels {unknown[0].split()[0]}={task.classes[-1].name},..."
            )
        return Convention(Path(where).name, {0: 0, **{k: v for k, v in values.items() if v is not None}})
    applicable = _applicable(task)
    if not applicable:
        return task_values(task)
    labels = list(labels)
    by_file = {name for path in labels for scheme, name in BY_FILE if scheme.search(str(path))}
    by_name = {next((name for scheme, name in BY_NAME if scheme.search(case)), "") for case in cases} - {""}
    if by_name == {"brats2023", "brats2024"}:  # which has all of the other
        by_name = {"brats2024"}
    if len(told := by_file or by_name) == 1:
        if " or " in (name := told.pop()):
            raise InputError(
                f"{cases[0]} and the others may be of releases that number the tissues differently; say which these "
                f"are by --labels {name} (see the list of label conventions)"
            )
        return _known(name, task)
    found: set[int] = set()
    for path, held in readable_values(labels):
        found |= held
        if 3 in found:
            options = " or ".join(name for name in applicable if 3 in CONVENTIONS[name][1])
            raise InputError(
                f"{path} has the label 3, which is another tissue in each of several data sets; say which these are by "
                f"--labels {options} (see the list of label conventions)"
            )
        if 4 in found:
            return task_values(task)
    return task_values(task)._replace(doubt=_doubt(found - {0}, task))


def _doubt(found: set[int], task: Task) -> str:
    """Where the values are too few to tell: a mask of the whole tumor, HD-GLIO, or a cohort that lacks a class."""
    meant = [f"{label.value} as {label.name}" for label in task.classes if label.value in found]
    if not meant or found >= set(task.label_values) - {0}:
        return ""
    return (
        f"all labels are among {', '.join(map(str, sorted({0} | found)))}; they are read in the numbers of {task.name} "
        f"({', '.join(meant)}); if they mean something else, say so by --labels, as hdglio or 1=ED,2=ET"
    )


def values_in(data: NDArray[np.floating]) -> list[int]:
    """The values of a label map, ascending."""
    flat = np.asarray(data).ravel()
    if flat.size and flat.min() >= 0 and flat.max() < 65536 and (flat == (whole := flat.astype(np.int32))).all():
        return np.flatnonzero(np.bincount(whole)).tolist()  # sorts nothing
    return [int(value) for value in np.unique(np.rint(flat))]


def readable_values(labels: Iterable[Path]) -> Iterator[tuple[Path, set[int]]]:
    """The values of each label map that can be read; others are skipped (their reader reports them)."""
    for path in labels:
        try:
            yield path, set(values_in(read_volume(path).data))
        except InputError:
            continue


def whole_numbers(data: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """A label map rounded to whole numbers, where a program stored it with small errors (3.9999).

    Raises:
        InputError: its values are not whole numbers.
    """
    whole = np.rint(data)
    if (np.abs(data - whole) > ROUNDING).any():
        raise InputError(f"{path} has values that are not whole numbers; give the label map")
    return whole


def read_label(
    path: str | os.PathLike[str], values: Mapping[Any, int] | None = None, max_voxels: int = MAX_VOXELS
) -> Volume:
    """A label map with the values of the task.

    Args:
        path: a NIfTI file.
        values: value in the file -> value of the task, as in ``label_values`` of a datalist's item; None if they are
            the same.
        max_voxels: see `monai_passion.data.nifti.read_volume`.

    Raises:
        InputError: it cannot be read, has numbers that are not whole, or a value that is not among ``values``.
    """
    label = read_volume(path, max_voxels=max_voxels)
    data = whole_numbers(label.data, label.path)
    if values:
        data = map_values(data, {int(value): int(own) for value, own in values.items()}, label.path)
    return label._replace(data=data)


def check_values(found: Iterable[int], values: Mapping[int, int], path: Path, convention: str = "") -> None:
    """Refuse the values of a label map (`values_in`) that are not among ``values``.

    Raises:
        InputError: there are such values; the message names ``convention``, if it is given.
    """
    if wrong := [value for value in found if value not in values]:
        name = f" ({convention})" if convention else ""
        raise InputError(
            f"{path} has the label{'s' * (len(wrong) > 1)} {', '.join(map(str, wrong))} where "
            f"{', '.join(map(str, sorted(values)))} are expected{name}; correct it, or say by --labels what they are"
        )


def map_values(data: NDArray[np.float32], values: Mapping[int, int], path: Path) -> NDArray[np.float32]:
    """A label map of whole numbers with the values of the task.

    Raises:
        InputError: see `check_values`.
    """
    found = values_in(data)
    check_values(found, values, path)
    if all(values[value] == value for value in found):
        return data
    result = np.zeros_like(data)
    for value in found:
        result[data == value] = values[value]
    return result
