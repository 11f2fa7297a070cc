"""DICOM series in, by dcm2niix, and a segmentation out as DICOM SEG, by highdicom: the extra ``dicom``.

A series is given by its folder, or by any one of its files where a folder holds several.
"""

from __future__ import annotations

import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_passion import __version__
from monai_passion.data.naming import read_name
from monai_passion.errors import InputError, UsageError
from monai_passion.tasks import ClassLabel, Task

__all__ = ["Series", "as_nifti", "find_series", "is_dicom", "open_series", "recognize_series", "write_segmentation"]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's axes point left and posterior, those of NIfTI right and anterior."""
GAP = 0.1
"""Part of the distance between slices by which one may be off."""
TIMEOUT = 600
"""Seconds that a conversion may take."""
TISSUE = ("85756007", "SCT", "Tissue")
"""What a class shows that has no code of its own."""
ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")
_TAGS = [
    *("SOPClassUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription"),
    *("ProtocolName", "ImageType", "ContrastBolusAgent", "Rows", "Columns", "NumberOfFrames", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
]


class Series(NamedTuple):
    """One series of MR images, as its headers have it."""

    description: str
    contrast: bool
    """Whether a contrast agent is named."""
    patient: str
    study: str
    files: tuple[Path, ...]
    """Along the normal of the slices."""
    shape: tuple[int, int, int]
    """Slices (or frames), rows, columns."""

    @property
    def text(self) -> str:
        return f"'{self.description}' ({self.shape[0]} images, {self.files[0]})"


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's mark."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_series(paths: Iterable[Path]) -> list[Series]:
    """The MR series among files; localizers and what is no DICOM are left out.

    Raises:
        InputError: a damaged file, or slices that make no volume.
        UsageError: the extra is not installed.
    """
    found: dict[tuple[Path, str], list[tuple[Path, Any]]] = defaultdict(list)
    for path in sorted(path for path in paths if path.is_file() and is_dicom(path)):
        header = _read(path, stop_before_pixels=True, specific_tags=_TAGS)
        kind = [str(word) for word in header.get("ImageType") or ()]
        if header.get("Modality") == "MR" and "Rows" in header and "LOCALIZER" not in kind:
            found[path.parent, str(header.get("SeriesInstanceUID", ""))].append((path, header))
    return [_series(members) for members in found.values()]


def open_series(path: Path) -> Series | None:
    """The series in a folder, or the one that a file belongs to; None for what is no DICOM.

    Raises:
        InputError: a folder with several; see also `find_series`.
    """
    if os.path.isdir(path):  # False where the name itself is impossible
        series = find_series(path.iterdir())
        if len(series) > 1:
            names = ", ".join(one.text for one in series)
            raise InputError(f"{path} holds {len(series)} series: {names}; give a file of the right one")
        return series[0] if series else None
    if not is_dicom(path):
        return None
    for one in find_series(path.parent.iterdir()):
        if path in one.files:
            return one
    raise InputError(f"{path} is no MR image; give a series of MR images")


def recognize_series(series: Sequence[Series], task: Task) -> dict[str, list[Series]]:
    """Modality -> the series that may be it, by their descriptions; a T1 with a contrast agent is a T1c."""
    candidates: dict[str, list[Series]] = {}
    for one in series:
        role = read_name(one.description, task, contrast_agent=one.contrast).role
        if role in task.modality_names:
            candidates.setdefault(str(role), []).append(one)
    return candidates


def as_nifti(
    files: Mapping[str, Path], folder: Path, max_voxels: int
) -> tuple[dict[str, Path], dict[str, Series], list[str]]:
    """The files with each DICOM series converted into ``folder``, the series, and what is odd about them.

    Raises:
        InputError: series of different patients, or one that cannot be converted.
    """
    series = {m: found for m, path in files.items() if (found := open_series(path)) is not None}
    if len({one.patient for one in series.values()}) > 1:
        raise InputError(f"{', '.join(series)} are of different patients (PatientID); give series of one patient")
    doubts = []
    if len({one.study for one in series.values()}) > 1:
        doubts.append(f"{', '.join(series)} are of different examinations (StudyInstanceUID)")
    converted = {m: _convert(one, folder / m, max_voxels) for m, one in series.items()}
    return {**files, **converted}, series, doubts


def write_segmentation(
    path: Path,
    labels: NDArray[np.unsignedinteger],
    affine: NDArray[np.float64],
    classes: Sequence[ClassLabel],
    series: Series,
    algorithm: str,
) -> None:
    """Write a label map as DICOM SEG, one segment a label, on the frames of a series.

    Patient and study are those of the series, as the standard wants it.

    Args:
        path: of the new file.
        labels: (X, Y, Z).
        affine: voxel of ``labels`` -> mm in RAS+; each voxel of the series gets the nearest label.
        classes: of the task, background left out.
        series: the images that were segmented.
        algorithm: what segmented them.

    Raises:
        UsageError: the series is one multi-frame file.
    """
    _pydicom()
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if len(series.files) != series.shape[0]:
        raise UsageError("--dicom-seg wants a series of single images; this one is a multi-frame file")
    sources = [_read(file, stop_before_pixels=True) for file in series.files]
    frames = np.zeros(series.shape, np.uint8)
    values = [label.value for label in classes]
    numbers = np.zeros(max(values, default=0) + 1, np.uint8)
    numbers[values] = np.arange(1, len(values) + 1)
    rows, columns = np.meshgrid(*(np.arange(n) for n in series.shape[1:]), indexing="ij")
    for frame, source in zip(frames, sources, strict=True):
        voxels = np.linalg.inv(affine) @ LPS @ _slice_affine(source)
        places = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1) @ voxels.T
        index = np.rint(places[..., :3]).astype(int)
        inside = ((index >= 0) & (index < labels.shape)).all(axis=-1)
        frame[inside] = numbers[labels[tuple(index[inside].T)]]
    identification = hd.AlgorithmIdentificationSequence(
        name=algorithm, version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label.name,
            segmented_property_category=Code(*(ABNORMAL if label.code else TISSUE)),
            segmented_property_type=Code(*(label.code or TISSUE)),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identification,
        )
        for number, label in enumerate(classes, 1)
    ]
    result = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=9000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="monai_passion",
        manufacturer_model_name=algorithm,
        software_versions=__version__,
        device_serial_number="0",
        series_description="Research use only: segmentation by monai_passion",
    )
    result.save_as(path)


