"""From one file to its patient: ``<patient>_<sequence>.nii.gz``, or in a patient's own folder ``<sequence>.nii.gz``."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from monai_passion.data.layouts import READ
from monai_passion.data.naming import is_ignored, patient_key, read_name, stem_of
from monai_passion.data.nifti import read_header
from monai_passion.errors import InputError
from monai_passion.modalities import resolve
from monai_passion.tasks import as_task

__all__ = ["case_of_file", "find_study"]

logger = logging.getLogger(__name__)


def case_of_file(path: str | os.PathLike[str], modalities: Sequence[str]) -> str:
    """The patient of a file, by its name: ``anna`` for ``anna_t2.nii.gz``; the stem if the name does not tell."""
    return read_name(Path(path).name, as_task(modalities)).patient or stem_of(Path(path).name)


def find_study(
    path: str | os.PathLike[str], modalities: Sequence[str], sequence: str | None = None
) -> str | dict[str, str | None]:
    """Modality -> file or None, for the patient of one file; or the path itself if the file holds all modalities (4-D).

    Args:
        path: a file. If its name tells the sequence, the files of the other sequences are searched beside it.
        modalities: in channel order.
        sequence: sequence of a 3-D file whose name does not tell it, from programs that send images under temporary
            names; no other file is searched then.

    Raises:
        InputError: two files for one modality; a 3-D file whose sequence neither its name nor ``sequence`` tells, or
            whose name contradicts ``sequence``.
        UsageError: ``sequence`` is not one of the modalities.
    """
    path, task = os.fspath(path), as_task(modalities)
    named = read_name(Path(path).name, task)
    given = resolve(sequence, modalities) if sequence else None
    if named.role not in modalities:
        if not _is_3d(path):
            return path
        if given is None:
            raise InputError(
                f"{path} is one 3-D image and its name does not tell its sequence; name it <patient>_<sequence>.nii.gz "
                f"or give the sequence: {', '.join(modalities)}"
            )
        return {m: path if m == given else None for m in modalities}
    if given not in (None, named.role):
        raise InputError(f"{path} is {named.role} by its name, but the sequence given is {given}; correct one of them")
    study: dict[str, str | None] = dict.fromkeys(modalities)
    whose = patient_key(named.patient)
    for other in sorted(Path(path).parent.iterdir()):
        found = read_name(other.name, task)
        if is_ignored(other.name) or found.role not in study or patient_key(found.patient) != whose:
            continue
        if not other.name.lower().endswith(READ) or not other.is_file():
            logger.warning("not used: %s (not a NIfTI file)", other)
            continue
        if study[found.role] is not None:
            raise InputError(f"{study[found.role]} and {other} are both {found.role} of one patient; remove one")
        study[found.role] = str(other)
    return study


def _is_3d(path: str) -> bool:
    try:
        read_header(path)
    except InputError:
        return False  # 4-D, or damaged, which whoever reads it says
    return True
