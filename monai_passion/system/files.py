"""Write files so that they are complete or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_passion.errors import InputError, PassionError, ResourceError

__all__ = [
    "PathLike",
    "checksums",
    "json_text",
    "read_json",
    "sha256",
    "sidecar",
    "sync_folder",
    "write_atomically",
    "write_json",
    "write_text",
]

PathLike = str | os.PathLike[str]


def write_atomically(path: PathLike, write: Callable[[Path], object]) -> Path:
    """Call ``write(temporary)`` for a name in the folder of ``path``, then put that file in place in one step.

    Missing folders are made. When ``write`` fails, or the machine dies, an older ``path`` stays as it was.

    Raises:
        ResourceError: the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask wants it; some libraries write files for their owner alone
            write(temporary)
            temporary.chmod(mode)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ResourceError(f"cannot write {path} ({reason}); free some space or choose another folder") from error
    return path


def write_text(path: PathLike, text: str) -> Path:
    """`write_atomically` for UTF-8 text; surrogates, as in file names that are not UTF-8, are written as escapes."""
    return write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    )


def read_json(path: PathLike, remedy: str, kind: type[PassionError] = InputError) -> Any:
    """The content of a JSON file in UTF-8.

    Args:
        path: of the file.
        remedy: what to do, the end of the message.
        kind: of the error.

    Raises:
        InputError: (or ``kind``) it cannot be read or is not JSON; the message names the file, the reason, the remedy.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise kind(f"{path} cannot be read ({error.strerror or error}); {remedy}") from error
    except ValueError as error:
        raise kind(f"{path} is not JSON ({error}); {remedy}") from error


def write_json(path: PathLike, content: Mapping[str, Any]) -> Path:
    """`write_text` for JSON that people read: lists of plain values stand on one line."""
    return write_text(path, json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """The text that `write_json` writes."""
    plain = r'(?:"[^"\n]*"|[-+.\w]+)'
    listed = re.compile(rf"\[\s+({plain}(?:,\s+{plain})*)\s+\]")

    def joined(match: re.Match[str]) -> str:
        line = "[" + re.sub(r"\n\s+", " ", match[1]) + "]"
        return line if len(line) <= 100 else match[0]

    return listed.sub(joined, json.dumps(content, indent=2)) + "\n"


def sync_folder(folder: Path) -> None:
    """Make sure that renamed files in a folder stay renamed after a power cut."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(*paths: PathLike) -> str:
    """The SHA-256 of a file, or of several one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def sidecar(path: Path) -> Path:
    """``<file>.sha256``, the checksum beside a file, in the format of ``sha256sum``."""
    return path.with_name(path.name + ".sha256")


def checksums(path: Path) -> list[str] | None:
    """The SHA-256 sums in the `sidecar` of a file; None if there is none.

    There are two sums while `monai_passion.handlers.checkpoint.write_checkpoint` replaces the file.

    Raises:
        OSError: it cannot be read.
    """
    try:
        text = sidecar(path).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    return [line.split()[0].lower() for line in text.splitlines() if line.strip()]
