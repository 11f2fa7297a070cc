"""The input of `predict` (a patient's folder, a cohort's folder, or a table) -> each patient's files by sequence."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from monai_passion.data.dicom import Series, check_one_patient, find_series, is_dicom, recognize_series
from monai_passion.data.layouts import Case, doubtful, find_cohort, not_used
from monai_passion.data.naming import LABEL, doubtful_names, unknown_words
from monai_passion.data.tables import read_table
from monai_passion.errors import InputError, UsageError
from monai_passion.tasks import Task, as_task

__all__ = ["find_files", "find_patients", "read_cohort"]

logger = logging.getLogger(__name__)

DEPTHS = ("*", "*/*", "*/*/*", "*/*/*/*")
"""Where DICOM files are searched."""
EMPTY = {"", "nan", "na", "n/a", "none", "null", "-", "–", "—"}  # noqa: RUF001
"""Content of a cell that stands for an absent file."""


def find_files(
    folder: Path, modalities: Task | Sequence[str], given: Mapping[str, Path] | None = None, layout: str = "auto"
) -> dict[str, Path]:
    """Modality -> file, for the NIfTI files in one patient's folder, also in BIDS; files that are not used are logged.

    If there are none, DICOM series are searched, up to four folders deep; a series is given by one of its files.
    Modalities in ``given`` have a file already and are not searched.

    Raises:
        InputError: two files for one modality, none for any, or files of several patients.
    """
    task, given = as_task(modalities), given or {}
    cohort = find_cohort(folder, task, layout)
    if not cohort.cases and (found := _find_dicom(folder, task, given)):
        return found
    cases = [case for case in cohort.cases if set(case.files) - set(given) - {LABEL}]
    files = _of_one(folder, cases) if cases else {}
    for m, paths in files.items():
        if len(paths) > 1 and m not in given:
            names = ", ".join(str(path.relative_to(folder)) for path in paths)
            raise InputError(f"{folder} has {len(paths)} files for {m} ({names}); add --{m} with the right one")
    chosen = {**{m: paths[0] for m, paths in files.items()}, **given}
    if not chosen:
        names = ", ".join(f"{path.name}: {why}" for path, why in cohort.unused[:8]) or "no NIfTI files"
        raise InputError(
            f"{folder} has no sequence that its name tells ({names}); give the files by "
            f"{', '.join(f'--{m}' for m in task.modality_names)}"
        )
    if cohort.unused:
        logger.warning(not_used(cohort.unused, folder))
    if cohort.cases and (homes := _dicom_folders(folder, given.values())):
        names = _listed(homes)
        flags = ", ".join(f"--{m}" for m in task.modality_names if m not in chosen) or "its flag"
        logger.warning(f"not used: DICOM files in {names} (beside NIfTI files; give a series by {flags})")
    if text := doubtful(cases, folder, task):
        logger.warning(text)
    return {m: chosen[m] for m in task.modality_names if m in chosen}


def _paths_below(folder: Path) -> Iterator[Path]:
    return (path for depth in DEPTHS for path in folder.glob(depth))


def _dicom_folders(folder: Path, given: Iterable[Path]) -> list[str]:
    """The folders that have DICOM files, relative to ``folder``, but those of series that are given."""
    homes = {path.parent for path in _paths_below(folder) if path.is_file() and is_dicom(path)}
    taken = {(path if path.is_dir() else path.parent).resolve() for path in given}
    return sorted(home.relative_to(folder).as_posix() for home in homes if home.resolve() not in taken)


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _of_one(folder: Path, cases: Sequence[Case]) -> dict[str, list[Path]]:
    """The files of one patient, also where each has a name of its own before the sequence's."""
    if len(cases) > 1 and not _is_ambiguous(cases):
        names = ", ".join(case.name for case in cases[:4])
        raise InputError(
            f"{folder} has files of {len(cases)} patients by their names ({names}); give one patient's folder"
        )
    files: dict[str, list[Path]] = {}
    for case in cases:
        for role in set(case.files) - {LABEL}:
            files.setdefault(role, []).extend(case.files[role])
    return {m: sorted(paths) for m, paths in files.items()}


def _is_ambiguous(cases: Sequence[Case]) -> bool:
    """Whether a file each, all of one sequence, are taken for patients: they may be choices for one."""
    roles = [tuple(set(case.files) - {LABEL}) for case in cases]
    return len({case.folder for case in cases}) == 1 and all(len(r) == 1 for r in roles) and len(set(roles)) == 1


def find_patients(
    folder: Path, modalities: Task | Sequence[str], layout: str = "auto"
) -> dict[str, Path | dict[str, Path]]:
    """Patient -> folder, or modality -> file if several share one; empty for the folder of a single patient.

    Folders with DICOM series are patients, too. Files that belong to no patient are logged.

    Raises:
        InputError: several files for one modality of a patient who has no folder; DICOM series of several patients in
            one folder.
    """
    task = as_task(modalities)
    cohort = find_cohort(folder, task, layout)
    cases = cohort.cases
    dicom = _dicom_patients(folder, task, cases)
    if dicom and not cases:
        return dict(dicom)
    if not dicom and (
        not cases
        or (len(cases) == 1 and cases[0].folder == folder)
        or (cases[0].folder == folder and len(cases) > 1 and _is_ambiguous(cases))
    ):
        return {}
    if cases[0].channels:
        raise InputError(f"{folder} has 4-D files (dataset.json); split them into one file per sequence")
    shared = [case.folder for case in cases]
    own = [home for home in shared if shared.count(home) == 1]  # what lies in these is told with the patient
    beside = [(path, why) for path, why in cohort.unused if not any(path.is_relative_to(home) for home in own)]
    if beside:
        logger.warning(not_used(beside, folder))
    if text := doubtful((case for case in cases if case.folder not in own), folder, task):
        logger.warning(text)
    found = {case.name: case.folder if shared.count(case.folder) == 1 else case.images for case in cases}
    return {**dicom, **found}


