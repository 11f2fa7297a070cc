"""``monai-passion predict``: segment a patient, or a cohort, from any available sequences."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from monai_passion.errors import InputError, PassionError, UsageError, WarningsError, WeightsError
from monai_passion.system.files import PathLike
from monai_passion.tasks import load_task, task_names

if TYPE_CHECKING:
    from monai_passion.bundle.facts import BundleFacts
    from monai_passion.prediction.terminal import Voice

__all__ = ["predict"]

WHOLE = {"input", "output", "image", "modalities", "workers", "engine", "shard", "check", "strict", "quiet", "verbose"}
"""Arguments that are about a whole call, not about its patients."""
PATHS = {"bundle", "weights", "ensemble"}


def predict(
    input: PathLike | None = None,
    *,
    output: PathLike | None = None,
    image: Mapping[str, PathLike] | None = None,
    bundle: str | None = None,
    weights: PathLike | None = None,
    layout: str = "auto",
    overwrite: bool = False,
    reference: str | None = None,
    register: bool = False,
    skull_strip: bool = False,
    stripper: Literal["deepbet", "hd-bet"] = "deepbet",
    from_scanner: bool = False,
    uncertainty: bool = False,
    all_combinations: bool = False,
    probabilities: bool = False,
    dicom_seg: bool = False,
    page: bool = True,
    device: str | None = None,
    roi_size: Sequence[int] | int | None = None,
    overlap: float | None = None,
    precision: str | None = None,
    mirror: bool = False,
    ensemble: Sequence[PathLike] | None = None,
    decision: Literal["most_probable", "expected_dice"] | None = None,
    workers: int = 1,
    engine: Literal["local", "ray"] = "local",
    shard: str | None = None,
    max_voxels: int | None = None,
    allow_duplicate: bool = False,
    keep_names: bool = False,
    trust: bool = False,
    check: bool = False,
    strict: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    **modalities: PathLike,
) -> dict[str, Any]:
    """Segment one patient, or a cohort, from any available sequences.

    Example:
        monai-passion predict --flair FLAIR.nii.gz --t2 T2.nii.gz --output OUT
        monai-passion predict PATIENT --output OUT
        monai-passion predict STUDY --from-scanner --output OUT
        monai-passion predict --bundle MY_BUNDLE --image flair=FLAIR.nii.gz pd=PD.nii.gz --output OUT

    Each sequence is a NIfTI file or a DICOM series; give any non-empty subset of those that the bundle knows.

    Args:
        input: in place of the flags of sequences: a patient's folder with sequences recognized by file names; a folder
            of such folders; or a CSV with a column patient and one per sequence.
        output: a new or empty folder; needed unless ``check``.
        image: sequences by the names that the bundle gives them, for bundles whose sequences have no flag here.
        bundle: its folder or name, or the output of ``train`` (default: the RFNet bundle for brain tumors).
        weights: file (default: the bundle's models/, else those that came with this package).
        layout: how the folder is laid out, as for `monai-passion datalist`; folders means that a folder's files belong
            to one patient, flat to many.
        overwrite: replace what an earlier run left in the output.
        reference: the sequence whose grid the result gets (default: smallest voxels, slabs left out).
        register: co-register the other sequences rigidly onto the reference first.
        skull_strip: remove skulls first, with deepbet (the extra strip); writes brain_mask.nii.gz.
        stripper: program that removes skulls; hd-bet must be installed separately, and is larger and slower.
        from_scanner: the input is a study from the scanner: register and skull_strip.
        uncertainty: also decode each sequence alone; write uncertainty.nii.gz and a score.
        all_combinations: also segment from every subset of the sequences, encoded once; includes the uncertainty.
        probabilities: also write probabilities.nii.gz, one volume per class.
        dicom_seg: also write segmentation.dcm, where the reference is a DICOM series.
        page: write report.html, which holds the images.
        device: cpu, cuda or cuda:1 (default: cuda where there is one).
        roi_size: sliding window in voxels, such as 96 or 96x96x64; -1 for as large as memory allows (default: the
            bundle's).
        overlap: overlap of windows, 0 to 1 (default: the bundle's).
        precision: fp32, bf16, fp16 (on a GPU) or auto: bf16 where the machine is faster in it (default: auto).
        mirror: average with the segmentation of the images mirrored left to right, at twice the time.
        ensemble: more networks, averaged with this one: files of weights, such as those of other folds, or bundles,
            such as mmformer; each takes its own time.
        decision: most_probable (the most probable class of each voxel) or expected_dice (nested regions, such as the
            tumor core, sized for the largest expected Dice); by default the bundle's.
        workers: patients of a cohort at the same time.
        engine: where the workers of a cohort run: on this machine, or in the Ray cluster of RAY_ADDRESS, whose nodes
            need this package and the same folders.
        shard: part of a cohort, such as 3/16 for the third of sixteen, for an array of jobs that share the output.
        max_voxels: refuse larger files (default: 2^28).
        allow_duplicate: take one image for two sequences, with a warning.
        keep_names: write the paths of the inputs into report.json.
        trust: run a bundle that is not this package's own; it can run any program.
        check: judge the inputs and stop; nothing is computed or written.
        strict: end with exit code 6 if there are warnings.
        quiet: print only errors and the files that are not used.
        verbose: also print messages of the libraries below.

    Returns:
        The content of report.json; for a cohort, that of manifest.json. With ``check``, what was found.

    Raises:
        UsageError: no sequence, one that the bundle does not know, an ``output`` that is not empty.
        InputError: a file that cannot be used.
        WeightsError: no weights, or those of another network.
        ResourceError: not enough memory or disk.
        WarningsError: with ``strict``, if there were warnings; everything is written.
        PassionError: patients of a cohort failed; the others are written.
    """
    call = dict(locals())
    from monai_passion.bundle.facts import find_networks
    from monai_passion.data.nifti import MAX_VOXELS
    from monai_passion.data.sources import find_files
    from monai_passion.prediction.cohort import check_cohort, predict_cohort
    from monai_passion.prediction.run import Options, check_patient, predict_patient
    from monai_passion.prediction.segmenter import Segmenter
    from monai_passion.prediction.terminal import print_check, print_summary, speaking

    if verbose:
        logging.getLogger().setLevel(logging.INFO)
    if output is None and not check:
        raise UsageError("no --output given; give a new or empty folder, or --check to judge the inputs only")
    source = None if input is None else Path(input)
    target = None if check or output is None else Path(output)
    facts, members = find_networks(bundle, ensemble, trust)
    flags = _given([*modalities.items(), *(image or {}).items()], facts, source is None)
    cohort = _cohort(source, facts, layout) if source else {}
    if cohort and flags:
        raise UsageError(f"{source} is a cohort; give it without {', '.join(f'--{m}' for m in flags)}")
    options = Options(
        reference=reference and facts.task.resolve(reference),
        register=register or from_scanner,
        skull_strip=skull_strip or from_scanner,
        stripper=stripper,
        decode="all" if all_combinations else "alone" if uncertainty else "fused",
        probabilities=probabilities,
        dicom_seg=dicom_seg,
        overwrite=overwrite,
        allow_duplicate=allow_duplicate,
        keep_names=keep_names,
        page=page,
        max_voxels=MAX_VOXELS if max_voxels is None else max_voxels,
    )
    of_one = layout if layout in ("folders", "flat") else "auto"  # what it says of each patient's folder
    part = _part(shard)
    if shard and not cohort:
        raise UsageError("--shard is for a cohort; leave it out for one patient")
    if workers < 1 or (workers > 1 and not cohort):
        raise UsageError(f"--workers is {workers}; give 1 or more, and more than 1 for a cohort only")
    if engine == "ray" and (shard or not (cohort and target)):
        raise UsageError("--engine ray is for a whole cohort with an --output; leave it out, or leave out --shard")
    file = None
    try:  # before any image is read
        file = Path(weights) if weights else facts.weights
        if not file.is_file():
            raise WeightsError(f"no weights at {file}; check the path")
    except WeightsError:
        if not check or weights:
            raise
    open_segmenter = functools.partial(
        Segmenter,
        facts,
        weights=file,
        device=device,
        roi_size=roi_size,
        overlap=overlap,
        precision=precision,
        mirror=mirror,
        ensemble=members,
        decision=decision,
    )
    with warnings.catch_warnings(), speaking(quiet) as voice:
        if not verbose:
            warnings.simplefilter("ignore")
        if cohort and target and engine == "ray":
            entries = _on_ray(call, cohort, target, workers, device, voice)
        elif cohort and target:
            entries = predict_cohort(
                cohort,
                target,
                facts,
                open_segmenter,
                options,
                voice.stage,
                workers=workers,
                tell=voice.finding,
                shard=part,
                layout=of_one,
            )
        elif cohort:
            entries = check_cohort(cohort, facts, options, file, voice.stage, voice.finding, of_one)
        else:
            files = find_files(source, facts.task, flags, layout) if source else flags
            if target:
                report = predict_patient(files, target, facts, open_segmenter, options, voice.stage, voice.finding)
            else:
                report = check_patient(files, facts, options, file, voice.stage, voice.finding)
        voice.repeat()
    if cohort:
        return _end_cohort(entries, target, strict, quiet)
    if target and not quiet:
        print_summary(report, target)
    elif not quiet:
        print_check(report)
    return _strictly(report, strict)


def _on_ray(
    given: Mapping[str, Any], cohort: Mapping[str, Any], output: Path, workers: int, device: str | None, voice: Voice
) -> dict[str, dict[str, Any]]:
    """`predict_cohort` by the tasks of a Ray cluster, a shard of the cohort each."""
    from monai_passion.data.patient import Finding
    from monai_passion.prediction.shards import predict_shards
    from monai_passion.system.engines import RayEngine

    engine = RayEngine(workers, gpus=1.0 if device and device.startswith("cuda") else 0.0)
    entries = predict_shards(_words(given), list(cohort), output.absolute(), engine, workers, voice.stage)
    for name, entry in entries.items():
        for finding in entry["findings"]:
            voice.finding(Finding(**finding), name)
    return entries


def _words(given: Mapping[str, Any]) -> list[str]:
    """The command line that gives a call's arguments, of those that concern each patient."""
    words = ["predict", str(Path(given["input"]).absolute()), "--output", str(Path(given["output"]).absolute())]
    for name, parameter in inspect.signature(predict).parameters.items():
        value: Any = given.get(name)
        if name in WHOLE or value == parameter.default:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{name}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [flag, *(_anywhere(name, part) for part in value)]
        else:
            words += [flag, _anywhere(name, value)]
    return [*words, "--quiet"]


def _anywhere(name: str, value: Any) -> str:
    """A value as a command in another folder takes it."""
    return str(Path(value).absolute()) if name in PATHS and Path(value).exists() else str(value)


def _part(shard: str | None) -> tuple[int, int]:
    """``"3/16"`` as numbers."""
    words = (shard or "1/1").split("/")
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not 1 <= int(words[0]) <= int(words[1]):
        raise UsageError(f"--shard is {shard}; give its number and how many there are, as 3/16")
    return int(words[0]), int(words[1])


def _modality_flags(bundle: str | None = None) -> dict[str, str]:
    """Names of modalities that are flags -> what they are: of the tasks of this package, and of ``bundle``."""
    flags: dict[str, str] = {}
    for task in map(load_task, task_names()):
        for m in task.modalities:
            also = f" (also {', '.join(f'--{alias}' for alias in m.aliases[:4])})" if m.aliases else ""
            flags.setdefault(m.name, f"{m.description or m.title}{also}")
    for task in map(load_task, task_names()):
        for m in task.modalities:
            flags |= {alias: "" for alias in m.aliases if alias not in flags and alias.isidentifier()}
    if bundle is not None:
        from monai_passion.bundle.facts import find_bundle

        flags |= {m: "" for m in find_bundle(bundle).modalities if m not in flags}
    return flags


predict.names = _modality_flags  # type: ignore[attr-defined]


def _given(images: Sequence[tuple[str, PathLike]], bundle: BundleFacts, alone: bool) -> dict[str, Path]:
    """Modality -> file, of names and aliases."""
    files: dict[str, list[Path]] = {}
    for name, path in images:
        if path is not None:
            files.setdefault(bundle.task.resolve(name), []).append(Path(path))
    for modality, paths in files.items():
        if len(paths) > 1:
            raise UsageError(f"{modality} is given {len(paths)} times ({', '.join(map(str, paths))}); choose one")
    if not files and alone:
        raise UsageError(f"no sequence given; add at least one of {' '.join(f'--{m}' for m in bundle.modalities)}")
    return {modality: paths[0] for modality, paths in files.items()}


def _cohort(source: Path, bundle: BundleFacts, layout: str) -> dict[str, Any]:
    """The patients of a CSV or a folder of folders; none for the folder of one patient."""
    from monai_passion.data.sources import find_patients, read_cohort

    if source.is_dir():
        return dict(find_patients(source, bundle.task, layout))
    if source.suffix.lower() == ".csv":
        return dict(read_cohort(source, bundle.task))
    if not source.exists():
        raise InputError(f"{source} does not exist; check the path")
    raise UsageError(f"{source} is neither a folder nor a CSV; say which sequence it is, as in --flair {source}")


def _end_cohort(
    entries: Mapping[str, Mapping[str, Any]], output: Path | None, strict: bool, quiet: bool
) -> dict[str, Any]:
    """Say who failed and why; the exit code is that of the first of them."""
    from monai_passion.prediction.terminal import print_check

    failed = {name: entry for name, entry in entries.items() if entry["status"] != "done"}
    for name, entry in failed.items():
        print(f"monai-passion: error: {name}: {entry['message']}", file=sys.stderr)
    if output is None and not quiet:
        for name, entry in entries.items():
            if name not in failed:
                print_check(entry, name)
    elif not quiet:
        ended = f"{len(entries) - len(failed)} of {len(entries)} patients"
        print(f"{ended} in {output}, see index.html, volumes.csv and manifest.json")
    if failed:
        error = PassionError(f"{len(failed)} of {len(entries)} patients failed ({', '.join(failed)}); the rest is done")
        error.exit_code = int(next(iter(failed.values()))["exit_code"])
        raise error
    return _strictly(dict(entries), strict)


def _strictly(result: dict[str, Any], strict: bool) -> dict[str, Any]:
    """What was given, a report or a manifest; an error with the first reason where there are doubts and ``strict``."""
    results = {"": result} if "findings" in result else result
    doubts = [
        f"{name}: {finding['text']}" if name else finding["text"]
        for name, entry in results.items()
        for finding in entry["findings"]
        if finding["level"] != "note"
    ]
    if strict and doubts:
        more = f", and {len(doubts) - 1} more" if len(doubts) > 1 else ""
        raise WarningsError(f"done, with warnings (--strict): {doubts[0]}{more}")
    return result
