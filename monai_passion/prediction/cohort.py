"""Segment many patients: finished patients stay, and one that fails does not stop the rest."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from monai_passion.bundle.facts import BundleFacts
from monai_passion.data.dicom import is_dicom
from monai_passion.data.patient import Finding
from monai_passion.data.sources import find_files
from monai_passion.errors import EXIT_TERMINATED, PassionError, ResourceError, UsageError
from monai_passion.prediction.output.cohort_page import write_index
from monai_passion.prediction.run import Options, Stage, Tell, check_patient, predict_patient, silent
from monai_passion.prediction.segmenter import Segmenter
from monai_passion.prediction.terminal import unknown_text
from monai_passion.system.files import read_json, write_atomically
from monai_passion.system.locks import RunLock
from monai_passion.system.output import check_folder, leftovers, writing
from monai_passion.system.parent import end_with

__all__ = [
    "MANIFEST",
    "check_cohort",
    "failure",
    "predict_cohort",
    "read_manifests",
    "shard_manifest",
    "write_manifest",
]

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
VOLUMES = "volumes.csv"
OWN_FILES = re.compile(r"manifest.*\.json|volumes\.csv|index\.html", re.IGNORECASE)
"""Names of what lies beside the patients' folders."""
REPORT = "report.json"

PatientFiles = Path | Mapping[str, Path]
"""The folder of a patient, or modality -> file."""
TellOf = Callable[[Finding, str], object]
"""Called with each finding and its patient, as soon as it is known."""


def predict_cohort(
    patients: Mapping[str, PatientFiles],
    output: Path,
    bundle: BundleFacts,
    open_segmenter: Callable[[], Segmenter],
    options: Options,
    stage: Stage = silent,
    workers: int = 1,
    tell: TellOf = lambda finding, patient: None,
    shard: tuple[int, int] = (1, 1),
    layout: str = "auto",
) -> dict[str, dict[str, Any]]:
    """Run `predict_patient` for each of ``patients`` that is not done yet, into ``output``/<patient>.

    ``manifest.json`` has the result of each patient, with its exit code; it is written after every patient, so that a
    stopped run can be resumed. A patient is repeated if its files, the weights or the settings changed, or if it
    failed. Each shard has its own manifest and writes the table and the page of all patients, which are complete when
    the last shard has ended. ``volumes.csv`` has one row per finished patient.

    Args:
        patients: name -> its folder, or modality -> file.
        open_segmenter: returns the `Segmenter`; must be picklable for several workers.
        workers: processes, each with its own network; they share the threads.
        tell: see `TellOf`.
        shard: ``(3, 16)`` for the third of sixteen parts of the patients; the others may run at the same time into the
            same folder, also on other machines.
        layout: of a patient's folder, see `find_files`.

    Returns:
        The manifest of these patients: name -> ``{"status": "done" or "failed", "exit_code", "message", "findings",
        "key"}``, and of one that is done its ``row`` of ``volumes.csv`` and the ``titles`` of what stands in it.

    Raises:
        UsageError: ``output`` holds something else, or a patient has the name of a file of the result.
        WeightsError, UsageError: as for `Segmenter`; they concern every patient.
    """
    check_folder(output)
    if taken := sorted(name for name in patients if OWN_FILES.fullmatch(name)):
        raise UsageError(f"a patient is called {taken[0]}, as a file of the result; give that patient another name")
    path = shard_manifest(output, shard)
    read_manifests(output)  # which refuses another folder before a network is loaded; a run that ends now may add to it
    segmenter = open_segmenter()
    lock = RunLock(output, f".{path.stem}.lock", "run")
    with writing(output):
        lock.acquire()
    try:
        cohort = _Cohort(patients, shard, output, segmenter, options, tell)
        # written at once, so that what is killed before its first patient ends can be started again
        cohort.write()
        _remove_leftovers(output, cohort.patients)
        jobs = cohort.jobs(bundle, layout)
        if workers == 1:
            for job in jobs:
                say = functools.partial(_about, tell, job.name)
                cohort.end(job.name, _attempt(job, segmenter, functools.partial(_tell, stage, job.name), say))
        else:
            with closing(_in_processes(jobs, open_segmenter, workers, stage)) as ended:
                for name, entry in ended:
                    cohort.end(name, entry)
    finally:
        lock.release()
    return cohort.entries()


