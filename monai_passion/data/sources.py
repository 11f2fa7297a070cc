"""Which file is which sequence: by its name, as BraTS, BIDS and scanners give them. What is not clear is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from monai_passion.errors import InputError, UsageError
from monai_passion.modalities import ALIASES, resolve

__all__ = ["find_files", "find_patients", "read_cohort", "recognise"]

ENDINGS = (".nii.gz", ".nii")
NO_IMAGE = re.compile(
    r"seg|mask|label|prob|\b(gd|roi|adc|dwi|dti|swi|swan|bold|fmri|perf|asl|pwi|dsc|dce|cbv|cbf|localizer|scout|t2star\w*|t2s)\b"
)
"""Names of what is no anatomical sequence of ours; MyoPS calls its labels gd."""
CONTRAST = re.compile(r"\b(c|ce|gd|gad|gado|gadolinium|post|postcontrast|contrast|km|enhanced|mdc)\b|\+ ?c\b")
PLAIN = re.compile(r"\b(no|non|pre|without|w/?o|native|sans) ?(c|ce|gd|gad|contrast|km)?\b")


def recognise(name: str, modalities: Sequence[str]) -> str | None:
    """The modality that a file of this name holds, None where the name does not tell.

    ``BraTS20_001_t1ce.nii.gz``, ``sub-01_ce-gadolinium_T1w.nii.gz``, ``AX T1 POST GAD.nii`` are all ``t1c``.
    """
    stem = name.lower()
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    last = re.split(r"[_\-. ]", stem)[-1]
    known = {alias: m for m in modalities for alias in (m, *ALIASES.get(m, ()))}
    if last in known and known[last] not in ("t1", "t2"):
        return known[
            last
        ]  # the role of a BraTS or MyoPS file; "t1" may still be said to have contrast, "t2" be a FLAIR
    words = " ".join(re.split(r"[_\-.\s]+", stem))
    if NO_IMAGE.search(words):
        return None
    found = {known[word] for word in words.split() if word in known}
    if found & {"t1", "t1c"} or re.search(r"\b(t1\w*|\w*mprage|\w*spgr|bravo)\b", words):  # a T1 FLAIR is a T1
        contrast = "t1c" in found or (CONTRAST.search(words) and not PLAIN.search(words))
        found = {"t1c" if contrast else "t1"} | (found - {"t1", "t1c", "flair"})
    elif "flair" in words:
        found = {"flair"}
    elif re.search(r"\bt2\w*\b", words) and "flair" not in found:
        found.add("t2")
    return found.pop() if len(found) == 1 and found <= set(modalities) else None


def find_files(folder: Path, modalities: Sequence[str], given: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Modality -> file, of the NIfTI files directly in a patient's folder, or in its ``anat`` (BIDS).

    Where there is none, the DICOM series in it are looked through, up to three folders deep; a series is given by one
    of its files. For the modalities in ``given`` no file is looked for: theirs is there.

    Raises:
        InputError: two files for one modality, or none for any.
    """
    paths = _images(folder) or _images(folder / "anat")
    if not paths and (found := _find_dicom(folder, modalities, given or {})):
        return found
    candidates: dict[str, list[Path]] = {m: [path] for m, path in (given or {}).items()}
    for path in paths:
        if (modality := recognise(path.name, modalities)) is not None and modality not in (given or {}):
            candidates.setdefault(modality, []).append(path)
    for modality, files in candidates.items():
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise InputError(
                f"{folder} has {len(files)} files for {modality} ({names}); add --{modality} with the right one"
            )
    if not candidates:
        names = ", ".join(path.name for path in paths[:8]) or "no NIfTI files"
        raise InputError(
            f"{folder} has no sequence that its name tells ({names}); give the files by "
            f"{', '.join(f'--{m}' for m in modalities)}"
        )
    return {m: candidates[m][0] for m in modalities if m in candidates}


def _find_dicom(folder: Path, modalities: Sequence[str], given: Mapping[str, Path]) -> dict[str, Path]:
    """As `find_files`; nothing where there is no DICOM."""
    from monai_passion.data.dicom import find_series, recognise_series

    series = find_series(path for depth in ("*", "*/*", "*/*/*", "*/*/*/*") for path in folder.glob(depth))
    if not series:
        return {}
    if len({one.patient for one in series}) > 1:
        raise InputError(f"{folder} has series of several patients (PatientID); give one patient's folder, or a CSV")
    candidates = {m: found for m, found in recognise_series(series, modalities).items() if m not in given}
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
            f"{', '.join(f'--{m}' for m in modalities)}"
        )
    paths = {**given, **{m: found[0].files[0] for m, found in candidates.items()}}
    return {m: paths[m] for m in modalities if m in paths}


def find_patients(folder: Path, modalities: Sequence[str]) -> dict[str, Path]:
    """Patient -> folder: every folder below, up to two levels (BIDS sessions), with a sequence in it."""
    found: dict[str, Path] = {}
    for depth in ("*", "*/*"):
        for path in sorted(folder.glob(depth)):
            if path.is_dir() and path.name != "anat" and path.parent not in found.values():
                images = _images(path) or _images(path / "anat")
                if any(recognise(image.name, modalities) for image in images):
                    found["_".join(path.relative_to(folder).parts)] = path
    return found


def read_cohort(path: Path, modalities: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Patient -> modality -> file, of a CSV with a column ``patient`` and one a modality; an empty cell is absent.

    Relative paths start from the folder of the CSV.

    Raises:
        InputError: not such a table, or a patient twice.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a CSV ({' '.join(str(error).split())}); check it") from error
    try:
        columns = {c: resolve(c, modalities) for c in table.columns if c != "patient"}
    except UsageError as error:
        raise InputError(f"{path}: {error}; columns are patient and the sequences") from error
    if "patient" not in table or not len(table) or not columns or len(set(columns.values())) < len(columns):
        raise InputError(f"{path} needs a column 'patient', one column a sequence, and a row a patient")
    if (twice := table["patient"].duplicated() | ~table["patient"].str.fullmatch(r"[^/\\]*[^/\\.][^/\\]*")).any():
        raise InputError(f"{path}: '{table['patient'][twice].iloc[0]}' is there twice or is no name for a folder")
    return {
        row["patient"]: {m: path.parent / row[c].strip() for c, m in columns.items() if row[c].strip()}
        for row in table.to_dict("records")
    }


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(ENDINGS) and path.is_file())
