"""DICOM series as images, converted by dcm2niix: the extra ``dicom``.

A series is given by its folder, or by any one of its files where a folder holds several.
"""

from __future__ import annotations

import filecmp
import logging
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_passion.data.naming import read_description
from monai_passion.errors import InputError, PassionError, ResourceError, UsageError, first_line
from monai_passion.system.files import sha256
from monai_passion.tasks import Task

__all__ = [
    "Series",
    "as_nifti",
    "check_one_patient",
    "find_series",
    "folder_for_conversions",
    "is_dicom",
    "open_series",
    "original_names",
    "read_header",
    "recognize_series",
    "slice_affine",
    "sums_of",
]

logger = logging.getLogger(__name__)

GAP = 0.1
"""Tolerance of the position of a slice, as a share of the distance between slices."""
SHIFT = 0.5
"""Distance (mm) that the corner of a slice may lie off the line along the normal of the slices."""
KINDS = ("MR", "CT", "PT")
"""Values of Modality that images of patients have."""
ANONYMOUS = r"(anon\w*|unknown|none|null|patient|de-?identified|removed|x+|0+|no ?name|not ?available|n/?a)?"
"""Words in place of a patient's name that was removed."""
TIMEOUT = 600
"""Seconds that a conversion may take."""
_TAGS = [
    *(
        "SOPClassUID",
        "SOPInstanceUID",
        "Modality",
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SeriesDescription",
    ),
    *("ProtocolName", "ImageType", "ContrastBolusAgent", "Rows", "Columns", "NumberOfFrames", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PatientName", "PatientBirthDate"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


class Series(NamedTuple):
    """One series of images, as its headers have it, from all folders that its files lie in."""

    description: str
    contrast: bool
    """Whether a contrast agent is named."""
    patient: str
    """The patient by the headers: PatientID, name and date of birth; "" if they are empty."""
    study: str
    files: tuple[Path, ...]
    """In order along the normal of the slices."""
    shape: tuple[int, int, int]
    """Slices (or frames), rows, columns."""
    problem: str = ""
    """Why it is not a volume; "" if it is one."""
    is_localizer: bool = False
    copies: tuple[Path, ...] = ()
    """Files that are the same as one of ``files``, byte for byte; not used."""

    @property
    def text(self) -> str:
        return f"'{self.description}' ({self.shape[0]} images, {self.files[0]})"

    def check(self) -> Series:
        """The same series, after checking that it is a volume.

        Raises:
            InputError: it is not.
        """
        if self.problem:
            raise InputError(self.problem)
        return self


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM, with the mark "DICM" or, as old software writes it, without.

    Raises:
        InputError: the file may not be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); get access to it, or take it away") from error
    except OSError:
        return False
    return head[128:] == b"DICM" or _starts_bare(head)


def _starts_bare(head: bytes) -> bool:
    """Whether a file begins with an element of group 0002 or 0008, as DICOM without preamble does."""
    element, vr = int.from_bytes(head[2:4], "little"), head[4:6]
    return (
        head[:2] in (b"\x02\x00", b"\x08\x00")
        and element <= 0x18
        and (vr in (b"UL", b"UI", b"CS", b"SH") or not any(head[6:8]))
    )


def find_series(paths: Iterable[Path]) -> list[Series]:
    """The series of images among files, each with all its files whatever folder they lie in.

    A series that is not a volume is included, with the reason as its ``problem``: it matters only if that series is
    used.

    Raises:
        InputError: a damaged file in the folder of a series, or only damaged files.
        UsageError: the extra is not installed.
    """
    found: dict[str, list[tuple[Path, Any]]] = defaultdict(list)
    damaged: list[tuple[Path, InputError]] = []
    once: dict[tuple[int, int], Path] = {}  # a link to a file or folder is not a second one
    for path in paths:
        if path.is_file():
            once.setdefault((path.stat().st_dev, path.stat().st_ino), path)
    for path in sorted(path for path in once.values() if is_dicom(path)):
        try:
            header = _header(path, path.stat().st_mtime_ns)
        except InputError as error:
            damaged.append((path, error))
            continue
        if header.get("Modality") in KINDS and "Rows" in header:
            uid = str(header.get("SeriesInstanceUID") or "")
            found[uid or str(path.parent)].append((path, header))
    if damaged and not found:
        raise damaged[0][1]
    series = [_series(members) for members in found.values()]
    for path, why in damaged:  # may be a slice of a series beside it
        for k, one in enumerate(series):
            if any(file.parent == path.parent for file in one.files):
                series[k] = one._replace(problem=one.problem or str(why))
    return series


def open_series(path: Path) -> Series | None:
    """The series in a folder, or the series of a file; None if it is not DICOM.

    The other files of a file's series may lie beside it or in the folders beside its own.

    Raises:
        InputError: a folder with several, or a series that is not a volume.
    """
    if os.path.isdir(path):  # False where the name itself is impossible
        series = [one for one in find_series(path.iterdir()) if not one.is_localizer]
        if len(series) > 1:
            names = ", ".join(one.text for one in series)
            raise InputError(f"{path} holds {len(series)} series: {names}; give a file of the right one")
        return series[0].check() if series else None
    if not is_dicom(path):
        return None
    uid = _header(path, path.stat().st_mtime_ns).get("SeriesInstanceUID")
    around = [*path.parent.iterdir(), *_beside(path)]
    own = [
        other
        for other in around
        if other.is_file() and is_dicom(other) and (other.parent == path.parent or _is_of(other, uid))
    ]
    for one in find_series(own):
        if path in (*one.files, *one.copies):
            return one.check()
    raise InputError(f"{path} is not an image; give a series of images")


def _beside(path: Path) -> list[Path]:
    """The files of the folders beside that of a file, but not those whose first image is of another examination.

    A cohort has a folder for each patient: to read all of all of them for each one would take days.
    """
    study = _value(path, "StudyInstanceUID")
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in path.parent.parent.glob("*/*"):  # without what may not be read
        if file.parent != path.parent and file.is_file() and os.access(file, os.R_OK):
            folders[file.parent].append(file)
    found: list[Path] = []
    for files in folders.values():
        first = next(filter(is_dicom, sorted(files)), None)
        if first is not None and (not study or _value(first, "StudyInstanceUID") in (study, None)):
            found += files
    return found


def _is_of(path: Path, uid: Any) -> bool:
    return uid is not None and _value(path, "SeriesInstanceUID") == uid


def _value(path: Path, keyword: str) -> Any:
    """What the header of an image says; None where it does not, or is damaged."""
    try:
        return _header(path, path.stat().st_mtime_ns).get(keyword)
    except InputError:
        return None


def recognize_series(series: Sequence[Series], task: Task) -> tuple[dict[str, list[Series]], list[tuple[Series, str]]]:
    """Modality -> candidate series, by their descriptions; and the other series, with what they seem to be.

    A T1 with a contrast agent is a T1c.
    """
    candidates: dict[str, list[Series]] = {}
    others: list[tuple[Series, str]] = []
    for one in series:
        role, why = read_description(one.description, task, one.contrast)
        if one.is_localizer:
            others.append((one, "a localizer"))
        elif role in task.modality_names:
            candidates.setdefault(str(role), []).append(one)
        else:
            others.append((one, why or "a label map"))
    return candidates, others


def check_one_patient(series: Iterable[Series]) -> list[str]:
    """Doubts about whether series belong to one patient and one examination.

    Raises:
        InputError: their headers name different patients, or different examinations and no patient.
    """
    series = list(series)
    names = ", ".join(f"'{one.description}'" for one in series)
    if len({one.patient for one in series}) > 1:
        raise InputError(f"{names} are of several patients by their headers; give the series of one patient")
    if len({one.study for one in series}) < 2:
        nobody = len(series) > 1 and not series[0].patient and not series[0].study
        return [f"{names}: no header says whose they are; are they of one patient and examination?"] if nobody else []
    if not series[0].patient:
        raise InputError(
            f"{names} are of different examinations (StudyInstanceUID), and no header says whose; give those of one "
            "patient and examination, each in a folder of its own"
        )
    return [f"{names} are of different examinations (StudyInstanceUID)"]


def as_nifti(
    files: Mapping[str, Path], folder: Path, max_voxels: int
) -> tuple[dict[str, Path], dict[str, Series], list[str]]:
    """The files, with each DICOM series converted into ``folder``; the series; and doubts about them.

    Copies of files are not used, and are logged.

    Raises:
        InputError: series of different patients, or one that cannot be converted.
    """
    series = {m: found for m, path in files.items() if (found := open_series(path)) is not None}
    doubts = check_one_patient(series.values())
    for one in series.values():
        if one.copies:
            more = f" and {len(one.copies) - 1} more" if len(one.copies) > 1 else ""
            logger.warning(f"not used: {one.copies[0]}{more} (copies of images of '{one.description}')")
    converted = {m: _convert(one, folder / m, max_voxels) for m, one in series.items()}
    return {**files, **converted}, series, doubts


def sums_of(files: Mapping[str, Path], series: Mapping[str, Series]) -> dict[str, str]:
    """SHA-256 of each image by its modality: of its file, or of all images of its series one after the other.

    Args:
        files: modality -> NIfTI file or DICOM series.
        series: those that are DICOM, from `as_nifti`.
    """
    return {m: sha256(*(series[m].files if m in series else (path,))) for m, path in files.items()}


@contextmanager
def folder_for_conversions(files: Mapping[str, Path]) -> Iterator[Path]:
    """A temporary folder for `as_nifti`, gone at the end; none is made where nothing is DICOM, and so converted."""
    if any(os.path.isdir(path) or is_dicom(path) for path in files.values()):
        with TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield Path()


@contextmanager
def original_names(converted: Mapping[str, Path], given: Mapping[str, Path]) -> Iterator[None]:
    """Within the block, errors about converted files name the original files."""
    try:
        yield
    except PassionError as error:
        text = str(error)
        for m, path in converted.items():
            text = text.replace(str(path), str(given[m]))
        raise type(error)(text) from error


def _package(name: str) -> ModuleType:
    """A package of the extra ``dicom``."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError("DICOM needs more packages: pip install 'monai_passion[dicom]'") from error


@lru_cache(maxsize=2**14)
def _header(path: Path, changed: int) -> Any:
    """What is asked for in ``_TAGS``; ``changed`` is the time of the file, read again when that is another."""
    return read_header(path, stop_before_pixels=True, specific_tags=_TAGS)


def read_header(path: Path, **options: Any) -> Any:
    """The data set of a file, with all values decoded that this module uses.

    Args:
        path: of the file, with or without preamble and meta information.
        options: of `pydicom.dcmread`.

    Raises:
        InputError: the file is damaged.
        UsageError: the extra ``dicom`` is not installed.
    """
    pydicom = _package("pydicom")
    try:
        with path.open("rb") as file:
            bare = file.read(132)[128:] != b"DICM"
        header = pydicom.dcmread(path, force=bare, **options)
        if bare and "TransferSyntaxUID" not in header.file_meta:
            header.file_meta.TransferSyntaxUID = _syntax(*header.original_encoding)
        for name in _TAGS:
            header.get(name)
    except Exception as error:  # pydicom raises whatever a damaged file makes it stumble over
        raise InputError(f"{path} is a damaged DICOM file ({first_line(error)}); export it again") from error
    return header


def _series(members: Sequence[tuple[Path, Any]]) -> Series:
    members, copies = _without_copies(members)
    first = members[0][1]
    description = str(first.get("SeriesDescription") or first.get("ProtocolName") or "without description")
    folders = sorted({str(path.parent) for path, _ in members})
    where = f"the series '{description}' in {' and '.join(folders[:3])}"
    multi = int(first.get("NumberOfFrames") or 1) > 1
    count, problem = int(first.get("NumberOfFrames") or 1) if multi else len(members), ""
    try:
        if len({_who(header) for _, header in members}) > 1:
            raise InputError(f"{where} has images of several patients by their headers; give those of one")
        if multi and len(members) > 1:
            raise InputError(f"{where} has {len(members)} multi-frame files; give one of them in a folder of its own")
        if multi:
            order = _order(_frames(first, where), where)
            if len(order) != count:
                raise InputError(f"{where} says where {len(order)} of its {count} frames lie; export it again")
        else:
            if len({(header.get("Rows"), header.get("Columns")) for _, header in members}) > 1:
                raise InputError(f"{where} has slices of different sizes; give one volume")
            members = [members[k] for k in _order([header for _, header in members], where)]
    except InputError as error:
        problem = str(error)
    agent = str(first.get("ContrastBolusAgent") or "").strip().lower()
    kind = [str(word) for word in first.get("ImageType") or ()]
    return Series(
        description,
        agent not in ("", "no", "none", "n"),
        _who(first),
        str(first.get("StudyInstanceUID") or ""),
        tuple(path for path, _ in members),
        (count, int(first.Rows), int(first.get("Columns") or 0)),
        problem,
        "LOCALIZER" in kind,
        copies,
    )


def _without_copies(members: Sequence[tuple[Path, Any]]) -> tuple[list[tuple[Path, Any]], tuple[Path, ...]]:
    """Each image once, and the files that hold the same bytes as another, as in an archive that was copied twice."""
    alike: dict[str, list[tuple[Path, Any]]] = defaultdict(list)
    for path, header in members:
        alike[str(header.get("SOPInstanceUID") or path)].append((path, header))
    kept: list[tuple[Path, Any]] = []
    copies: list[Path] = []
    for first, *others in alike.values():
        kept.append(first)
        for other in others:
            if filecmp.cmp(first[0], other[0], shallow=False):
                copies.append(other[0])
            else:
                kept.append(other)
    return kept, tuple(copies)


def _who(header: Any) -> str:
    """PatientID, name and date of birth, as far as they say something."""
    said = [str(header.get(tag) or "").strip() for tag in ("PatientID", "PatientName", "PatientBirthDate")]
    return "/".join("" if re.fullmatch(ANONYMOUS, text, re.IGNORECASE) else text for text in said).strip("/")


class _Frame(NamedTuple):
    """The place in space of one slice of a multi-frame file, with the names of a slice's header."""

    ImageOrientationPatient: Any
    PixelSpacing: Any
    ImagePositionPatient: Any


def _frames(header: Any, where: str) -> list[_Frame]:
    """Where each frame of a multi-frame file lies.

    Raises:
        InputError: the file does not say it.
    """
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]

    def of(frame: Any, group: str, tag: str) -> Any:
        for place in (frame, shared):
            inner = place.get(group) if place is not None else None
            if inner and inner[0].get(tag) is not None:
                return inner[0].get(tag)
        return header.get(tag)

    frames = [
        _Frame(
            of(frame, "PlaneOrientationSequence", "ImageOrientationPatient"),
            of(frame, "PixelMeasuresSequence", "PixelSpacing"),
            of(frame, "PlanePositionSequence", "ImagePositionPatient"),
        )
        for frame in header.get("PerFrameFunctionalGroupsSequence") or ()
    ]
    if not frames:
        raise InputError(f"{where} does not say where its frames lie; export it as single images")
    return frames