class _Cohort:
    """The patients of one run, and its manifest, which is written as each of them ends.

    Attributes:
        patients: those of the shard.
        manifest: name -> entry, as it is written.
        messages: of those that failed, in full; without ``keep_names`` the manifest has them without paths.
    """

    def __init__(
        self,
        patients: Mapping[str, PatientFiles],
        shard: tuple[int, int],
        output: Path,
        segmenter: Segmenter,
        options: Options,
        tell: TellOf,
    ) -> None:
        self.order = list(patients)
        self.patients = {name: patients[name] for name in self.order[shard[0] - 1 :: shard[1]]}
        self.path, self.output = shard_manifest(output, shard), output
        self.segmenter, self.options, self.tell = segmenter, options, tell
        self.manifest = {
            name: entry
            for name, entry in read_manifests(output).items()  # a run killed while it replaced a patient left none
            if entry["status"] != "done" or ("row" in entry and self._has_result(name))
            if shard[1] == 1 or name in self.patients
        }
        self.files: dict[str, Mapping[str, Path]] = {}
        self.keys: dict[str, str] = {}
        self.messages: dict[str, str] = {}

    def _has_result(self, name: str) -> bool:
        return (self.output / name / REPORT).is_file()

    def jobs(self, bundle: BundleFacts, layout: str) -> Iterator[Job]:
        """What is still to do; found out patient by patient, as the work goes on."""
        for name, source in self.patients.items():
            folder = self.output / name
            try:
                files = find_files(source, bundle.task, layout=layout) if isinstance(source, Path) else source
                self.files[name] = files
                self.keys[name] = _key(files, self.segmenter, self.options)
                if any(path.resolve().is_relative_to(folder.resolve()) for path in files.values()):
                    raise UsageError(
                        f"{folder} holds the input of {name}, which is not replaced; give another --output"
                    )
            except Exception as error:
                self.end(name, failure(error))
                continue
            old = self.manifest.get(name, {})
            is_unchanged = (old.get("status"), old.get("key")) == ("done", self.keys[name])
            if self.options.overwrite or not is_unchanged or not self._has_result(name):
                yield Job(name, files, folder, self.options)

    def end(self, name: str, entry: dict[str, Any]) -> None:
        """Tell and write down how a patient ended."""
        for finding in entry["findings"]:
            self.tell(Finding(**finding), name)
        if entry["status"] == "failed":
            message = entry["message"]
            if self._has_result(name):
                message += f"; {name}/ still has the result of an earlier run"
            self.messages[name] = message
            if not self.options.keep_names:
                message = _without_paths(message, name, self.patients[name], self.files.get(name, {}))
            entry = {**entry, "message": message}
        self.manifest[name] = {**entry, "key": self.keys[name]} if name in self.keys else entry
        self.write()

    def write(self) -> None:
        """The manifest, this run's patients first; then what is made from all manifests of the folder."""
        ordered = {m: self.manifest[m] for m in dict.fromkeys((*self.patients, *self.manifest)) if m in self.manifest}
        write_manifest(self.path, ordered, self.order)

    def entries(self) -> dict[str, dict[str, Any]]:
        """Those of this run's patients, with their messages in full."""
        return {
            name: {**entry, "message": self.messages.get(name, entry["message"])}
            for name in self.patients
            for entry in (self.manifest[name],)
        }


def check_cohort(
    patients: Mapping[str, PatientFiles],
    bundle: BundleFacts,
    options: Options,
    weights: Path | None = None,
    stage: Stage = silent,
    tell: TellOf = lambda finding, patient: None,
    layout: str = "auto",
) -> dict[str, dict[str, Any]]:
    """Run `check_patient` for each of ``patients``; nothing is computed or written, and errors do not stop the rest.

    Returns:
        Name -> result of `check_patient`, with ``status``, ``exit_code`` and ``message`` as in a manifest.
    """
    entries: dict[str, dict[str, Any]] = {}
    for name, source in patients.items():
        told = functools.partial(_about, tell, name)
        try:
            files = find_files(source, bundle.task, layout=layout) if isinstance(source, Path) else source
            found = check_patient(files, bundle, options, weights, functools.partial(_tell, stage, name), told)
            entries[name] = {"status": "done", "exit_code": 0, "message": "", **found}
        except PassionError as error:
            entries[name] = failure(error)
    return entries


