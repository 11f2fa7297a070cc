"""The way of one patient through `predict`: read, segment, measure, draw, put in place."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from monai_passion.data.dicom import as_nifti, original_names, write_segmentation
from monai_passion.data.nifti import MAX_VOXELS
from monai_passion.data.patient import FEW_SLICES, Patient, Remark, read_patient
from monai_passion.errors import UsageError
from monai_passion.prediction.checks import (
    doubt_expectation,
    doubt_images,
    doubt_result,
    expected_quality,
    find_summary,
)
from monai_passion.prediction.output.html import make_page
from monai_passion.prediction.output.images import write_labels, write_map
from monai_passion.prediction.output.preview import canonical, preview
from monai_passion.prediction.output.report import make_report
from monai_passion.prediction.segmenter import BundleFacts, Segmentation, Segmenter
from monai_passion.system.memory import peak_memory_mb
from monai_passion.system.output import output_folder, writing

__all__ = ["Options", "Stage", "predict_patient", "silent"]


class Options(NamedTuple):
    """How one patient is handled; see ``monai-passion predict --help``."""

    reference: str | None = None
    register: bool = False
    decode: str = "fused"
    """See `Segmenter.segment`."""
    probabilities: bool = False
    """Whether to write ``probabilities.nii.gz``."""
    overwrite: bool = False
    allow_duplicate: bool = False
    keep_names: bool = False
    dicom_seg: bool = False
    """Whether to write ``segmentation.dcm``; the reference has to be a DICOM series."""
    page: bool = True
    """Whether to write ``report.html``."""
    max_voxels: int = MAX_VOXELS


DEFAULTS = Options()


class Stage(Protocol):
    """Is called with the name of each step as it begins, and again with the share of it that is done, in [0, 1]."""

    def __call__(self, name: str, share: float = 0.0) -> object: ...


def silent(name: str, share: float = 0.0) -> None:
    """The `Stage` that tells nobody."""


def predict_patient(
    files: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    bundle: BundleFacts,
    open_segmenter: Callable[[], Segmenter],
    options: Options = DEFAULTS,
    stage: Stage = silent,
) -> dict[str, Any]:
    """Segment one patient into ``output``: ``segmentation.nii.gz``, ``report.json``, ``preview.png``, ``report.html``.

    The folder is there as a whole, or not at all.

    Args:
        files: modality -> NIfTI file or DICOM series (its folder, or one of its files), any non-empty subset of the
            bundle's modalities.
        output: the folder.
        bundle: from `find_bundle`.
        open_segmenter: gives the `Segmenter`; called once the files are known to be good.
        options: see `Options`.
        stage: told what goes on.

    Returns:
        The content of ``report.json``.

    Raises:
        PassionError: see `read_patient`, `Segmenter` and `output_folder`.
    """
    output, seconds = Path(output), Stopwatch(stage)
    paths = [Path(path) for path in files.values()]
    with output_folder(output, paths, options.overwrite) as folder, TemporaryDirectory() as converted:
        seconds.start("reading")
        given = {m: Path(path) for m, path in files.items()}
        nifti, series, doubts = as_nifti(given, Path(converted), options.max_voxels)
        with original_names({m: path for m, path in nifti.items() if m in series}, given):
            patient = read_patient(
                nifti,
                bundle.modalities,
                reference=options.reference,
                register=options.register,
                allow_duplicate=options.allow_duplicate,
                max_voxels=options.max_voxels,
                min_slices=FEW_SLICES if bundle.spatial_dims == 3 else 1,
            )
        patient = patient._replace(remarks=(*(Remark("warning", text) for text in doubts), *patient.remarks))
        if options.dicom_seg and patient.reference_name not in series:
            raise UsageError(
                f"--dicom-seg wants the reference, {patient.reference_name}, as a DICOM series; give it as one, or "
                "choose another by --reference"
            )
        seconds.start("loading the network")
        segmenter = open_segmenter()
        seconds.start("segmenting")
        result = segmenter.segment(
            patient.volumes, options.decode, options.probabilities, lambda share: stage("segmenting", share)
        )
        seconds.start("writing")
        report = _report(segmenter, patient, result)
        if options.keep_names:
            report["files"] = {m: str(path) for m, path in given.items()}
        with writing(output):
            _write_images(folder, patient, result)
            if options.dicom_seg:
                names = {row["value"]: row["name"] for row in report["labels"]}
                chosen = series[patient.reference_name]
                affine = patient.reference.affine
                write_segmentation(folder / "segmentation.dcm", result.labels, affine, names, chosen, bundle.name)
            _draw(folder / "preview.png", patient, result.labels, report)
            report["seconds"], report["peak_memory_mb"] = seconds.stop(), peak_memory_mb()
            if options.page:
                images = {m: volume.data for m, volume in patient.used.items()}
                page = make_page(images, result.labels, patient.reference.affine, report)
                (folder / "report.html").write_text(page, encoding="utf-8")
            (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


class Stopwatch:
    """Seconds of each stage; tells ``stage`` when one begins."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.seconds: dict[str, float] = {}
        self.name, self.began = "", 0.0

    def start(self, name: str) -> None:
        self.stop()
        self.name, self.began = name, time.monotonic()
        self.stage(name)

    def stop(self) -> dict[str, float]:
        if self.name:
            self.seconds[self.name] = round(time.monotonic() - self.began, 2)
        return self.seconds


