"""A data set -> its task: modalities, label values and sizes, from a folder of patients or a ``dataset.json``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from monai_passion.data.labels import readable_values
from monai_passion.data.layouts import channels_of, find_cohort, read_dataset_json
from monai_passion.data.naming import LABEL, is_ignored, stem_of
from monai_passion.data.nifti import Header, read_header
from monai_passion.errors import InputError, UsageError
from monai_passion.tasks import Task, known_aliases, task_from_json

__all__ = ["describe_task", "doubts_of"]

SAMPLE = 40
"""Files whose sizes are looked at."""
STEP, CROP, PLANE = 16, 80, 512
"""Crops are multiples of the largest stride of the networks, at least two; at most ``CROP`` or, in 2-D, ``PLANE``."""


def describe_task(
    source: Path,
    modalities: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    anatomy: str = "other",
    skull_stripped: bool = False,
    spatial_dims: int = 3,
) -> Task:
    """The task of a data set; sizes and spacing are the medians of its files.

    Args:
        source: a folder of patients; or a ``dataset.json`` of nnU-Net or the Decathlon, or the folder that holds it,
            which tells modalities and classes.
        modalities: as in the file names; their order is that of the network's channels. ``NAME=ALIAS`` is for files
            with another name, and may be repeated for one modality.
        classes: ``NAME=VALUE`` of each class but the background, which is 0.
        name: of the task; by default that of the folder.
        anatomy, skull_stripped, spatial_dims: see `monai_passion.tasks.Task`.

    Raises:
        UsageError: modalities or classes are missing or wrong; a single modality.
        InputError: no such source, or no files of these modalities.
    """
    index = source / "dataset.json" if source.is_dir() else source
    folder = index.parent
    listed: Mapping[str, Any] = {}
    if index.is_file():
        listed = _read(index)
    elif not source.is_dir():
        raise InputError(f"{source} does not exist; give a folder of patients or a dataset.json")
    other = _aliases(_words(modalities))
    titles = list(other) or (list(channels_of(listed).values()) if listed else [])
    if not titles:
        raise UsageError("no modalities given; add --modalities NAME NAME ..., as the names of the files have them")
    values = _parse(_words(classes)) or _labels(listed)
    if not values:
        raise UsageError("no classes given; add --classes NAME=VALUE ...")
    names = [_plain(title) for title in titles]
    aliases = {
        m: [
            alias for alias in dict.fromkeys((*other.get(title, ()), *known_aliases().get(m, ()))) if alias not in names
        ]
        for m, title in zip(names, titles, strict=True)
    }
    content = {
        "task": name or _task_name(folder.resolve().name),
        "title": name or folder.resolve().name,
        "anatomy": anatomy,
        "skull_stripped": skull_stripped,
        "spatial_dims": spatial_dims,
        "modalities": [
            {"name": m, "title": title if title != m else m.upper(), "aliases": aliases[m]}
            for m, title in zip(names, titles, strict=True)
        ],
        "classes": [
            {"name": "background", "value": 0},
            *({"name": label, "value": value} for label, value in values.items()),
        ],
    }
    task = task_from_json(content)
    found = _channel_files(folder, len(names)) if listed else _files(folder, task)
    files = found[:: max(len(found) // SAMPLE, 1)]
    if not files:
        raise InputError(f"{folder} has no NIfTI file whose name tells {', '.join(titles)}; check --modalities")
    if len(names) < 2:
        raise UsageError(f"{titles[0]} is a single modality, of which none can be missing; give two or more")
    return task_from_json({**content, "settings": _sizes(files, len(names), spatial_dims)})


def doubts_of(folder: Path, task: Task) -> list[str]:
    """Differences between a task described by hand and its files, in words."""
    cases = find_cohort(folder, task).cases
    doubts = []
    if nobody := [m for m in task.modality_names if not any(m in case.files for case in cases)]:
        doubts.append(
            f"no file is named {' or '.join(nobody)}; give NAME=ALIAS if the files call it otherwise, else "
            "its part of a network is never trained"
        )
    labels = [path for case in cases for path in case.files.get(LABEL, [])]
    sample = labels[:: max(len(labels) // SAMPLE, 1)]
    found = set[int]().union(*(values for _, values in readable_values(sample)))
    if more := sorted(found - set(task.label_values)):
        doubts.append(
            f"label maps have the values {', '.join(map(str, more))}, too; add NAME=VALUE of each to --classes"
        )
    if never := [f"{c.value} ({c.name})" for c in task.classes[1:] if found and c.value not in found]:
        doubts.append(f"no label map of {len(sample)} has the value {' or '.join(never)}")
    return doubts


def _words(given: Sequence[str] | None) -> list[str]:
    """The items of a list, or of text with commas."""
    return [word.strip() for text in given or () for word in text.split(",") if word.strip()]


def _read(index: Path) -> Mapping[str, Any]:
    content = read_dataset_json(index)
    if not isinstance(content.get("labels"), Mapping):
        raise InputError(f"{index} has no labels; give a dataset.json of nnU-Net or the Decathlon")
    return content


def _labels(listed: Mapping[str, Any]) -> dict[str, int]:
    """Name -> value; nnU-Net has it this way round, the Decathlon the other, and regions are left to the task file."""
    found: dict[str, int] = {}
    for key, value in listed.get("labels", {}).items():
        label, number = (value, key) if str(key).isdigit() else (key, value)
        if isinstance(number, list):
            raise InputError(
                f"the label '{label}' of dataset.json is a region of {number}; give --classes NAME=VALUE of each "
                "class, then write the regions into the task file"
            )
        if not str(number).isdigit():
            raise InputError(f"the label '{label}' of dataset.json has the value {number!r}; give a whole number")
        if int(number) and str(label).lower() != "ignore":
            found[str(label)] = int(number)
    return found


def _parse(classes: Iterable[str]) -> dict[str, int]:
    found = {}
    for text in classes:
        label, _, value = text.partition("=")
        if not label.strip() or not value.strip().isdigit() or int(value) == 0:
            raise UsageError(f"'{text}' is not a class; give NAME=VALUE with a whole number from 1, as in lesion=1")
        if label.strip() in found:
            raise UsageError(f"--classes names '{label.strip()}' twice; give each class once")
        found[label.strip()] = int(value)
    return found


def _aliases(words: Iterable[str]) -> dict[str, list[str]]:
    """Modality -> its other names, of ``NAME`` and ``NAME=ALIAS``."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, _, alias = word.partition("=")
        found.setdefault(name.strip(), []).extend([alias.strip().lower()] if alias.strip() else [])
    return found


