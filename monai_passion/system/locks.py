"""A lock for one writer per folder."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from monai_passion.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["RunLock"]

logger = logging.getLogger(__name__)

_held: set[tuple[int, Path]] = set()
"""Process and file. The system would give a process its own lock again, and take both when either file is closed."""


class RunLock:
    """Keeps a second writer out of a folder, such as a second training: ``train.lock`` names process and host of the
    first.

    The operating system holds the lock (``lockf``) and releases it when the process ends in any way, on any host of a
    shared file system. So the file that a killed training leaves behind is recognized as stale. If this process holds
    the lock already by another `RunLock`, it stays with that one.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = "train.lock", work: str = "training") -> None:
        self.path = Path(folder) / name
        self.work = work
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            UsageError: another process, which the message names, works in this folder.
        """
        if self._mark() in _held:
            return
        if fcntl is None:
            logger.warning(f"this system has no file locks; start no second {self.work} in the same folder")
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            owner = os.read(file, 1000).decode(errors="replace").strip()
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                os.close(file)
                raise self._taken(owner or "just starting") from None
            except OSError as error:
                logger.warning(f"{self.path} cannot be locked ({error}); start no second {self.work} in this folder")
            if self.path.exists() and os.path.samestat(os.fstat(file), self.path.stat()):
                break
            os.close(file)  # its owner finished and deleted it between our two steps
        if owner:
            logger.warning(f"{self.path} is stale: that {self.work} ({owner}) is gone; taking over")
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on host {socket.gethostname()}\n".encode(), 0)
        self._file = file
        _held.add(self._mark())

    def release(self) -> None:
        """Delete the file and release the lock; nothing happens if this object does not hold it."""
        if self._file is not None:
            _held.discard(self._mark())
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def check(self) -> None:
        """Check that no other process holds the lock, without taking it.

        Raises:
            UsageError: see `acquire`.
        """
        if (owner := self.owner()) is not None:
            raise self._taken(owner)

    def _mark(self) -> tuple[int, Path]:
        return os.getpid(), self.path.resolve()

    def _taken(self, owner: str) -> UsageError:
        who = f"{self.path.parent} is in use by another {self.work} ({owner})"
        return UsageError(f"{who}; wait for it, stop it, or give another folder")

    def owner(self) -> str | None:
        """The other process that holds the lock, in words; None if there is none. Nothing is changed."""
        if fcntl is None or self._mark() in _held:
            return None
        try:
            file = os.open(self.path, os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError | PermissionError):
                return os.read(file, 1000).decode(errors="replace").strip() or "a process that is just starting"
        finally:
            os.close(file)
        return None