def _write_images(folder: Path, patient: Patient, result: Segmentation) -> None:
    like = patient.reference.path
    write_labels(folder / "segmentation.nii.gz", result.labels, like)
    if result.uncertainty is not None:
        write_map(folder / "uncertainty.nii.gz", result.uncertainty, like)
    if result.probabilities is not None:
        write_map(folder / "probabilities.nii.gz", result.probabilities, like)
    for name, labels in result.combinations.items():
        write_labels(folder / f"segmentation_{name}.nii.gz", labels, like)


def _report(segmenter: Segmenter, patient: Patient, result: Segmentation) -> dict[str, Any]:
    from monai_passion.system.files import sha256

    bundle, values, used = segmenter.bundle, segmenter.bundle.label_values, list(patient.used)
    regions = {name: [values[k] for k in classes] for name, classes in bundle.regions.items()}
    summary = find_summary(segmenter.weights)
    quality = expected_quality(summary, used, bundle.modalities) if summary else []
    remarks = [
        *patient.remarks,
        *doubt_images(patient.used, bundle.modalities),
        *doubt_expectation(quality, used),
        *doubt_result(result.labels, patient.used, result.outside),
        *result.remarks,
    ]
    return make_report(
        result,
        patient.reference.affine,
        label_names=dict(zip(values[1:], bundle.class_names[1:], strict=True)),
        regions=regions,
        bundle={"name": bundle.name, "version": bundle.version},
        weights={"file": segmenter.weights.name, "sha256": sha256(segmenter.weights)},
        device=result.device,
        settings=segmenter.settings,
        modalities={"used": used, "absent": patient.absent, "reference": patient.reference_name},
        expected_quality=quality,
        remarks=[remark._asdict() for remark in remarks],
    )


def _draw(path: Path, patient: Patient, labels: NDArray[np.unsignedinteger], report: Mapping[str, Any]) -> None:
    names = {row["value"]: f"{row['name']} {row['volume_ml']:.1f} mL" for row in report["labels"]}
    absent = f"without {', '.join(patient.absent)}" if patient.absent else "with every modality"
    images = {m: volume.data for m, volume in patient.used.items()}
    scene = canonical(images, labels, patient.reference.affine)
    figure = preview(scene, names, f"{report['bundle']['name']}\n{absent}")
    figure.savefig(path, facecolor=figure.get_facecolor())
