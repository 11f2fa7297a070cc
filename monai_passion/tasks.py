"""What a segmentation task is: its modalities, classes, regions and anatomy, from one JSON file.

Everything that depends on the task takes a `Task`: reading files, mapping labels, naming channels, drawing, reporting.
A further task is one more JSON file and needs no code.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from monai_passion.errors import InputError, UsageError, did_you_mean
from monai_passion.system.files import read_json
from monai_passion.system.resources import resource_folder
from monai_passion.system.schemas import check_schema

__all__ = [
    "PALETTE",
    "ClassLabel",
    "Modality",
    "Region",
    "Task",
    "TaskLike",
    "as_task",
    "find_alias",
    "known_aliases",
    "load_task",
    "task_from_json",
    "task_names",
]

PALETTE = ("#E6550D", "#33BBEE", "#F0E442", "#CC79A7", "#009E73", "#0072B2", "#D55E00", "#56B4E9")
"""Colors of classes without a color of their own: distinguishable for the color-blind, and on gray."""


@dataclass(frozen=True)
class Modality:
    """One kind of image that a patient may have; not a tensor's channel."""

    name: str
    """Lower case, as in flags, result folders and configurations: ``"t1c"``."""
    title: str
    """Name for people: ``"T1c"``."""
    aliases: tuple[str, ...] = ()
    """Other names of it in files, lower case."""
    description: str = ""
    """In words: ``"T1 after contrast agent"``."""


@dataclass(frozen=True)
class ClassLabel:
    """One of the K exclusive classes of a voxel."""

    name: str
    title: str
    value: int
    """Its value in label files."""
    color: str
    """``"#RRGGBB"``."""
    code: tuple[str, str, str] | None = None
    """Value, coding scheme ("SCT" for SNOMED CT) and meaning, for DICOM SEG."""


@dataclass(frozen=True)
class Region:
    """A union of classes that is scored and measured."""

    name: str
    title: str
    classes: tuple[int, ...]
    """Indices of `Task.classes`."""


@dataclass(frozen=True)
class Task:
    """A segmentation task, read by `load_task`.

    The order of ``modalities`` is that of the network's channels, the order of ``classes`` that of its outputs;
    background is class 0.
    """

    name: str
    title: str
    anatomy: str
    """``"brain"``, ``"heart"``, ...: decides on plausibility checks and pictures."""
    spatial_dims: int
    """2 if the network sees slices, else 3."""
    modalities: tuple[Modality, ...]
    classes: tuple[ClassLabel, ...]
    regions: tuple[Region, ...]
    printed: tuple[str, ...]
    """Names of the modalities in the order of printed tables."""
    skull_stripped: bool = False
    """Images are expected without skull, 0 outside the brain."""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Defaults of a training: ``spacing`` or ``pixel_size`` (mm), ``crop_size`` and ``roi_size`` (voxels)."""
    source: Path | None = field(default=None, compare=False)
    """The file it was read from."""

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return len(self.classes)

    @cached_property
    def modality_names(self) -> tuple[str, ...]:
        """Names of the modalities, in channel order."""
        return tuple(modality.name for modality in self.modalities)

    @cached_property
    def titles(self) -> dict[str, str]:
        """Name of a modality -> its name for people."""
        return {modality.name: modality.title for modality in self.modalities}

    @cached_property
    def label_values(self) -> tuple[int, ...]:
        """Value of each class in label files, background first."""
        return tuple(label.value for label in self.classes)

    @cached_property
    def region_classes(self) -> dict[str, tuple[int, ...]]:
        """Region -> the classes whose union it is."""
        return {region.name: region.classes for region in self.regions}

    def resolve(self, name: str) -> str:
        """The modality that ``name`` means, as a name or alias in any case.

        Raises:
            UsageError: no modality of this task has that name; the message suggests the nearest.
        """
        known = {alias: m.name for m in self.modalities for alias in (m.name, *m.aliases)}
        return find_alias(name, known, f"{self.name} has {', '.join(self.modality_names)}")

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `task_from_json` reads."""
        return {
            "task": self.name,
            "title": self.title,
            "anatomy": self.anatomy,
            "skull_stripped": self.skull_stripped,
            "spatial_dims": self.spatial_dims,
            "modalities": [
                {"name": m.name, "title": m.title, "aliases": list(m.aliases), "description": m.description}
                for m in self.modalities
            ],
            "classes": [
                {"name": c.name, "title": c.title, "value": c.value, "color": c.color}
                | ({"code": list(c.code)} if c.code else {})
                for c in self.classes
            ],
            "regions": [{"name": r.name, "title": r.title, "classes": list(r.classes)} for r in self.regions],
            "printed": list(self.printed),
            "settings": dict(self.settings),
        }


def task_names() -> list[str]:
    """Names of the tasks that come with this package."""
    return sorted(path.parent.name for path in resource_folder("configs").glob("tasks/*/task.json"))


TaskLike = Task | Mapping[str, Any] | str | os.PathLike[str]
"""The types that `load_task` takes."""


