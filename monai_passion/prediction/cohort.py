"""Many patients, one after the other: what is done stays done, and one that fails does not stop the rest."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_passion.errors import PassionError, ResourceError, UsageError
from monai_passion.files import write_atomically
from monai_passion.prediction.bundle import BundleFacts, Segmenter
from monai_passion.prediction.discovery import find_files
from monai_passion.prediction.run import Options, predict_patient

__all__ = ["MANIFEST", "predict_cohort"]

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
VOLUMES = "volumes.csv"


def predict_cohort(
    patients: Mapping[str, Path | Mapping[str, Path]],
    output: Path,
    bundle: BundleFacts,
    open_segmenter: Callable[[], Segmenter],
    options: Options,
    stage: Callable[[str], object] = lambda name: None,
    done: Callable[[str, Mapping[str, Any]], object] = lambda name, entry: None,
) -> dict[str, dict[str, Any]]:
    """`predict_patient` for each of ``patients`` into ``output``/<patient>, as far as it is not done yet.

    ``manifest.json`` says how each ended, with its exit code; it is written after every patient, so that a run that
    was stopped goes on where it was. A patient is done again when its files, the weights or the settings changed, or
    when it failed. ``volumes.csv`` has one row for each patient that is done.

    Args:
        patients: name -> its folder, or modality -> file.
        done: called with a patient's name and its entry in the manifest, as each one ends.

    Returns:
        The manifest: name -> ``{"status": "done" or "failed", "exit_code", "message", "key"}``.

    Raises:
        UsageError: ``output`` holds something else.
        WeightsError, UsageError: those of `Segmenter`, which concern every patient.
    """
    manifest = {
        name: entry
        for name, entry in _read_manifest(output).items()  # a run killed while it replaced a patient left none of it
        if entry["status"] != "done" or (output / name / "report.json").is_file()
    }
    segmenter = open_segmenter()
    _write(output, manifest)  # so that what is killed before its first patient ends can be started again
    _remove_leftovers(output, patients)
    for name, source in patients.items():
        entry = {"status": "done", "exit_code": 0, "message": ""}
        try:
            files = find_files(source, bundle.modalities) if isinstance(source, Path) else source
            entry["key"] = _key(files, segmenter, options)
            if manifest.get(name) == entry and (output / name / "report.json").is_file():
                done(name, entry)
                continue
            if any(path.resolve().is_relative_to((output / name).resolve()) for path in files.values()):
                raise UsageError(
                    f"{output / name} holds the input of {name}, which is not replaced; give another --output"
                )
            shutil.rmtree(output / name, ignore_errors=True)
            tell = functools.partial(_tell, stage, name)
            predict_patient(files, output / name, bundle, lambda: segmenter, options, tell)
        except Exception as error:
            logger.debug("%s failed", name, exc_info=True)
            code = error.exit_code if isinstance(error, PassionError) else 1
            message = str(error) if isinstance(error, PassionError) else f"{type(error).__name__}: {error}"
            entry.update(status="failed", exit_code=code, message=message)
        manifest[name] = entry
        _write(output, manifest)
        done(name, entry)
    return {name: manifest[name] for name in patients}


def _remove_leftovers(output: Path, patients: Collection[str]) -> None:
    """Remove the temporary folders of `output_folder` that a killed run left."""
    for path in output.glob(".*"):
        if path.is_dir() and path.stem[1:] in patients and path.suffix[1:].isdecimal():
            shutil.rmtree(path, ignore_errors=True)


def _tell(stage: Callable[[str], object], name: str, what: str) -> None:
    stage(f"{name}: {what}")


def _key(files: Mapping[str, Path], segmenter: Segmenter, options: Options) -> str:
    """Another one whenever something changed that the result depends on."""

    def state(path: Path) -> list[Any]:
        return [str(path.resolve()), *((path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ())]

    facts = [{m: state(path) for m, path in files.items()}, state(segmenter.weights), segmenter.settings, list(options)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read_manifest(output: Path) -> dict[str, dict[str, Any]]:
    path = output / MANIFEST
    if path.is_file():
        try:
            manifest: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{path} is damaged ({error}); remove it to start again") from error
        return manifest
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {output} is not empty and has no {MANIFEST} of an earlier run; give another folder")
    return {}


def _write(output: Path, manifest: Mapping[str, Mapping[str, Any]]) -> None:
    rows = []
    for name, entry in manifest.items():
        if entry["status"] == "done":
            report = json.loads((output / name / "report.json").read_text(encoding="utf-8"))
            volumes = {f"{row['name']}_ml": row["volume_ml"] for row in report["regions"]}
            warnings = sum(remark["level"] == "warning" for remark in report["remarks"])
            rows.append(
                {"patient": name, "used": "+".join(report["modalities"]["used"]), **volumes, "warnings": warnings}
            )
    try:
        write_atomically(output / MANIFEST, lambda path: path.write_text(json.dumps(manifest, indent=1) + "\n"))
        if rows:
            write_atomically(output / VOLUMES, lambda path: _write_rows(path, rows))
    except OSError as error:
        raise ResourceError(f"cannot write to {output} ({error.strerror or error}); free some space") from error


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