def _task_name(folder: str) -> str:
    """The folder's name in signs that a task may have."""
    name = _plain(folder)
    return name if name[:1].isalpha() else f"task_{name}".rstrip("_")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _files(folder: Path, task: Task) -> list[Path]:
    cases = find_cohort(folder, task).cases
    return [path for case in cases for m, paths in case.files.items() if m != LABEL for path in paths]


def _channel_files(folder: Path, channels: int) -> list[Path]:
    ends = tuple(f"_{k:04}" for k in range(channels))
    paths = (path for path in sorted(folder.rglob("*.nii*")) if not is_ignored(path.name))
    return [path for path in paths if stem_of(path.name).endswith(ends)]


def _sizes(files: Sequence[Path], channels: int, spatial_dims: int) -> dict[str, Any]:
    headers = [_header(path, channels) for path in files]
    grids = [np.array([header.shape, voxel_sizes(header.affine)]) for header in headers]
    ordered = [grid[:, _axes(header, spatial_dims)] for grid, header in zip(grids, headers, strict=True)]
    shape, spacing = np.median(ordered, axis=0)
    most = CROP if spatial_dims == 3 else PLANE
    crop = [int(min(most, max(2 * STEP, STEP * math.ceil(size / STEP)))) for size in shape[:spatial_dims]]
    sizes: dict[str, Any] = {"crop_size": crop, "roi_size": crop}
    if spatial_dims == 2:
        return {"pixel_size": round(float(spacing[:2].mean()), 3), **sizes}
    return {"spacing": [round(float(step), 3) for step in spacing], **sizes}


def _axes(header: Header, spatial_dims: int) -> NDArray[np.intp]:
    """The axes of a file in the order that the network sees: to the right, front and top; of slices as stored."""
    if spatial_dims == 2:
        return np.arange(3)
    return np.argsort(nib.io_orientation(header.affine)[:, 0])


def _header(path: Path, channels: int) -> Header:
    """Of one modality, or of a file that holds all of them."""
    try:
        return read_header(path)
    except InputError:
        return read_header(path, num_volumes=channels)
