"""Run the cells of a grid, several at a time, until each is done or has failed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from monai_passion.experiment.cell import EXIT_BUSY
from monai_passion.experiment.folders import is_done, read_state
from monai_passion.system.engines import Engine, Process, end_processes
from monai_passion.system.locks import RunLock
from monai_passion.system.status import time_text

__all__ = ["run_cells"]


def run_cells(
    folders: Sequence[Path],
    engine: Engine,
    report: Callable[[str], object] = print,
    *,
    every: float = 60.0,
    pause: float = 0.5,
) -> dict[Path, int]:
    """Run the cells that are not done, in order; return the exit code of each cell that failed.

    A folder in which another process works is left for later. When this function ends, in whatever way, the cells that
    it started have ended.

    Args:
        folders: of `monai_passion.experiment.folders.prepare`.
        engine: starts them, ``engine.jobs`` at a time.
        report: called with each line of progress.
        every: seconds between two lines while nothing happens.
        pause: seconds between two looks.
    """
    waiting = deque(folder for folder in folders if not is_done(folder))
    total, skipped = len(folders), len(folders) - len(waiting)
    report(f"{total} cells, {skipped} of them done before, {len(waiting)} to run")
    running: dict[Path, Process] = {}
    failed: dict[Path, int] = {}
    began = last = time.monotonic()
    before = _work(folders)
    try:
        while waiting or running:
            for _ in range(len(waiting)):
                if engine.jobs is not None and len(running) >= engine.jobs:
                    break
                folder = waiting.popleft()
                if is_done(folder):
                    report(f"{folder.name} was done elsewhere")
                elif RunLock(folder).owner():
                    waiting.append(folder)
                else:
                    running[folder] = engine.start(("monai_passion.experiment.cell", str(folder)), folder / "log.txt")
                    report(f"{folder.name} started, from epoch {read_state(folder).epoch}")
            for folder, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[folder]
                if code == EXIT_BUSY:
                    waiting.append(folder)
                    continue
                state = read_state(folder)
                if code or state.state != "done":
                    failed[folder] = code or 1
                    report(f"{folder.name} failed with exit code {code}: {state.note}; see {folder / 'log.txt'}")
                else:
                    done = sum(map(is_done, folders))
                    report(f"{folder.name} done, {done} of {total}{_left(folders, failed, began, before)}")
            if time.monotonic() - last >= every:
                last = time.monotonic()
                report(", ".join(_progress(running)) + _left(folders, failed, began, before))
            if waiting or running:
                time.sleep(pause)
    finally:
        end_processes(running.values(), pause)
    return failed


def _work(folders: Sequence[Path]) -> float:
    return sum(read_state(folder).fraction for folder in folders)


def _progress(running: dict[Path, Process]) -> list[str]:
    states = {folder: read_state(folder) for folder in running}
    return [f"{folder.name} {s.epoch}/{s.epochs}" for folder, s in states.items()] or ["all cells are busy elsewhere"]


def _left(folders: Sequence[Path], failed: dict[Path, int], began: float, before: float) -> str:
    """Time left, from the work that was done since the start."""
    work = _work(folders)
    todo = sum(1 - read_state(folder).fraction for folder in folders if folder not in failed)
    if work <= before or todo == 0:
        return ""
    return f"; about {time_text((time.monotonic() - began) / (work - before) * todo)} left"