def _dicom_patients(folder: Path, task: Task, cases: Sequence[Case]) -> dict[str, Path]:
    """Name -> folder of the patients in DICOM; nothing where all may be of one, and no other files are there.

    Who they are of is told by the headers: patients by their numbers and names, examinations of one by their
    StudyInstanceUID, where they have the same sequences.
    """
    if any(case.folder == folder for case in cases):
        return {}
    taken = {case.folder.relative_to(folder).parts[0] for case in cases}
    found, others = recognize_series(
        find_series(path for path in _paths_below(folder) if path.relative_to(folder).parts[0] not in taken), task
    )
    wanted = [one for several in found.values() for one in several]

    def home(one: Series) -> set[Path]:
        return {folder / path.relative_to(folder).parts[0] if path.parent != folder else folder for path in one.files}

    known = set().union(*map(home, wanted))
    strange = sorted({path.name for one, _ in others for path in home(one)} - {path.name for path in known})
    if strange and (known or cases):
        why = f"DICOM, with no series whose description tells a sequence of {task.name}"
        logger.warning(f"not used: {_listed(strange)} ({why})")
    if cases:
        return {path.name: path for path in sorted(known) if path != folder}
    twice = any(len({one.study for one in several}) > 1 for several in found.values())
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in wanted:
        groups.setdefault((one.patient, one.study if twice else ""), []).append(one)
    homes = [set().union(*(home(one) for one in group)) for group in groups.values()]
    if len(groups) < 2:
        return {}
    if any(len(place) > 1 or folder in place for place in homes) or len(set().union(*homes)) < len(homes):
        names = ", ".join(group[0].text for group in list(groups.values())[:4])
        raise InputError(
            f"{folder} has DICOM series of several patients or examinations by their headers ({names}); put those of "
            "each into a folder of its own"
        )
    return {place.name: place for place in sorted(set().union(*homes))}


def _find_dicom(folder: Path, task: Task, given: Mapping[str, Path]) -> dict[str, Path]:
    """`find_files` for DICOM series; empty if there are none."""
    series = find_series(_paths_below(folder))
    if not series:
        return {}
    candidates, others = recognize_series(series, task)
    candidates = {m: found for m, found in candidates.items() if m not in given}
    check_one_patient([one for found in candidates.values() for one in found])
    for modality, found in candidates.items():
        if len(found) > 1:
            names = ", ".join(one.text for one in found)
            raise InputError(
                f"{folder} has {len(found)} series for {modality}: {names}; add --{modality} with a file of the "
                "right one"
            )
    if not candidates and not given:
        names = ", ".join(one.text for one in series[:8])
        raise InputError(
            f"{folder} has no series whose description tells what it is ({names}); give a file of each by "
            f"{', '.join(f'--{m}' for m in task.modality_names)}"
        )
    if others:
        more = f", and {len(others) - 8} more" if len(others) > 8 else ""
        logger.warning("not used: " + ", ".join(f"'{one.description}' ({why})" for one, why in others[:8]) + more)
    read = ((f"'{found[0].description}'", m, found[0].description) for m, found in candidates.items())
    if text := doubtful_names((name, m, unknown_words(description, task)) for name, m, description in read):
        logger.warning(text)
    paths = {**given, **{m: found[0].check().files[0] for m, found in candidates.items()}}
    return {m: paths[m] for m in task.modality_names if m in paths}


def read_cohort(path: Path, modalities: Task | Sequence[str]) -> dict[str, dict[str, Path]]:
    """Patient -> modality -> file, from a CSV with a column ``patient`` and one per modality; empty cells are absent.

    Commas, semicolons or tabs; capitals do not matter, ``case`` and ``subject`` are other words for ``patient``.
    Relative paths start from the folder of the CSV.

    Raises:
        InputError: not such a table, or a patient twice.
    """
    task, table = as_task(modalities), read_table(path)
    words = {"case", "subject", "patient_id", "case_id", "subject_id"}
    who = [c for c in table.columns if c.lower() == "patient"] or [c for c in table.columns if c.lower() in words]
    try:
        columns = {c: task.resolve(c) for c in table.columns if c not in who[:1]}
    except UsageError as error:
        raise InputError(f"{path}: {error}; columns are patient and the sequences") from error
    if not who or not len(table) or not columns or len(set(columns.values())) < len(columns):
        raise InputError(f"{path} needs a column 'patient', one column per sequence, and a row per patient")
    names = table[who[0]]
    if (twice := names.duplicated() | ~names.str.fullmatch(r"[^/\\]*[^/\\.][^/\\]*")).any():
        raise InputError(f"{path}: '{names[twice].iloc[0]}' is there twice or cannot be the name of a folder")
    cohort = {
        row[who[0]]: {m: path.parent / row[c] for c, m in columns.items() if row[c].lower() not in EMPTY}
        for row in table.to_dict("records")
    }
    if nothing := [name for name, files in cohort.items() if not files]:
        raise InputError(f"{path}: {nothing[0]} has no file at all; give one or take the row out")
    return cohort
