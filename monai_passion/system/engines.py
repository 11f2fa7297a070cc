"""Where long work runs: as processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from monai_passion.errors import UsageError
from monai_passion.system.parent import GRACE

__all__ = ["Engine", "LocalEngine", "Process", "RayEngine", "end_processes"]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Process(Protocol):
    """A process that runs; `subprocess.Popen` is one."""

    def poll(self) -> int | None:
        """Its exit code once it has ended."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


class Engine(Protocol):
    """Starts processes: a module, its arguments, and last the id of the process that they end with.

    Attributes:
        jobs: how many at a time; None leaves that to the engine.
    """

    jobs: int | None

    def start(self, arguments: Sequence[str], log: Path) -> Process: ...


class LocalEngine:
    """Processes of this machine, ``jobs`` at a time with ``threads`` each."""

    def __init__(self, jobs: int = 1, threads: int = 1) -> None:
        self.jobs, self.threads = jobs, threads

    def start(self, arguments: Sequence[str], log: Path) -> Process:
        return start_process(arguments, log, self.threads)


def start_process(arguments: Sequence[str], log: Path, threads: int) -> subprocess.Popen[bytes]:
    """A process in a session of its own: Ctrl-C reaches the one that started it, which then ends it."""
    command = [sys.executable, "-m", *arguments, str(os.getpid())]
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


class RayEngine:
    """Tasks of the Ray cluster that ``RAY_ADDRESS`` names, else of one that is made on this machine.

    Every node needs this package and the same folders at the same place.

    Args:
        jobs: at a time; None: as many as the cluster has room for.
        threads: CPUs of each.
        gpus: of each; 0.25 puts four on one card.

    Raises:
        UsageError: Ray is not installed.
    """

    def __init__(self, jobs: int | None = None, threads: int = 1, gpus: float = 0.0) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError("--engine ray needs Ray; install it with: pip install 'monai_passion[ray]'") from None
        self.jobs, self.threads, self.ray = jobs, threads, ray
        own = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        before = signal.getsignal(signal.SIGTERM)
        ray.init(log_to_driver=False, ignore_reinit_error=True, **own)
        signal.signal(signal.SIGTERM, before)  # Ray's own handler aborts, and the tasks would not be ended
        # what is started resumes by itself, so a lost node costs little; three attempts, then it counts as failed
        self.remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=2)(run_process)

    def start(self, arguments: Sequence[str], log: Path) -> Process:
        return _RayTask(self.ray, self.remote.remote(list(arguments), str(log), self.threads))


def run_process(arguments: Sequence[str], log: str, threads: int) -> int:
    """Run a process to its end. Where this one is killed, that one notices and ends by itself."""
    return start_process(arguments, Path(log), threads).wait()


class _RayTask:
    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    def poll(self) -> int | None:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            return int(self.ray.get(self.reference))
        except self.ray.exceptions.RayError:
            return 1

    def terminate(self) -> None:
        self.ray.cancel(self.reference, force=True)  # a gentle one does not reach a process that waits for another

    kill = terminate


def end_processes(processes: Iterable[Process], pause: float = 0.1) -> None:
    """Ask them to end, and end those that do not within `GRACE` seconds."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(min(pause, 0.1))
    for process in processes:
        if process.poll() is None:
            process.kill()
