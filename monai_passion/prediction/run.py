"""The steps of `predict` for one patient: read, segment, measure, draw, move into place."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

from monai_passion.bundle.facts import BundleFacts
from monai_passion.data.dicom import Series, as_nifti, folder_for_conversions, original_names, sums_of
from monai_passion.data.layouts import READ
from monai_passion.data.naming import read_name
from monai_passion.data.nifti import MAX_VOXELS, read_volume
from monai_passion.data.patient import FEW_SLICES, Finding, Patient, read_patient
from monai_passion.data.plausibility import check_images
from monai_passion.errors import UsageError
from monai_passion.modalities import combinations
from monai_passion.prediction.checks import check_result
from monai_passion.prediction.expectation import (
    check_edges,
    check_expectation,
    check_measured,
    check_slices,
    check_spacing,
    check_training,
    expected_quality,
    find_summary,
)
from monai_passion.prediction.output.dicom_seg import check_segmentable, write_segmentation
from monai_passion.prediction.output.html import make_page
from monai_passion.prediction.output.images import write_labels, write_map
from monai_passion.prediction.output.preview import preview
from monai_passion.prediction.output.report import make_report, most_helpful
from monai_passion.prediction.output.stages import StagePicture, stage_picture
from monai_passion.prediction.segmenter import Segmentation, Segmenter
from monai_passion.system.files import sha256
from monai_passion.system.memory import peak_memory_mb
from monai_passion.system.output import output_folder, writing
from monai_passion.tasks import Task

__all__ = ["Examined", "Options", "Stage", "Tell", "check_patient", "examine", "predict_patient", "silent"]


class Options(NamedTuple):
    """The options for one patient; see ``monai-passion predict --help``."""

    reference: str | None = None
    register: bool = False
    skull_strip: bool = False
    stripper: str = "deepbet"
    """See `monai_passion.data.stripping`."""
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
RESULTS = (
    *("segmentation.nii.gz", "segmentation.dcm", "uncertainty.nii.gz", "probabilities.nii.gz", "brain_mask.nii.gz"),
    *("preview.png", "report.html", "report.json"),
)
"""Files of a result, besides those of each combination; what an earlier run left of them is not the new one's."""
SAME_BRAIN = 0.9
"""Dice of the brain masks of two sequences of one examination."""
BRAIN_ML = (800, 2000)
"""Volume of a brain with its ventricles."""


class Stage(Protocol):
    """Called with the name of each step as it begins, and again with the share that is done, in [0, 1]."""

    def __call__(self, name: str, share: float = 0.0) -> object: ...


def silent(name: str, share: float = 0.0) -> None:
    """A `Stage` that does nothing."""


Tell = Callable[[Finding], object]
"""Called with each finding as soon as there is one."""


class Examined(NamedTuple):
    """The files of a patient, read and judged."""

    patient: Patient
    series: Mapping[str, Series]
    """Modality -> its DICOM series, if it was given as one."""
    findings: tuple[Finding, ...]
    """About the files and the images."""
    mask: NDArray[np.bool_] | None = None
    """The brain, if skulls were stripped."""
    pictures: tuple[StagePicture, ...] = ()
    """Pictures of registration and skull stripping."""


def examine(
    files: Mapping[str, Path],
    bundle: BundleFacts,
    options: Options,
    converted: Path,
    tell: Tell = lambda finding: None,
    start: Callable[[str], object] = lambda name: None,
) -> Examined:
    """Read a patient's files and find what is doubtful about them, before anything is computed.

    Args:
        files: modality -> NIfTI file or DICOM series.
        bundle: from `find_bundle`.
        options: see `Options`.
        converted: an empty folder for NIfTI files converted from DICOM.
        tell: called with each finding.
        start: called with the name of each step as it begins.

    Raises:
        UsageError: ``skull_strip`` for another anatomy, or ``dicom_seg`` without a DICOM series that allows one.
        PassionError: see `read_patient`.
    """
    start("reading and registering" if options.register else "reading")
    if options.skull_strip and bundle.task.anatomy != "brain":
        raise UsageError(f"--skull-strip is for heads; {bundle.name} is about the {bundle.task.anatomy}; leave it out")
    nifti, series, doubts = as_nifti(dict(files), converted, options.max_voxels)
    with original_names({m: path for m, path in nifti.items() if m in series}, files):
        patient = read_patient(
            nifti,
            bundle.modalities,
            reference=options.reference,
            register=options.register,
            allow_duplicate=options.allow_duplicate,
            max_voxels=options.max_voxels,
            min_slices=FEW_SLICES if bundle.spatial_dims == 3 else 1,
        )
    if options.dicom_seg and patient.reference_name not in series:
        raise UsageError(
            f"--dicom-seg wants the reference, {patient.reference_name}, as a DICOM series; give it as one, or "
            "choose another by --reference"
        )
    if options.dicom_seg:
        check_segmentable(series[patient.reference_name])
    mask, stripping, pictures, titles = None, list[Finding](), list[StagePicture](), bundle.task.titles
    heads = patient.used
    if options.skull_strip:
        start("removing the skull")
        patient, mask, stripping = _strip(patient, options.stripper)
    if options.register or options.skull_strip:
        given = {m: read_volume(nifti[m], max_voxels=options.max_voxels) for m in heads}
        pictures = [
            stage_picture("As given", given, titles),
            stage_picture(f"On the grid of {titles[patient.reference_name]}", heads, titles, mask),
        ]
    if options.skull_strip:
        pictures.append(stage_picture("Brain, skull removed", patient.used, titles))
    findings = (
        *(Finding("warning", text) for text in (*doubts, *_misnamed(files, bundle.task))),
        *patient.findings,
        *stripping,
        *check_images(patient.used, bundle.task),
    )
    for finding in findings:
        tell(finding)
    return Examined(patient, series, findings, mask, tuple(pictures))