def load_task(task: TaskLike) -> Task:
    """A task by its name, by its JSON file, or from the object in such a file, as bundles hold it.

    Raises:
        UsageError: neither a name of `task_names` nor a file.
        InputError: the file is not a task; the message says what is wrong, and where.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, Mapping):
        return task_from_json(task)
    path = _task_file(os.fspath(task)).absolute()
    return _read_task(path, path.stat().st_mtime_ns)


def _task_file(task: str) -> Path:
    path = Path(task)
    if path.suffix == ".json":
        if not path.is_file():
            raise UsageError(f"{path} does not exist; check the path of the task file")
    else:
        path = resource_folder("configs") / "tasks" / task / "task.json"
        if not path.is_file():
            known = task_names()
            raise UsageError(
                f"unknown task '{task}'; known are {', '.join(known)}, or give a task file (.json)"
                f"{did_you_mean(task, known)}"
            )
    return path


@lru_cache
def _read_task(path: Path, changed: int) -> Task:
    """The task in a file; ``changed`` is the time of the file, which is read again if that is another."""
    content = read_json(path, "correct the task file")
    check_schema(content, "task", path)
    return task_from_json(content, path)


def task_from_json(content: Mapping[str, Any], source: Path | None = None) -> Task:
    """The task that a JSON object describes; defaults fill missing keys.

    Raises:
        InputError: a key is missing or wrong, or names or values are there twice.
    """
    where = source or "the task"
    try:
        modalities = tuple(
            Modality(
                name=m["name"],
                title=m.get("title", m["name"].upper()),
                aliases=tuple(alias.lower() for alias in m.get("aliases", ())),
                description=m.get("description", ""),
            )
            for m in content["modalities"]
        )
        classes = tuple(
            ClassLabel(
                name=c["name"],
                title=c.get("title", c["name"]),
                value=int(c["value"]),
                # MONAI's parser of bundles turns "#" into "::"
                color=c.get("color", "#000000" if k == 0 else PALETTE[(k - 1) % len(PALETTE)]).replace("::", "#"),
                code=tuple(c["code"]) if c.get("code") else None,
            )
            for k, c in enumerate(content["classes"])
        )
        given = content.get("regions") or [
            {"name": c.name, "title": c.title, "classes": [k]} for k, c in enumerate(classes) if k
        ]
        task = Task(
            name=content["task"],
            title=content.get("title", content["task"]),
            anatomy=content.get("anatomy", "other"),
            skull_stripped=bool(content.get("skull_stripped", False)),
            spatial_dims=int(content.get("spatial_dims", 3)),
            modalities=modalities,
            classes=classes,
            regions=tuple(Region(r["name"], r.get("title", r["name"]), tuple(map(int, r["classes"]))) for r in given),
            printed=tuple(content.get("printed") or (m.name for m in modalities)),
            settings=dict(content.get("settings", {})),
            source=source,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{where}: {said}; see docs/reference/task-files.md") from error
    _check(task, where)
    return task


def _check(task: Task, where: object) -> None:
    def refuse(text: str) -> InputError:
        return InputError(f"{where}: {text}; correct the task file")

    if not re.fullmatch(r"[A-Za-z][\w-]*", task.name):
        raise refuse(f"the task is called '{task.name}'; begin with a letter of a to z, then letters, digits, _ and -")
    names = [alias for m in task.modalities for alias in dict.fromkeys((m.name, *m.aliases))]
    if not task.modalities or (twice := _twice(names)):
        raise refuse(f"two modalities are called '{twice}'" if task.modalities else "there is no modality")
    if wrong := [m.name for m in task.modalities if not m.name.replace("_", "a").isalnum() or m.name != m.name.lower()]:
        raise refuse(f"the modality '{wrong[0]}' must be of lower-case letters, digits and _")
    if len(task.classes) < 2 or task.classes[0].value != 0:
        raise refuse("classes must be background (value 0) and at least one more")
    if (again := _twice(task.label_values)) is not None:
        raise refuse(f"two classes have the value {again}")
    for kind, given in (("classes", task.classes), ("regions", task.regions)):
        if (again := _twice([one.name for one in given])) is not None:
            raise refuse(f"two {kind} are called '{again}'")
    for region in task.regions:
        if not region.classes or not all(0 < k < task.num_classes for k in region.classes):
            raise refuse(f"the region {region.name} has the classes {list(region.classes)}, not of 1 to K - 1")
    if sorted(task.printed) != sorted(task.modality_names):
        raise refuse(f"printed is {list(task.printed)}, not an order of the modalities")
    if task.spatial_dims not in (2, 3):
        raise refuse(f"spatial_dims is {task.spatial_dims}, not 2 or 3")


def _twice(values: Sequence[Any]) -> Any:
    return next((value for value in values if list(values).count(value) > 1), None)


def find_alias(name: str, known: Mapping[str, str], those: str) -> str:
    """The modality that ``name`` means, whatever its case.

    Args:
        name: as a person wrote it.
        known: name or alias, lower case -> modality.
        those: the existing names, for the message.

    Raises:
        UsageError: no modality has that name; the message suggests the nearest.
    """
    key = name.strip().lower()
    if key in known:
        return known[key]
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean '{known[nearest[0]]}'?" if nearest else ""
    raise UsageError(f"unknown modality '{name}'; {those}{hint}")


@cache
def known_aliases() -> dict[str, tuple[str, ...]]:
    """Modality -> its other names, as the tasks of this package have them."""
    return {m.name: m.aliases for name in task_names() for m in load_task(name).modalities}


def as_task(modalities: Task | Sequence[str]) -> Task:
    """The task with these modalities: one of this package, or one with nothing else. A `Task` is returned as it is."""
    return modalities if isinstance(modalities, Task) else _with_modalities(tuple(modalities))


@lru_cache
def _with_modalities(names: tuple[str, ...]) -> Task:
    known = [load_task(name) for name in task_names()]
    if (same := next((task for task in known if set(task.modality_names) == set(names)), None)) is not None:
        return same
    aliases = {m: [alias for alias in known_aliases().get(m, ()) if alias not in names] for m in names}
    task = task_from_json(
        {
            "task": "this_task",
            "modalities": [{"name": name, "aliases": aliases[name]} for name in names],
            "classes": [{"name": "background", "value": 0}, {"name": "lesion", "value": 1}],
        }
    )
    return replace(task, name="this task")
