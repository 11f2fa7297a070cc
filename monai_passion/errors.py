"""Errors that a user can correct, and the exit code of each kind.

Every message is one line: what is wrong, with which file or value, and what to do.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
import tempfile
from collections.abc import Iterable
from types import TracebackType

__all__ = [
    "EXIT_INTERRUPTED",
    "EXIT_STRICT",
    "EXIT_TERMINATED",
    "InputError",
    "PassionError",
    "ResourceError",
    "UsageError",
    "WarningsError",
    "WeightsError",
    "cannot_write",
    "did_you_mean",
    "find_passion_error",
    "first_line",
    "install_excepthook",
    "is_out_of_memory",
    "no_room",
    "passion_cause",
]

EXIT_STRICT = 6
"""Finished, but with warnings while ``--strict`` was given."""
EXIT_INTERRUPTED = 130
"""Ctrl-C."""
EXIT_TERMINATED = 143
"""SIGTERM, as a cluster's scheduler sends it."""


class PassionError(Exception):
    """Base of the errors below; raised itself, an internal error."""

    exit_code = 1


class UsageError(PassionError):
    """The command line or a configuration asks for something that does not exist or cannot be."""

    exit_code = 2


class InputError(PassionError):
    """A file or a data set cannot be used."""

    exit_code = 3


class WeightsError(PassionError):
    """Weights are missing, damaged, or belong to another network."""

    exit_code = 4


class ResourceError(PassionError):
    """Not enough memory or disk."""

    exit_code = 5


class WarningsError(PassionError):
    """Everything is done, but with warnings while ``strict`` was given."""

    exit_code = EXIT_STRICT


def first_line(error: BaseException | str) -> str:
    """The first line of what an error says, at most 200 characters; its type where it says nothing."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else "no reason given" if isinstance(error, str) else type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the known word nearest to ``word``, or ``""`` if none is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def find_passion_error(error: BaseException | None) -> PassionError | None:
    """The `PassionError` that an error is or was raised from, however often it was wrapped; None if there is none."""
    while error is not None and not isinstance(error, PassionError):
        error = error.__cause__ or error.__context__
    return error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, reports a lack of memory in Python, NumPy or torch."""
    while error is not None:
        said = f"{type(error).__name__}: {error}".lower()
        if isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError)
            and any(words in said for words in ("outofmemoryerror", "out of memory", "can't allocate memory"))
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def cannot_write(error: OSError, place: object = None) -> str:
    """The line about a place that cannot be written to, with what the system says and what to do."""
    where = f" to {place}" if place else ""
    return f"cannot write{where} ({error.strerror or error}); free some space or give another folder"


def no_room(error: BaseException | None) -> str | None:
    """A line about a disk that is full or folders that cannot be written to, if an error comes from that."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return cannot_write(error, error.filename)
        error = error.__cause__ or error.__context__
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return "no folder for temporary files can be written to; set TMPDIR to one, and MPLCONFIGDIR as well"
    return None


def passion_cause(error: BaseException) -> PassionError | KeyboardInterrupt | None:
    """The error of this package, or Ctrl-C, from which another one was raised: MONAI wraps errors of configurations.

    A ``ValueError`` of this package at the root, about a setting of a network, loss or transform, is returned as a
    `UsageError`.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PassionError | KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return cause
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    if root is not error and type(root) is ValueError and _raised_here(root.__traceback__):
        return UsageError(str(root))
    return None


def _raised_here(traceback: TracebackType | None) -> bool:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    return str(name).startswith(f"{__name__.partition('.')[0]}.")


def install_excepthook() -> None:
    """Let another program, such as ``python -m monai.bundle run``, end on our errors as the command line does.

    A `PassionError`, also a wrapped one, prints one line and sets its exit code; everything else goes to the previous
    hook. The environment variable ``MONAI_PASSION_DEBUG=1`` shows the traceback as well.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        cause = passion_cause(error)
        if cause is None or os.environ.get("MONAI_PASSION_DEBUG") == "1":
            previous(kind, error, traceback)
        if isinstance(cause, KeyboardInterrupt):
            print("monai-passion: interrupted", file=sys.stderr)
            raise SystemExit(EXIT_INTERRUPTED)  # Python takes the exit code from the hook
        if isinstance(cause, PassionError):
            print(f"monai-passion: error: {cause}", file=sys.stderr)
            raise SystemExit(cause.exit_code)

    sys.excepthook = hook