def _misnamed(files: Mapping[str, str | os.PathLike[str]], task: Task) -> list[str]:
    """Warnings about NIfTI files whose names tell another sequence than the given one."""
    names = {m: os.path.basename(path) for m, path in files.items()}
    told = {m: read_name(name, task).role for m, name in names.items() if name.lower().endswith(READ)}
    return [
        f"{m}: the name of its file says {task.titles[role]}; is it the right file?"
        for m, role in told.items()
        if role in task.titles and role != m
    ]


def _strip(patient: Patient, stripper: str) -> tuple[Patient, NDArray[np.bool_], list[Finding]]:
    """The patient without skull, the mask of the brain, and what is to be said of it."""
    from monai_passion.data.stripping import strip

    found = strip(patient.used, stripper)
    volumes = tuple(
        None if volume is None else found.volumes[m]
        for m, volume in zip(patient.modalities, patient.volumes, strict=True)
    )
    text = f"skull stripped by the mask of {found.modality}: a brain of {found.brain_ml:.0f} mL"
    findings = [Finding("note", text)]
    if found.agreement < SAME_BRAIN:
        text = f"brain masks of the sequences agree by a mean Dice of {found.agreement:.2f} only; see brain_mask.nii.gz"
        findings.append(Finding("warning", text))
    if not BRAIN_ML[0] <= found.brain_ml <= BRAIN_ML[1]:
        text = f"the brain mask has {found.brain_ml:.0f} mL, which no adult brain has; look at brain_mask.nii.gz"
        findings.append(Finding("warning", text))
    return patient._replace(volumes=volumes), found.mask, findings


def check_patient(
    files: Mapping[str, str | os.PathLike[str]],
    bundle: BundleFacts,
    options: Options = DEFAULTS,
    weights: Path | None = None,
    stage: Stage = silent,
    tell: Tell = lambda finding: None,
) -> dict[str, Any]:
    """Judge the files of one patient and stop there: nothing is computed, nothing is written.

    Args:
        weights: their training and evaluation tell what to expect; None to leave that out.

    Returns:
        ``modalities``, ``expected_quality``, ``most_helpful`` and ``findings``, as in ``report.json``.

    Raises:
        PassionError: see `read_patient`.
    """
    given = {m: Path(path) for m, path in files.items()}
    with folder_for_conversions(given) as converted:
        patient, _, findings, *_ = examine(given, bundle, options, converted, tell, stage)
    expected = _expected(find_summary(weights) if weights else None, bundle)
    used = list(patient.used)
    quality = expected.get("+".join(used), [])
    doubts = _check_weights(_with_pixels(_facts(weights) if weights else {}, bundle), quality, patient, bundle.task)
    for finding in doubts:
        tell(finding)
    return {
        "modalities": _modalities(patient),
        "titles": bundle.task.titles,
        "expected_quality": quality,
        "most_helpful": most_helpful(expected, used, bundle.modalities),
        "findings": [finding._asdict() for finding in (*findings, *doubts)],
    }