def _without_paths(message: str, name: str, source: PatientFiles, files: Mapping[str, Path]) -> str:
    """A message with modalities in place of the paths of a patient's files: names of files may be those of people."""
    inside = sorted(source.rglob("*")) if isinstance(source, Path) else []
    words = [(path, m) for m, path in files.items()] + [
        (path, "a file") for path in inside if path not in files.values()
    ]
    texts = {text: word for path, word in words for text in (str(path.resolve()), str(path.absolute()), str(path))}
    texts |= {path.name: word for path, word in words if path.suffix}
    if isinstance(source, Path):
        texts |= {str(source.resolve()): name, str(source.absolute()): name, str(source): name}
    for text in sorted(texts, key=len, reverse=True):
        message = message.replace(text, texts[text])
    return message


def _remove_leftovers(output: Path, patients: Collection[str]) -> None:
    """Remove the temporary folders of `output_folder` that a killed run left."""
    for path in leftovers(output, patients):
        shutil.rmtree(path, ignore_errors=True)


class Job(NamedTuple):
    """One patient to segment."""

    name: str
    files: Mapping[str, Path]
    output: Path
    options: Options


def _attempt(
    job: Job, segmenter: Segmenter, stage: Stage = silent, tell: Tell = lambda finding: None
) -> dict[str, Any]:
    """The entry of the manifest that says how it ended."""
    try:
        options = job.options._replace(overwrite=True)  # an earlier result of this patient; what else is there stays
        report = predict_patient(job.files, job.output, segmenter.bundle, lambda: segmenter, options, stage, tell)
    except Exception as error:
        logger.debug("%s failed", job.name, exc_info=True)
        return failure(error)
    done = {"status": "done", "exit_code": 0, "message": ""}
    measured = {row["name"]: row["title"] for row in (*report["regions"], *report["labels"])}
    told = {"findings": report["findings"], "titles": {**report["titles"], **measured}}
    return {**done, **told, "row": _row(job.name, report)}


def shard_manifest(output: Path, shard: tuple[int, int]) -> Path:
    """Name of the manifest of a shard such as ``(3, 16)``, or of a cohort without shards."""
    return output / (MANIFEST if shard[1] == 1 else f"manifest-{shard[0]}of{shard[1]}.json")


def failure(error: Exception) -> dict[str, Any]:
    """The manifest's entry for a patient that failed."""
    known = isinstance(error, PassionError)
    return {
        "status": "failed",
        "exit_code": error.exit_code if isinstance(error, PassionError) else 1,
        "message": str(error) if known else f"{type(error).__name__}: {error}",
        "findings": [],
    }


def _in_processes(
    jobs: Iterator[Job], open_segmenter: Callable[[], Segmenter], workers: int, stage: Stage
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """Name and entry of each job as it ends.

    When a process is killed, most likely for lack of memory, those that ran are done again and all goes on with one
    process at a time: only a patient whose process is killed when it is alone has failed.
    """
    import torch

    threads, again, running = torch.get_num_threads(), deque[Job](), dict[Future[dict[str, Any]], Job]()
    pool: ProcessPoolExecutor | None = None
    try:
        while True:
            if pool is None:
                start = (open_segmenter, max(threads // workers, 1), os.getpid())
                pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, start)
            while len(running) < workers and (job := again.popleft() if again else next(jobs, None)):
                _tell(stage, job.name, "segmenting")
                running[_submit(pool, job)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                if isinstance(future.exception(), BrokenProcessPool):
                    for job in running.values():  # what a killed process could not remove
                        for rest in leftovers(job.output.parent, [job.name]):
                            shutil.rmtree(rest, ignore_errors=True)
                    pool.shutdown()
                    if workers > 1:
                        again.extend(running.values())
                    else:
                        error = ResourceError("its process was killed, most likely for lack of memory")
                        yield running[future].name, failure(error)
                    running.clear()
                    pool, workers = None, 1
                    break
                yield running.pop(future).name, future.result()
    finally:
        if pool is not None:
            if running:  # interrupted: each process removes what it has half-written
                for process in multiprocessing.active_children():
                    process.terminate()
            pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, job: Job) -> Future[dict[str, Any]]:
    try:
        return pool.submit(_work, job)
    except BrokenProcessPool as error:  # another job's process was killed meanwhile
        future: Future[dict[str, Any]] = Future()
        future.set_exception(error)
        return future


_own: list[Segmenter] = []
"""That of a worker process."""


def _start(open_segmenter: Callable[[], Segmenter], threads: int, parent: int) -> None:
    """Make a process a worker of ``parent``, and end it with that. Ctrl-C is for the parent, which sends SIGTERM."""
    import torch

    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    _own.append(open_segmenter())


def _work(job: Job) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))  # on the way out nothing half-written stays
    try:
        return _attempt(job, _own[0])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _tell(stage: Stage, patient: str, name: str, share: float = 0.0) -> None:
    stage(f"{patient}: {name}", share)


