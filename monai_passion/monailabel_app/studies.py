"""MONAI Label names one file; these find the patient it belongs to."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms.transform import Transform

from monai_passion.data.naming import read_name
from monai_passion.errors import InputError
from monai_passion.tasks import as_task

__all__ = ["FindStudy", "find_study", "training_items"]

IMAGE = re.compile(r"(?P<patient>.+)[_\-. ][^_\-. ]+\.nii(\.gz)?", re.IGNORECASE)


def find_study(path: str, modalities: Sequence[str]) -> str | dict[str, str | None]:
    """Modality -> file or None, of the patient whom the file ``<patient>_<sequence>.nii.gz`` belongs to.

    The others lie beside it. A file whose name tells no sequence holds all of them (4-D), and is given back.

    Raises:
        InputError: two files for one modality.
    """
    task = as_task(modalities)
    if read_name(Path(path).name, task).role not in modalities:
        return path
    study: dict[str, str | None] = dict.fromkeys(modalities)
    patient = _patient(path)
    for other in sorted(Path(path).parent.iterdir()):
        modality = read_name(other.name, task).role if _patient(str(other)) == patient else None
        if modality in study:
            if study[modality] is not None:
                raise InputError(f"{study[modality]} and {other} are both {modality} of one patient; remove one")
            study[modality] = str(other)
    return study


def training_items(pairs: Iterable[Mapping[str, str]], modalities: Sequence[str]) -> list[dict[str, Any]]:
    """Label's image and label pairs as items of a training: every patient once, though labelled on several files."""
    items: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        image = find_study(pair["image"], modalities)
        patient = pair["image"] if isinstance(image, str) else _patient(pair["image"]) or pair["image"]
        case = Path(patient).name
        # Of a 4-D file, the channels are all there.
        paths = dict.fromkeys(modalities, image) if isinstance(image, str) else image
        more = {"channels": list(modalities)} if isinstance(image, str) else {}
        items[patient] = {"case": case, "patient": case, "image": paths, "label": pair["label"], **more}
    return list(items.values())


class FindStudy(Transform):
    """Before a bundle's preprocessing: the one path at ``image`` becomes those of the whole patient."""

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, "image": find_study(data["image"], self.modalities)}


def _patient(path: str) -> str | None:
    found = IMAGE.fullmatch(Path(path).name)
    return str(Path(path).parent / found["patient"]) if found else None
