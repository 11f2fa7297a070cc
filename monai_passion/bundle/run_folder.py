"""The folder of a training: may one begin, resume or replace an earlier one there, and what is left at its end."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_passion.bundle.run import ARGUMENTS, training_arguments
from monai_passion.errors import UsageError
from monai_passion.system.locks import RunLock
from monai_passion.system.logs import LOG
from monai_passion.system.output import check_folder

__all__ = ["run_folder"]

MAY_CHANGE = {"epochs", "device", "num_workers", "learning_rate", "val_interval", "save_interval", "precision"}
MAY_CHANGE |= {"cache_rate", "cache_dir", "resume", "deterministic"}
"""Settings that may be others when a training goes on."""
CHECKPOINTS = "checkpoint_epoch=*.pt"
WEIGHTS = (CHECKPOINTS, "model.pt", "model_last.pt", "model.safetensors")
WRITTEN = (
    ARGUMENTS,
    *(f"{name}{more}" for name in WEIGHTS for more in ("", ".sha256")),
    "curves.csv",
    LOG,
    "datalist.json",
    "presence.csv",
    "events.*",
)
"""Files that a training writes into its folder."""
EARLIER = ".earlier"
"""Sub-folder that keeps an earlier training until the new one has a checkpoint."""
MOVING = ".earlier.moving"
"""Name of that sub-folder while files move there or back; files that a kill leaves in it belong in the folder."""


@contextmanager
def run_folder(output: Path, arguments: Mapping[str, Any], overwrite: bool, made: Path | None) -> Iterator[None]:
    """Within the block, only this process uses the folder, and an earlier training is moved aside.

    A training that ends without a checkpoint leaves the folder as it was: the earlier training is moved back, after a
    kill at the next start.

    Args:
        output: the folder, which need not exist.
        arguments: those of the training.
        overwrite: start anew even if there is an earlier training.
        made: the bundle that will be made in it, if any.

    Raises:
        UsageError: another process works there; it holds other files; without ``overwrite``, it holds a training with
            other settings; with ``overwrite``, it holds an input or files that no training wrote.
        ResourceError: nothing can be written there.
    """
    was_there = output.exists()
    lock = RunLock(output)
    if any((output / name).is_dir() for name in (EARLIER, MOVING)):
        lock.acquire()
        _settle(output, made)
        lock.release()
    _check(output, arguments, overwrite, made)
    lock.acquire()
    try:
        if overwrite:
            _move(_written(output, made), output / MOVING)
            (output / MOVING).rename(output / EARLIER)
        try:
            yield
        finally:
            if not _began(output):
                _remove(_written(output, made))
            _settle(output, made)
    finally:
        lock.release()
        if not was_there and not any(output.iterdir()):
            output.rmdir()


def _check(output: Path, arguments: Mapping[str, Any], overwrite: bool, made: Path | None) -> None:
    """Refuse what `run_folder` does."""
    check_folder(output)
    RunLock(output).check()
    if not output.is_dir() or not any(output.iterdir()):
        return
    before = training_arguments(output)
    if not overwrite:
        if before is None:
            raise UsageError(f"--output {output} is not empty; give another folder, or add --overwrite")
        keys = [key for key in {**before, **arguments} if key not in MAY_CHANGE]
        if other := [
            f"{key} {before.get(key)} -> {arguments.get(key)}"
            for key in keys
            if before.get(key) != arguments.get(key) and not _only_moved(key, before, arguments, output)
        ]:
            raise UsageError(
                f"{output} holds a training with other settings ({'; '.join(other)}); give another --output, or add "
                "--overwrite to start anew"
            )
        return
    written = [path.resolve() for path in _written(output, made)]
    for key, value in arguments.items():
        given = _path(value)
        if given is not None and any(given.is_relative_to(path) for path in written):
            raise UsageError(f"{given} ({key}) is an input, which --overwrite would remove; give another --output")
    if written and before is None and not any(output.glob(CHECKPOINTS)):
        names = ", ".join(path.name for path in written)
        raise UsageError(f"{output} has no training that --overwrite could replace, but {names}; give another --output")


def _only_moved(key: str, before: Mapping[str, Any], now: Mapping[str, Any], output: Path) -> bool:
    """Whether a setting is another because the run, its data or the package are elsewhere than they were."""
    from monai_passion.data.datalists import is_of

    if key == "config_file" and key in before:
        return [Path(path).parts[-3:] for path in before[key]] == [Path(path).parts[-3:] for path in now[key]]
    data = _path(now.get(key)) if key == "dataset_dir" else None
    return key == "ckpt_dir" or (data is not None and is_of(output / "datalist.json", data))


def _path(value: Any) -> Path | None:
    """What a setting may name; None where it is no text or an expression."""
    from monai_passion.bundle.settings import from_text

    try:
        return Path(from_text(value)).resolve()
    except (AttributeError, ValueError, SyntaxError, OSError):
        return None


def _written(output: Path, made: Path | None) -> list[Path]:
    own = [made] if made is not None and made.exists() else []
    return [*(path for pattern in WRITTEN for path in output.glob(pattern)), *own]


def _began(output: Path) -> bool:
    return any(any(output.glob(name)) for name in WEIGHTS)


def _settle(output: Path, made: Path | None) -> None:
    """An earlier training comes back where the new one, maybe killed, never began, and is removed where it did."""
    aside, moving = output / EARLIER, output / MOVING
    if aside.is_dir() and _began(output):
        shutil.rmtree(aside)
    elif aside.is_dir():
        _remove(_written(output, made))
        aside.rename(moving)
    if moving.is_dir():
        _move(moving.iterdir(), output)
        moving.rmdir()


def _move(paths: Iterable[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in list(paths):
        path.rename(folder / path.name)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