def _order(slices: Sequence[Any], where: str) -> list[int]:
    """The numbers of the slices along their normal.

    Raises:
        InputError: some are missing, twice there, not parallel, or shifted sideways.
    """
    try:
        affines = [slice_affine(header) for header in slices]
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{where} does not say where its slices lie ({first_line(error)}); export it again") from error
    if any(not np.allclose(a[:3, :2], affines[0][:3, :2], atol=1e-3) for a in affines):
        raise InputError(f"{where} has slices that are not parallel; give the volume of one orientation")
    normal = np.cross(*affines[0][:3, :2].T)
    normal /= max(float(np.linalg.norm(normal)), 1e-9)
    origins = np.array([a[:3, 3] for a in affines])
    places = origins @ normal
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    if len(steps) and steps.min() < 1e-3:
        raise InputError(f"{where} has several images of one slice; give one volume (one echo, one time)")
    if len(steps) and np.abs(steps - (middle := float(np.median(steps)))).max() > GAP * middle:
        raise InputError(
            f"{where} lacks slices: they lie {middle:.3g} mm apart but for one gap of {steps.max():.3g} mm; copy all"
        )
    sideways = origins - origins[order[0]] - np.outer(places - places[order[0]], normal)
    if (shift := float(np.linalg.norm(sideways, axis=1).max())) > SHIFT:
        raise InputError(
            f"{where} is sheared: its slices are shifted sideways by up to {shift:.3g} mm; resample it "
            "to a rectangular volume and give that as NIfTI"
        )
    return [int(k) for k in order]