def _about(tell: TellOf, patient: str, finding: Finding) -> None:
    tell(finding, patient)


def _key(files: Mapping[str, Path], segmenter: Segmenter, options: Options) -> str:
    """Another one whenever something changed that the result depends on."""

    def state(path: Path) -> list[Any]:
        return [str(path.resolve()), *((path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ())]

    def content(path: Path) -> list[Any]:  # of all files of a DICOM series
        folder = path if os.path.isdir(path) else path.parent
        return [state(file) for file in sorted(folder.iterdir())] if folder == path or is_dicom(path) else []

    given = {m: [*state(path), *content(path)] for m, path in files.items()}
    facts = [given, state(segmenter.weights), segmenter.settings, list(options._replace(overwrite=False))]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_manifests(output: Path) -> dict[str, dict[str, Any]]:
    """The entries of all manifests in a folder; if two have the same patient, the later one counts.

    Raises:
        UsageError: a manifest is damaged, or ``output`` holds something else.
    """
    manifest: dict[str, dict[str, Any]] = {}
    paths = sorted(output.glob("manifest*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in paths:
        entries = read_json(path, "remove it to start again", UsageError)
        if not isinstance(entries, dict) or not all(isinstance(e, dict) and "status" in e for e in entries.values()):
            raise UsageError(f"{path} is not a manifest of an earlier run; give another --output")
        manifest |= entries
    if not paths and output.exists() and (not output.is_dir() or any(map(_is_foreign, output.iterdir()))):
        raise UsageError(f"--output {output} is not empty and has no {MANIFEST} of an earlier run; give another folder")
    return manifest


def _is_foreign(path: Path) -> bool:
    """Whether it is not the lock of a run."""
    return not (path.name.startswith(f".{Path(MANIFEST).stem}") and path.suffix == ".lock")


def write_manifest(path: Path, manifest: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> None:
    """Write this run's manifest, then the table and the page of all patients in any manifest of the folder.

    Raises:
        ResourceError: nothing can be written there.
    """
    output = path.parent
    try:
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(manifest, indent=1) + "\n"))
        known = read_manifests(output)
        together = {name: known[name] for name in dict.fromkeys((*order, *known)) if name in known}
        rows = [entry["row"] for entry in together.values() if entry["status"] == "done" and "row" in entry]
        if rows or (output / VOLUMES).is_file():
            write_atomically(output / VOLUMES, lambda temporary: _write_rows(temporary, rows))
        write_index(output, together)
    except OSError as error:
        raise ResourceError(f"cannot write to {output} ({error.strerror or error}); free some space") from error


def _row(name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``volumes.csv``: regions and labels in mL, the Dice to expect with interval, the findings in words."""
    measured = {f"{row['name']}_ml": row["volume_ml"] for row in (*report["regions"], *report["labels"])}
    quality = report["expected_quality"]
    known = {row["region"]: (row["dice"], row["low"], row["high"]) for row in quality}
    expected = {
        f"{row['name']}_expected_{what}": "" if (value := known.get(row["name"], (None,) * 3)[k]) is None else value
        for row in report["regions"]
        for k, what in enumerate(("dice", "low", "high"))
    }
    doubts = [r for r in report["findings"] if r["level"] != "note"]
    return {
        "patient": name,
        "used": "+".join(report["modalities"]["used"]),
        **measured,
        **expected,
        "expected_quality": unknown_text(quality) or f"from {quality[0]['patients']} patients",
        "usable": "no" if any(r["level"] == "unusable" for r in doubts) else "yes",
        "warnings": "; ".join(r["text"] for r in doubts),
    }


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        columns = list(dict.fromkeys(key for row in rows for key in row)) or ["patient"]
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({key: _no_formula(value) for key, value in row.items()} for row in rows)


def _no_formula(value: Any) -> Any:
    """Text that a spreadsheet would compute, quoted as spreadsheets do."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