def _pydicom() -> ModuleType:
    try:
        import pydicom
    except ImportError as error:
        raise UsageError("DICOM needs more packages: pip install 'monai_passion[dicom]'") from error
    return pydicom


def _read(path: Path, **options: Any) -> Any:
    """The data set, with every value decoded that is asked for."""
    pydicom = _pydicom()
    try:
        header = pydicom.dcmread(path, **options)
        for name in _TAGS:
            header.get(name)
    except Exception as error:  # pydicom raises whatever a damaged file makes it stumble over
        raise InputError(f"{path} is a damaged DICOM file ({_line(str(error))}); export it again") from error
    return header


def _series(members: Sequence[tuple[Path, Any]]) -> Series:
    """Raises:
    InputError: slices that are missing, twice there, or not parallel.
    """
    first = members[0][1]
    description = str(first.get("SeriesDescription") or first.get("ProtocolName") or "without description")
    where = f"the series '{description}' in {members[0][0].parent}"
    multi = int(first.get("NumberOfFrames") or 1) > 1
    if multi and len(members) > 1:
        raise InputError(f"{where} has {len(members)} multi-frame files; give one of them in a folder of its own")
    count = int(first.get("NumberOfFrames") or 1) if multi else len(members)
    if not multi:
        members = _in_order(members, where)
    agent = str(first.get("ContrastBolusAgent") or "").strip().lower()
    return Series(
        description,
        agent not in ("", "no", "none", "n"),
        str(first.get("PatientID") or ""),
        str(first.get("StudyInstanceUID") or ""),
        tuple(path for path, _ in members),
        (count, int(first.Rows), int(first.get("Columns") or 0)),
    )


