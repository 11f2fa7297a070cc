"""Checkpoints that no crash can destroy, and trainings that continue from them as if nothing had happened."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

import torch
from ignite.engine import Events
from monai.engines import Evaluator, SupervisedTrainer
from torch import nn

from monai_passion.errors import ResourceError, UsageError, WeightsError, first_line
from monai_passion.handlers.settings import apply_settings, changes, plain_attributes, read_settings
from monai_passion.handlers.signals import deferred_signals
from monai_passion.networks.weights import unwrapped
from monai_passion.system.files import PathLike, checksums, sha256, sidecar, sync_folder, write_text
from monai_passion.system.locks import RunLock

__all__ = ["CheckpointHandler", "newest_checkpoint", "read_checkpoint", "verify_checkpoint", "write_checkpoint"]

SHOWN = 2
"""Differences of a network that a message names."""
NAME = re.compile(r"checkpoint_epoch=(\d+)\.pt")

logger = logging.getLogger(__name__)


def write_checkpoint(state: Mapping[str, Any], path: PathLike) -> None:
    """Write ``state`` with ``torch.save`` and its SHA-256 beside it (``<path>.sha256``, as ``sha256sum`` writes it).

    Whenever the process or the machine dies, ``path`` is the complete old or new file, and the sidecar fits it. Missing
    folders are made.

    Raises:
        ResourceError: the disk is full, or cannot be written to; the old file is kept and nothing else is left.
    """
    path = Path(path)
    checksum, temporary = sidecar(path), path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            writer = _Hasher(file)
            torch.save(dict(state), cast(IO[bytes], writer))
            file.flush()
            os.fsync(file.fileno())
        line = f"{writer.sha256.hexdigest()}  {path.name}\n"
        # Two files cannot be replaced in one step: between the two, the sidecar fits both the old and the new one.
        older = checksum.read_text() if path.exists() and checksum.exists() else ""
        write_text(checksum, line + older)
        os.replace(temporary, path)
        sync_folder(path.parent)
        if older:
            write_text(checksum, line)
    except (OSError, RuntimeError) as error:
        cause = _disk_error(error)
        if cause is None:
            raise
        raise ResourceError(
            f"{path} could not be written: {cause.strerror}; older checkpoints are kept: free some space, make it "
            "writable, or choose another ckpt_dir"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def verify_checkpoint(path: PathLike) -> bool:
    """Whether the file fits its SHA-256 sidecar and holds nothing but tensors and plain values."""
    return _read(Path(path))[1] is None


def read_checkpoint(path: PathLike) -> dict[str, Any]:
    """The verified content of a file of `write_checkpoint`; a pickle that would run code is never run.

    Raises:
        WeightsError: the file does not exist, is damaged, or is not one of ours.
    """
    state, problem = _read(Path(path))
    if problem is not None:
        raise WeightsError(f"{path} {problem}; use an earlier checkpoint, or delete this one")
    return state


def newest_checkpoint(folder: PathLike) -> Path | None:
    """The ``checkpoint_epoch=N.pt`` of the highest N that verifies; one warning for each that does not."""
    return _newest(Path(folder))[0]


class CheckpointHandler:
    """Writes a crash-safe checkpoint after each epoch, and resumes from the newest one that verifies.

    It goes first in ``train_handlers``, so that the others start from the resumed state; it saves after all of them in
    any case. A checkpoint holds the epoch, the state of everything in ``save_dict`` and of the mixed-precision scaler,
    the best validation score, and which parameters had a gradient (an optimizer treats none and zero differently). With
    `EpochSeedHandler` that is everything: a resumed training ends bit-identical on the CPU. Settings of optimizer and
    schedule are not restored: a training resumed with more epochs, another learning rate or patience follows the new
    schedule as if it had from the start. A warning says so, and names every other setting that changed: the plain
    attributes of the modules in ``save_dict``, such as a loss's weights, and ``course``. Under DistributedDataParallel
    the first process saves and all load its state, so at the end of an epoch what is in ``save_dict`` must be the same
    in every process, as beta is when its handler has averaged over them.

    In ``ckpt_dir``, each with its ``.sha256``:

    * ``checkpoint_epoch=N.pt``: what a training resumes from, the last ``keep`` of them;
    * ``model.pt``: ``{"model": state of save_dict["model"], "metadata": ...}`` of the epoch with the best score;
    * ``model_last.pt``: the same of the last epoch saved.

    Args:
        ckpt_dir: folder of one training; a lock keeps a second one out.
        save_dict: name -> object with ``state_dict`` and ``load_state_dict``: ``"model"``, what inference needs, and
            all else that changes: the optimizer, the scheduler, the loss with its buffers, handlers with a state.
        evaluator: its key metric decides which epoch is the best; without it there is no ``model.pt``.
        keep: how many checkpoints stay; at least 2, so that one damaged file does not cost the training.
        interval: epochs between checkpoints; a crash costs at most as many.
        resume: continue from the checkpoint in ``ckpt_dir``; if false, ``ckpt_dir`` must hold none.
        metadata: description of the network (modalities, classes ...), in plain values; compared before anything is
            loaded.
        course: other settings of the training (seed, precision ...), in plain values; they may change, with a warning.
        facts: further facts about the training, in plain values; stored with the weights and not compared.
        tries: stop when nothing could be written this many times in a row.

    Raises:
        ValueError: ``keep``, ``interval`` or ``tries`` below 1, or a wrong ``save_dict``.
        UsageError: (at start) another training uses the folder, or it holds checkpoints and ``resume`` is false.
        WeightsError: (at start) checkpoints exist but none verifies, or they belong to another training.
        ResourceError: (while training) the disk is full, or cannot be written to.
    """

    def __init__(
        self,
        ckpt_dir: PathLike,
        save_dict: Mapping[str, Any],
        evaluator: Evaluator | None = None,
        keep: int = 2,
        interval: int = 1,
        resume: bool = True,
        metadata: Mapping[str, Any] | None = None,
        course: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        tries: int = 3,
    ) -> None:
        for name, value in (("keep", keep), ("interval", interval), ("tries", tries)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if "model" not in save_dict or {"trainer", "metadata"} & set(save_dict):
            raise ValueError(
                f"save_dict has {sorted(save_dict)}; it needs 'model', and must not have 'trainer' and 'metadata', "
                "which the handler adds itself"
            )
        self.folder = Path(ckpt_dir)
        self.objects = {name: unwrapped(thing) for name, thing in save_dict.items()}
        self.evaluator = evaluator
        self.keep = keep
        self.interval = interval
        self.resume = resume
        self.metadata = {"network": type(self.objects["model"]).__name__, **(metadata or {})}
        self.course = {**plain_attributes(self.objects), **(course or {})}
        self.facts = dict(facts or {})
        self.tries = tries
        self.settings = read_settings(self.objects)
        self.lock = RunLock(self.folder)
        self._failures = 0
        self._unpacked = False
        self._course_changes: list[str] = []

    def attach(self, engine: SupervisedTrainer) -> None:
        engine.add_event_handler(Events.STARTED, self.started)

    def started(self, engine: SupervisedTrainer) -> None:
        """Lock the folder and, where it holds a checkpoint, continue from it."""
        if engine.state.rank == 0:
            self.lock.acquire()
        if not engine.has_event_handler(self.completed_epoch):
            # Added last, to save what every other handler of this event has done.
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.completed_epoch)
            engine.add_event_handler(Events.COMPLETED, self.lock.release)
        found = sorted(_checkpoints(self.folder).items())
        if not found or engine.state.epoch > 0:
            return
        if not self.resume:
            raise UsageError(
                f"{self.folder} holds a training of {found[-1][0]} epochs and resume is false: use another ckpt_dir, "
                "delete that training, or set resume to true"
            )
        path, checkpoint = _newest(self.folder)
        if path is None:
            names = ", ".join(path.name for _, path in found)
            raise WeightsError(
                f"no checkpoint in {self.folder} is intact ({names}); restore one from a backup, or delete them to "
                "start anew"
            )
        self._load(engine, path, checkpoint)
        logger.info(f"resuming from {path}: epoch {engine.state.epoch} of {engine.state.max_epochs} is complete")
        if changed := apply_settings(self.objects, self.settings) + self._course_changes:
            rates = ", ".join(f"{group['lr']:.3g}" for group in engine.optimizer.param_groups)
            logger.warning(
                f"{path} was written with other settings ({'; '.join(changed)}): the training goes on with those of "
                f"now, at learning rate {rates}"
            )

    def completed_epoch(self, engine: SupervisedTrainer) -> None:
        """Save, verify, and only then delete what is not kept."""
        epoch, last = engine.state.epoch, engine.state.epoch == engine.state.max_epochs
        if engine.state.rank != 0:
            return
        try:
            with deferred_signals():
                # Before the checkpoint: a crash in between repeats this epoch, and so writes the best model again.
                if self.evaluator is not None and self.evaluator.state.best_metric_epoch == epoch:
                    self._write(self._model_state(), "model.pt")
                if epoch % self.interval == 0 or last:
                    self._write(self._state(engine), f"checkpoint_epoch={epoch}.pt")
                    self._write(self._model_state(), "model_last.pt")
                    self._prune(epoch)
            self._failures = 0
        except ResourceError as error:
            self._failures += 1
            if last or self._failures >= self.tries:
                raise
            logger.error(f"{error}; training goes on, {self.tries - self._failures} more tries")

    def _write(self, state: Mapping[str, Any], name: str) -> None:
        """Write and read back; the first checkpoint of this handler is unpacked, too, as what it holds stays alike."""
        path = self.folder / name
        write_checkpoint(state, path)
        unpack = "trainer" in state and not self._unpacked
        problem = _read(path)[1] if unpack else _damage(path)
        if problem is not None:
            raise WeightsError(f"{path}, just written, {problem}; check the disk and what save_dict holds")
        self._unpacked |= unpack

    def _prune(self, epoch: int) -> None:
        complete = sorted((n, path) for n, path in _checkpoints(self.folder).items() if n <= epoch)
        for _, path in complete[: -self.keep]:
            path.unlink()
            sidecar(path).unlink(missing_ok=True)

    def _model_state(self) -> dict[str, Any]:
        return {"model": self.objects["model"].state_dict(), "metadata": {**self.metadata, **self.facts}}

    def _state(self, engine: SupervisedTrainer) -> dict[str, Any]:
        trainer = {
            "epoch": engine.state.epoch,
            "epoch_length": engine.state.epoch_length,
            "batch_size": getattr(engine.data_loader, "batch_size", None),
            "has_gradient": [parameter.grad is not None for parameter in _parameters(engine)],
            "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
            "course": self.course,
            "surroundings": _surroundings(engine),
        }
        if self.evaluator is not None:
            trainer["best_metric"] = float(self.evaluator.state.best_metric)
            trainer["best_metric_epoch"] = self.evaluator.state.best_metric_epoch
        states = {name: thing.state_dict() for name, thing in self.objects.items()}
        return {**states, "trainer": trainer, "metadata": {**self.metadata, **self.facts}}

    def _load(self, engine: SupervisedTrainer, path: Path, checkpoint: Mapping[str, Any]) -> None:
        differences = self._differences(checkpoint, engine)
        if differences:
            raise WeightsError(
                f"{path} belongs to another training: {'; '.join(differences)}; set these back, or choose another "
                "ckpt_dir"
            )
        for name, thing in self.objects.items():
            try:
                thing.load_state_dict(checkpoint[name])
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise WeightsError(f"{path}: the state of {name!r} does not fit: {error}") from error
        trainer = checkpoint["trainer"]
        for parameter, has_gradient in zip(_parameters(engine), trainer["has_gradient"], strict=True):
            parameter.grad = torch.zeros_like(parameter) if has_gradient else None
        if engine.scaler is not None and trainer["scaler"] is not None:
            engine.scaler.load_state_dict(trainer["scaler"])
        if self.evaluator is not None and "best_metric" in trainer:
            self.evaluator.state.best_metric = trainer["best_metric"]
            self.evaluator.state.best_metric_epoch = trainer["best_metric_epoch"]
        engine.state.epoch = trainer["epoch"]
        engine.state.iteration = trainer["epoch"] * trainer["epoch_length"]
        self._course_changes = changes(trainer.get("course", {}), self.course)
        there, here = trainer.get("surroundings", {}), _surroundings(engine)
        if changed := [
            f"{key}: {there[key]} there, {here.get(key)} here" for key in there if there[key] != here.get(key)
        ]:
            logger.warning(
                f"{path} was written in other surroundings ({'; '.join(changed)}): the training goes on, but its last "
                "bits will differ from those of one that was never stopped"
            )

    def _differences(self, checkpoint: Mapping[str, Any], engine: SupervisedTrainer) -> list[str]:
        """What keeps this checkpoint from being continued here, in words; empty if nothing does.

        Tensors are named where nothing else tells why the network is another.
        """
        trainer = checkpoint["trainer"]
        saved = {**_flat(checkpoint["metadata"]), "iterations per epoch": trainer["epoch_length"]}
        here = {**_flat(self.metadata), "iterations per epoch": engine.state.epoch_length}
        if "batch_size" in trainer:
            saved["batch size"], here["batch size"] = (
                trainer["batch_size"],
                getattr(engine.data_loader, "batch_size", None),
            )
        differences = [
            f"{key} is {saved.get(key)} there and {here.get(key)} here"
            for key in {**saved, **here}
            if key not in self.facts and saved.get(key) != here.get(key)
        ]
        if differences:
            return differences
        names = set(checkpoint) - {"trainer", "metadata"}
        differences += [f"{name!r} is only there" for name in sorted(names - set(self.objects))]
        differences += [f"{name!r} is only here" for name in sorted(set(self.objects) - names)]
        for name in sorted(names & set(self.objects)):
            if isinstance(thing := self.objects[name], nn.Module) and not differences:
                differences += _tensor_differences(name, checkpoint[name], thing.state_dict())
        if not differences and len(trainer["has_gradient"]) != len(_parameters(engine)):
            differences.append("the optimizer has another number of parameters")
        return differences


def _flat(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """With each setting of the network beside the others, by its name."""
    settings = metadata.get("settings")
    rest = {key: value for key, value in metadata.items() if key != "settings"}
    return {**rest, **settings} if isinstance(settings, Mapping) else dict(metadata)


def _tensor_differences(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = [f"{name}.{key} is only there" for key in there if key not in here]
    found += [f"{name}.{key} is only here" for key in here if key not in there]
    found += [
        f"{name}.{key} is {tuple(there[key].shape)} there and {tuple(here[key].shape)} here"
        for key in here
        if key in there and isinstance(here[key], torch.Tensor) and there[key].shape != here[key].shape
    ]
    return found[:SHOWN] + ([f"{len(found) - SHOWN} more in {name}"] if len(found) > SHOWN else [])


def _surroundings(engine: SupervisedTrainer) -> dict[str, Any]:
    """What the last bits of a training depend on and no state holds: sums over threads are added in another order."""
    return {
        "threads of torch": torch.get_num_threads(),
        "workers of the data loader": getattr(engine.data_loader, "num_workers", 0),
        "torch": str(torch.__version__),
        "Numba": find_spec("numba") is not None,
    }


def _parameters(engine: SupervisedTrainer) -> list[nn.Parameter]:
    return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]


def _checkpoints(folder: Path) -> dict[int, Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return {int(match[1]): path for path in paths if (match := NAME.fullmatch(path.name))}


def _newest(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The newest checkpoint that verifies, and what it holds."""
    for _, path in sorted(_checkpoints(folder).items(), reverse=True):
        state, problem = _read(path)
        if problem is None:
            return path, state
        logger.warning(f"{path} {problem}; passed over")
    return None, {}


def _damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, as the end of a sentence about it."""
    if not path.is_file():
        return "does not exist"
    expected = checksums(path)
    if expected is None:
        return "cannot be verified: its .sha256 file is missing"
    actual = sha256(path)
    if actual not in expected:
        return f"is damaged: its SHA-256 is {actual} instead of {' or '.join(expected) or 'anything'}"
    return None


def _read(path: Path) -> tuple[dict[str, Any], str | None]:
    """What a checkpoint holds, and what is wrong with it, as `_damage` says it."""
    problem = _damage(path)
    if problem is not None:
        return {}, problem
    try:
        return torch.load(path, map_location="cpu", weights_only=True), None
    except Exception as error:  # torch documents no closed list for foreign files
        return {}, f"is no checkpoint of tensors and plain values: {first_line(error)}"


def _disk_error(error: BaseException | None) -> OSError | None:
    """What the disk said that is or caused ``error``: torch wraps what its file raises."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error
        error = error.__cause__ or error.__context__
    return None


class _Hasher:
    """A file for ``torch.save`` that hashes what should be written, so that reading it back checks the disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