def slice_affine(header: Any) -> NDArray[np.float64]:
    """(4, 4): column, row, 0, 1 of one slice -> mm in LPS+.

    Raises:
        ValueError: a value is empty or not a number.
        AttributeError: the header lacks one.
    """
    cosines = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = (float(size) for size in header.PixelSpacing)
    result = np.eye(4)
    result[:3, 0], result[:3, 1] = cosines[0] * between_columns, cosines[1] * between_rows
    result[:3, 3] = np.array(header.ImagePositionPatient, dtype=np.float64)
    if not np.isfinite(result).all():  # an empty value becomes NaN
        raise ValueError("its position or orientation is empty")
    return result


def _convert(series: Series, folder: Path, max_voxels: int) -> Path:
    program = _package("dcm2niix").bin
    where = f"the series '{series.description}' in {series.files[0].parent}"
    if (count := int(np.prod(series.shape, dtype=object))) > max_voxels:
        raise InputError(f"{where} has {count} voxels, more than the {max_voxels} allowed; crop or resample it")
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    for number, file in enumerate(series.files):
        image, place = _check_pixels(file), folder / "in" / f"{number:06}.dcm"
        if image.preamble:
            place.symlink_to(file.resolve())
        else:  # dcm2niix wants the mark
            image.save_as(place, enforce_file_format=True)
    command = [str(program), "-b", "n", "-z", "n", "-f", "image", "-o", str(folder / "out"), str(folder / "in")]
    try:
        done = subprocess.run(  # noqa: S603 - the program is the package's own, the folders are ours
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{where} cannot be converted ({first_line(error)}); convert it by other means") from error
    made = sorted((folder / "out").glob("*.nii"))
    if len(made) != 1:
        if shutil.disk_usage(folder).free < 4 * count:
            raise ResourceError(f"no room to convert {where} in {folder.parent}; free some space, or set TMPDIR")
        said = first_line(next(iter((done.stderr or done.stdout).strip().splitlines()[::-1]), ""))
        raise InputError(
            f"{where} gives {len(made)} volumes where one is expected (dcm2niix: {said}); convert it by other means"
        )
    return made[0]


def _check_pixels(path: Path) -> Any:
    """The image.

    Raises:
        InputError: pixels are missing, which dcm2niix would make up.
    """
    image = read_header(path)
    try:
        size = int(image.Rows) * int(image.Columns) * int(image.get("NumberOfFrames") or 1) * image.BitsAllocated // 8
        short = not image.file_meta.TransferSyntaxUID.is_encapsulated and len(image.PixelData) < size
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} is a damaged DICOM file ({first_line(error)}); export it again") from error
    if short:
        raise InputError(f"{path} is cut short; copy or export it again")
    return image


def _syntax(implicit: bool, little: bool) -> str:
    """The transfer syntax of a file that does not say it."""
    from pydicom import uid

    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
