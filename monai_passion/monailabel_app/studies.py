"""Labeled patients of MONAI Label as items of a training: Label names one file, a patient may have several."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_passion.data.studies import case_of_file, find_study
from monai_passion.errors import InputError

__all__ = ["label_values", "training_items"]

logger = logging.getLogger(__name__)


def training_items(pairs: Iterable[Mapping[str, Any]], modalities: Sequence[str]) -> list[dict[str, Any]]:
    """Label's pairs of image and label as items of a training: every patient once, even if labeled on several files.

    If a patient has several labels, the one saved last is used; the log names the others.

    Raises:
        InputError: see `monai_passion.data.studies.find_study`.
    """
    items: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        image = find_study(pair["image"], modalities)
        case = case_of_file(pair["image"], modalities)
        patient = str(Path(pair["image"]).parent / case)
        # Of a 4-D file, the channels are all there.
        paths = dict.fromkeys(modalities, image) if isinstance(image, str) else image
        more = {"channels": list(modalities)} if isinstance(image, str) else {}
        item = {**pair, "case": case, "patient": case, "image": paths, **more}
        older, newer = sorted([items.get(patient, item), item], key=lambda one: Path(one["label"]).stat().st_mtime)
        if older is not newer:
            logger.warning(f"{case} has several labels; {newer['label']} is the newest, {older['label']} is not used")
        items[patient] = newer
    return list(items.values())


def label_values(
    segments: Sequence[Mapping[str, Any]] | None, class_names: Sequence[str], values: Sequence[int]
) -> dict[str, int] | None:
    """Value in a label file -> value in the data set: Slicer counts its segments 1, 2, ... and sends their names.

    Args:
        segments: ``{"name"}`` of each, as Slicer sends them with a label; None if they were not sent.
        class_names: of the classes, background first, in any case.
        values: of the classes in label files.

    Raises:
        InputError: a segment is not one of the classes.
    """
    if segments is None:
        return None
    known = {name.lower(): value for name, value in zip(class_names, values, strict=True)}
    names = [str(segment["name"]).lower() for segment in segments]
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"a label has the segment '{unknown[0]}', which is not one of {', '.join(class_names[1:])}; rename or "
            "remove it and submit the label again"
        )
    return {str(value): value for value in values} | {str(k): known[name] for k, name in enumerate(names, start=1)}
