"""A label map as DICOM SEG, by highdicom: the extra ``dicom``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_passion import __version__
from monai_passion.data.dicom import Series, read_header, slice_affine
from monai_passion.data.geometry import LPS
from monai_passion.errors import UsageError
from monai_passion.tasks import ClassLabel

__all__ = ["check_segmentable", "write_segmentation"]

TISSUE = ("85756007", "SCT", "Tissue")
"""Code for classes without a code of their own."""
ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")
COPIED = {
    "PatientID": ".*",
    "PatientName": ".*",
    "PatientBirthDate": r"\d{8}",
    "PatientSex": "[MFO]",
    "StudyID": ".*",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "AccessionNumber": ".*",
}
"""Attributes that a DICOM SEG copies from its images -> required form; empty if the images lack one or have another
form, for example if the patient's sex or a date was removed."""
REFERRED = ("FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
"""Attributes by which it refers to the images."""


def write_segmentation(
    path: Path,
    labels: NDArray[np.unsignedinteger],
    affine: NDArray[np.float64],
    classes: Sequence[ClassLabel],
    series: Series,
    algorithm: str,
) -> None:
    """Write a label map as DICOM SEG, one segment per label, on the frames of a series.

    Patient and study are those of the series, as the standard requires.

    Args:
        path: of the new file.
        labels: (X, Y, Z).
        affine: voxel of ``labels`` -> mm in RAS+; each voxel of the series gets the nearest label.
        classes: of the task, background left out.
        series: the images that were segmented.
        algorithm: what segmented them.

    Raises:
        UsageError: see `check_segmentable`.
    """
    sources = _referred(series)
    frames = np.zeros(series.shape, np.uint8)
    values = [label.value for label in classes]
    numbers = np.zeros(max(values, default=0) + 1, np.uint8)
    numbers[values] = np.arange(1, len(values) + 1)
    rows, columns = np.meshgrid(*(np.arange(n) for n in series.shape[1:]), indexing="ij")
    for frame, source in zip(frames, sources, strict=True):
        voxels = np.linalg.inv(affine) @ LPS @ slice_affine(source)
        places = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1) @ voxels.T
        index = np.rint(places[..., :3]).astype(int)
        inside = ((index >= 0) & (index < labels.shape)).all(axis=-1)
        frame[inside] = numbers[labels[tuple(index[inside].T)]]
    _segmentation(sources, frames, classes, algorithm).save_as(path)


def _referred(series: Series) -> list[Any]:
    """The headers of a series, as a DICOM SEG refers to them.

    Raises:
        UsageError: it is one multi-frame file, or lacks what it would be referred to by.
    """
    if len(series.files) != series.shape[0]:
        raise UsageError("--dicom-seg wants a series of single images; this one is a multi-frame file")
    sources = [read_header(file, stop_before_pixels=True) for file in series.files]
    for file, source in zip(series.files, sources, strict=True):
        if lacking := [keyword for keyword in REFERRED if not source.get(keyword)]:
            raise UsageError(f"--dicom-seg wants a {lacking[0]}, which {file} lacks; leave --dicom-seg out")
    ends = [np.asarray(source.ImagePositionPatient, float) for source in (sources[0], sources[-1])]
    distance = float(np.linalg.norm(ends[1] - ends[0])) / max(len(sources) - 1, 1) or 1.0
    for source in sources:
        for keyword, form in COPIED.items():
            if keyword not in source or not re.fullmatch(form, str(source.get(keyword) or "")):
                setattr(source, keyword, "")
        if source.get("SliceThickness") in (None, ""):
            source.SliceThickness = distance
    return sources


def _segmentation(
    sources: Sequence[Any], frames: NDArray[np.uint8], classes: Sequence[ClassLabel], algorithm: str
) -> Any:
    """A DICOM SEG of frames, whose values are the numbers of the classes from 1 on."""
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

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
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        omit_empty_frames=bool(frames.any()),  # with nothing in them all are kept, which it would warn of
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


def check_segmentable(series: Series) -> None:
    """Refuse a series for which no DICOM SEG can be made; tested with an empty one.

    Raises:
        UsageError: it is a single multi-frame file, lacks identifiers, or has values that a DICOM SEG must not have.
    """
    sources = _referred(series)
    try:
        _segmentation(sources, np.zeros(series.shape, np.uint8), [ClassLabel("any", "any", 1, "#000000")], "none")
    except Exception as error:
        raise UsageError(
            f"no DICOM SEG can be made of {series.files[0].parent} ({error}); leave --dicom-seg out"
        ) from error
