"""SIGTERM, Ctrl-C, a killed worker: a training stops cleanly and says why."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

from monai_passion.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, ResourceError, first_line

__all__ = ["SignalHandler", "deferred_signals"]

logger = logging.getLogger(__name__)

EXIT_CODES = {signal.SIGTERM: EXIT_TERMINATED, signal.SIGINT: EXIT_INTERRUPTED}
HELD = (*EXIT_CODES, *({signal.SIGCHLD} if hasattr(signal, "SIGCHLD") else ()))
"""The last, which Windows lacks, is how torch hears of a dead worker: it raises in the midst of whatever runs."""


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defer SIGTERM, Ctrl-C and the death of a worker inside this block to its end."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    arrived: set[int] = set()
    previous = {number: signal.signal(number, lambda number, _: arrived.add(number)) for number in HELD}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number in HELD:
            if number in arrived:
                signal.raise_signal(number)


def _lost_worker(error: BaseException) -> bool:
    """Whether a worker of the data loader died; an error in a worker's transforms is another matter.

    torch has no class for it, and where it died while it handed something over, what is raised is of the pipe.
    """
    if isinstance(error, OSError | EOFError):
        modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
        return any(module.startswith("multiprocessing.") for module in modules)
    return isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error)


class SignalHandler:
    """Ends a training on SIGTERM with exit code 143 and on Ctrl-C with 130, ready to be resumed.

    Nothing is written at that moment, because nothing has to be: `CheckpointHandler` has written the last completed
    epoch, and a resumed training repeats the interrupted one bit for bit, since `EpochSeedHandler` draws its random
    numbers from the epoch alone. At most that epoch is lost, and the process ends within one operation instead of
    outlasting the grace period of a cluster. A checkpoint that is being written is finished first.

    Raises:
        ResourceError: (while training) a worker of the data loader was killed, as a system short of memory does.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._process = 0
        self._arrived: signal.Signals | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_STARTED, self.stop)
        engine.add_event_handler(Events.COMPLETED, self.restore)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.failed)

    def started(self, engine: Engine) -> None:
        if threading.current_thread() is not threading.main_thread():
            logger.warning("training outside the main thread: SIGTERM and Ctrl-C are left to the program")
            return
        self._engine, self._process, self._arrived = engine, os.getpid(), None
        self._previous = {number: signal.signal(number, self._receive) for number in EXIT_CODES}

    def failed(self, engine: Engine, error: BaseException) -> None:
        self.restore()
        if _lost_worker(error):
            if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
                # Where one was killed others follow, and each would raise anew in whatever handles the first.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            raise ResourceError(
                f"a worker of the data loader was killed in epoch {engine.state.epoch} ({first_line(error)}), most "
                "often for want of memory: the same command resumes after the last checkpoint; give it more memory, or "
                "fewer num_workers"
            ) from error
        raise error

    def restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def stop(self) -> None:
        """End here if a signal arrived where Python swallows exceptions, for example in a destructor."""
        if self._arrived is not None:
            raise SystemExit(EXIT_CODES[self._arrived])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker of the data loader; the training ends its workers itself
            return
        self.restore()
        self._arrived = signal.Signals(number)
        epoch = self._engine.state.epoch if self._engine is not None else 0
        logger.warning(
            f"{self._arrived.name} in epoch {epoch}: stopping; the same command resumes after the last "
            "checkpoint and repeats this epoch exactly"
        )
        self.stop()
