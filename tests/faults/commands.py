"""The real commands, each in a process of its own that shares the libraries this one has imported: that saves half a
minute a command, and what runs is the same ``__main__``, up to the exit code."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _main(module: str, arguments: list[str], log: Path, before: Callable[[], object] | None) -> None:
    os.setsid()  # a signal for it is for nobody else
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [module, *arguments]
    if before is not None:
        before()
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        try:  # as the interpreter does
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            code = 1
        except SystemExit as end:
            code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if code is None else int(code))  # type: ignore[call-overload]


class Command:
    """``python -m module arguments``, running; ``before`` is called in its process first."""

    def __init__(self, module: str, *arguments: Any, log: Path, before: Callable[[], object] | None = None) -> None:
        self.log = log
        log.write_text("")
        self.process = multiprocessing.get_context("fork").Process(
            target=_main, args=(module, [str(argument) for argument in arguments], log, before)
        )
        self.process.start()

    def wait(self, seconds: float = 600) -> int:
        """The exit code; negative for a signal."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running: {self.said}"
        return self.process.exitcode

    def until(self, condition: Callable[[], object], seconds: float = 600) -> bool:
        """Wait; False if it ended first."""
        end = time.monotonic() + seconds
        while not condition():
            if not self.process.is_alive():
                return False
            assert time.monotonic() < end, f"nothing happens: {self.said}"
            time.sleep(0.005)
        return True

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


def predict(*arguments: Any, log: Path, **options: Any) -> Command:
    return Command("monai_passion", "predict", *arguments, log=log, **options)


def bundle_run(run_id: str, bundle: Path, config: str, *arguments: Any, log: Path, **options: Any) -> Command:
    """``python -m monai.bundle run``; arguments as ``("--epochs", 2)``."""
    config_file = bundle / "configs" / f"{config}.json"
    return Command("monai.bundle", "run", run_id, "--config_file", config_file, *arguments, log=log, **options)