def predict_patient(
    files: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    bundle: BundleFacts,
    open_segmenter: Callable[[], Segmenter],
    options: Options = DEFAULTS,
    stage: Stage = silent,
    tell: Tell = lambda finding: None,
) -> dict[str, Any]:
    """Segment one patient into ``output``: ``segmentation.nii.gz``, ``report.json``, ``preview.png``, ``report.html``.

    The folder appears complete or not at all.

    Args:
        files: modality -> NIfTI file or DICOM series (its folder, or one of its files), any non-empty subset of the
            bundle's modalities.
        output: the folder.
        bundle: from `find_bundle`.
        open_segmenter: returns the `Segmenter`; called after the files are checked.
        options: see `Options`.
        stage: called with the progress.
        tell: called with each finding as soon as there is one; findings about the files come before anything is
            computed.

    Returns:
        The content of ``report.json``.

    Raises:
        PassionError: see `read_patient`, `Segmenter` and `output_folder`.
    """
    output, seconds = Path(output), Stopwatch(stage)
    given = {m: Path(path) for m, path in files.items()}
    results = [f"segmentation_{'+'.join(names)}.nii.gz" for names in combinations(bundle.modalities)]
    with (
        output_folder(output, list(given.values()), options.overwrite, replaces=(*RESULTS, *results)) as folder,
        folder_for_conversions(given) as converted,
    ):
        patient, series, findings, mask, pictures = examine(given, bundle, options, converted, tell, seconds.start)
        seconds.start("loading the network")
        segmenter = open_segmenter()
        summary = find_summary(segmenter.weights)
        expected = _expected(summary, bundle)
        used = list(patient.used)
        quality = expected.get("+".join(used), [])
        facts = _with_pixels(segmenter.facts, bundle)
        expectation = _check_weights(facts, quality, patient, bundle.task)
        if quality and summary:
            expectation += check_measured(summary, segmenter.settings)
        for finding in expectation:
            tell(finding)
        seconds.start("segmenting")
        result = segmenter.segment(
            patient.volumes, options.decode, options.probabilities, lambda share: stage("segmenting", share)
        )
        seconds.start("measuring")
        about = [
            *check_result(result.labels, patient.used, result.outside, bundle.task),
            *check_edges(facts, result.labels, patient.reference.affine),
            *result.findings,
        ]
        for finding in about:
            tell(finding)
        named: dict[str, Any] = {}
        if options.keep_names:
            named["files"] = {m: str(path.absolute()) for m, path in given.items()}
            named["files_sha256"] = sums_of(given, series)
        report = make_report(
            result,
            {m: volume.data for m, volume in patient.used.items()},
            patient.reference.affine,
            bundle.task,
            expected,
            bundle={"name": bundle.name, "version": bundle.version},
            weights={"file": segmenter.weights.name, "sha256": sha256(segmenter.weights)},
            device=result.device,
            settings=segmenter.settings,
            modalities={**_modalities(patient), "registered": options.register},
            findings=[finding._asdict() for finding in (*findings, *expectation, *about)],
            **named,
        )
        seconds.start("writing")
        with writing(output):
            _write_images(folder, patient, result)
            if mask is not None:
                write_labels(folder / "brain_mask.nii.gz", mask.astype(np.uint8), patient.reference.path)
            if options.dicom_seg:
                chosen = series[patient.reference_name]
                affine = patient.reference.affine
                classes = bundle.task.classes[1:]
                write_segmentation(folder / "segmentation.dcm", result.labels, affine, classes, chosen, bundle.name)
            images = {m: volume.data for m, volume in patient.used.items()}
            still = preview(images, result.labels, patient.reference.affine, report)
            imsave(folder / "preview.png", still)
            report["seconds"], report["peak_memory_mb"] = seconds.stop(), peak_memory_mb()
            if options.page:
                page = make_page(images, result, patient.reference.affine, report, still, pictures)
                (folder / "report.html").write_text(page, encoding="utf-8")
            (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


class Stopwatch:
    """Measures the seconds of each stage; calls ``stage`` when one begins."""

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


def _expected(summary: Path | None, bundle: BundleFacts) -> dict[str, list[dict[str, Any]]]:
    return expected_quality(summary, bundle.task) if summary else {}


def _check_weights(
    facts: Mapping[str, Any], quality: Sequence[Mapping[str, Any]], patient: Patient, task: Task
) -> list[Finding]:
    """What the training and evaluation of the weights say against this patient's images."""
    used = list(patient.used)
    return [
        *check_training(facts, used, task),
        *check_expectation(quality, used, task),
        *check_spacing(facts, patient.reference.affine),
        *check_slices(facts, patient.reference, task),
    ]


def _with_pixels(facts: Mapping[str, Any], bundle: BundleFacts) -> dict[str, Any]:
    """The metadata of weights, with the size of pixels that their bundle has where they do not say it themselves."""
    return {**facts, "settings": {"pixel_size": bundle.pixel_size, **facts.get("settings", {})}}


def _facts(weights: Path) -> Mapping[str, Any]:
    from monai_passion.networks.weights import load_weights

    return load_weights(weights)[1]


def _modalities(patient: Patient) -> dict[str, Any]:
    return {"used": list(patient.used), "absent": patient.absent, "reference": patient.reference_name}