def _in_order(members: Sequence[tuple[Path, Any]], where: str) -> list[tuple[Path, Any]]:
    try:
        affines = [_slice_affine(header) for _, header in members]
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{where} does not say where its slices lie ({_line(str(error))}); export it again") from error
    if any(not np.allclose(a[:3, :2], affines[0][:3, :2], atol=1e-3) for a in affines):
        raise InputError(f"{where} has slices that are not parallel; give the volume of one orientation")
    if len({(header.get("Rows"), header.get("Columns")) for _, header in members}) > 1:
        raise InputError(f"{where} has slices of different sizes; give one volume")
    normal = np.cross(*affines[0][:3, :2].T)
    places = np.array([a[:3, 3] for a in affines]) @ (normal / max(float(np.linalg.norm(normal)), 1e-9))
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    if len(steps) and steps.min() < 1e-3:
        raise InputError(f"{where} has several images of one slice; give one volume (one echo, one time)")
    if len(steps) and np.abs(steps - (middle := float(np.median(steps)))).max() > GAP * middle:
        raise InputError(
            f"{where} lacks slices: they lie {middle:.3g} mm apart but for one gap of {steps.max():.3g} mm; copy all"
        )
    return [members[k] for k in order]


def _slice_affine(header: Any) -> NDArray[np.float64]:
    """(4, 4): column, row, 0, 1 of one slice -> mm in LPS+."""
    cosines = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = (float(size) for size in header.PixelSpacing)
    result = np.eye(4)
    result[:3, 0], result[:3, 1] = cosines[0] * between_columns, cosines[1] * between_rows
    result[:3, 3] = np.array(header.ImagePositionPatient, dtype=np.float64)
    if not np.isfinite(result).all():  # an empty value becomes NaN
        raise ValueError("its position or orientation is empty")
    return result


def _convert(series: Series, folder: Path, max_voxels: int) -> Path:
    try:
        from dcm2niix import bin as program
    except ImportError as error:
        raise UsageError("DICOM needs more packages: pip install 'monai_passion[dicom]'") from error

    where = f"the series '{series.description}' in {series.files[0].parent}"
    if (count := int(np.prod(series.shape, dtype=object))) > max_voxels:
        raise InputError(f"{where} has {count} voxels, more than the {max_voxels} allowed; crop or resample it")
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    for number, file in enumerate(series.files):
        _check_pixels(file)
        (folder / "in" / f"{number:06}.dcm").symlink_to(file.resolve())
    command = [str(program), "-b", "n", "-z", "n", "-f", "image", "-o", str(folder / "out"), str(folder / "in")]
    try:
        done = subprocess.run(  # noqa: S603 - the program is the package's own, the folders are ours
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{where} cannot be converted ({_line(str(error))}); convert it by other means") from error
    made = sorted((folder / "out").glob("*.nii"))
    if len(made) != 1:
        said = _line((done.stderr or done.stdout).strip().splitlines()[-1] if done.stderr or done.stdout else "")
        raise InputError(
            f"{where} gives {len(made)} volumes where one is expected (dcm2niix: {said}); convert it by other means"
        )
    return made[0]


def _check_pixels(path: Path) -> None:
    """Raises:
    InputError: pixels are missing, which dcm2niix would make up.
    """
    image = _read(path)
    try:
        size = int(image.Rows) * int(image.Columns) * int(image.get("NumberOfFrames") or 1) * image.BitsAllocated // 8
        short = not image.file_meta.TransferSyntaxUID.is_encapsulated and len(image.PixelData) < size
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} is a damaged DICOM file ({_line(str(error))}); export it again") from error
    if short:
        raise InputError(f"{path} is cut short; copy or export it again")


def _line(text: str) -> str:
    return " ".join(text.split())[:200] or "no reason given"
