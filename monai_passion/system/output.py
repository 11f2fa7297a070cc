"""Output of results: older results are replaced only on request; new ones appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from monai_passion.errors import ResourceError, UsageError, cannot_write
from monai_passion.system.files import PathLike

__all__ = ["check_folder", "leftovers", "output_folder", "refuse_older", "writing"]

UNFINISHED = "unfinished"
"""Word in the names of our temporary folders, before the process number; nothing else beside a result is ours."""
_own: set[Path] = set()
"""Temporary folders of this process."""


def check_folder(output: Path) -> None:
    """Check, before anything is computed, that files may be written to a folder, which need not exist.

    Raises:
        UsageError: it is a file, or a broken link.
        ResourceError: nothing can be written there.
    """
    _refuse_dangling(output)
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; give a folder")
    _try_to_write(output, output)


def _refuse_dangling(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise UsageError(
            f"--output {path} is a link to {os.readlink(path)}, which is not there; make that, or remove the link"
        )


def _try_to_write(path: Path, below: Path) -> None:
    home = next(folder for folder in (below.absolute(), *below.absolute().parents) if folder.exists())
    with writing(path), tempfile.TemporaryFile(dir=home):
        pass


def refuse_older(path: Path, overwrite: bool = False, inputs: Iterable[PathLike | None] = ()) -> None:
    """Check, before anything is computed, that a file may be written, which must not be an input.

    Raises:
        UsageError: it is a folder, an input or a broken link; or it exists, without ``overwrite``.
        ResourceError: nothing can be written there.
    """
    _refuse_dangling(path)
    if path.is_dir():
        raise UsageError(f"--output {path} is a folder; give a file")
    if any(given is not None and os.path.realpath(given) == os.path.realpath(path) for given in inputs):
        raise UsageError(f"--output {path} is an input; give another file")
    if path.exists() and not overwrite:
        raise UsageError(f"--output {path} exists; give another file, or add --overwrite")
    _try_to_write(path, path.parent)


@contextmanager
def output_folder(
    output: Path,
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
    last: str = "report.json",
    replaces: Iterable[str] = (),
) -> Iterator[Path]:
    """A temporary folder; its files become those of ``output`` if the block succeeds, else it is removed.

    A new folder appears in one step. An existing folder stays, since it may be a link or a mount point: the files are
    moved into it, ``last`` as the last of them.

    Args:
        output: missing, an empty folder or, given ``overwrite``, any folder: files and folders of the same name are
            replaced, others stay.
        inputs: files that must not lie in ``output``, since they might be replaced.
        overwrite: see ``output``.
        last: the file that shows that all others are there.
        replaces: names of files and folders of an earlier result; those that the new result lacks are removed.

    Raises:
        UsageError: ``output`` holds files or an input, or is a file or a broken link; another run writes there, or did
            meanwhile.
        ResourceError: nothing can be written there (found out at once), or the disk is full.
    """
    check_folder(output)
    within = output.is_dir()
    with writing(output):
        beside = output if within else output.parent
        _refuse_others(output, beside)
        if within and any(output.iterdir()) and not overwrite:
            raise UsageError(f"--output {output} is not empty; give another folder, or add --overwrite")
        home = os.path.realpath(output)
        for path in inputs if within else ():
            if home in (os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path))):
                raise UsageError(f"{path} is an input and might be replaced; give another --output")
        temporary = beside / f".{output.resolve().name}.{UNFINISHED}.{os.getpid()}"
        made = [folder for folder in temporary.parents if not folder.exists()]
        temporary.mkdir(parents=True)
    _own.add(temporary.absolute())
    try:
        yield temporary
        with writing(output):
            if not overwrite and output.is_dir() and {*output.iterdir()} - {temporary}:
                raise UsageError(f"another run wrote to --output {output} meanwhile; give another folder")
            if not output.is_dir():
                os.replace(temporary, output)
            else:
                for name in set(replaces) - {path.name for path in temporary.iterdir()}:
                    if (output / name).is_dir() and not (output / name).is_symlink():
                        shutil.rmtree(output / name, ignore_errors=True)
                    else:
                        (output / name).unlink(missing_ok=True)
                for path in sorted(temporary.iterdir(), key=lambda path: path.name == last):
                    if path.is_dir():
                        shutil.rmtree(output / path.name, ignore_errors=True)
                    os.replace(path, output / path.name)
    finally:
        _own.discard(temporary.absolute())
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # the folders above it are there for a result, or for what others put there
            for folder in made:
                folder.rmdir()


def leftovers(home: Path, names: Collection[str]) -> list[Path]:
    """The temporary folders in ``home`` of runs into folders with these names, running or not."""
    found = [path for path in home.glob(f".*.{UNFINISHED}.*") if path.is_dir() and path.suffix[1:].isdecimal()]
    return [path for path in found if path.name[1:].removesuffix(f".{UNFINISHED}{path.suffix}") in names]


def _refuse_others(output: Path, home: Path) -> None:
    """Remove temporary folders of killed runs into ``output``; refuse to go on while one of them is active.

    Raises:
        UsageError: another run still writes to ``output``.
    """
    for path in leftovers(home, [output.resolve().name]):
        process = path.suffix[1:]
        # A number of this very process is that of an earlier one, as in a container, where each is number 1.
        if path.absolute() in _own if int(process) == os.getpid() else _is_running(int(process)):
            raise UsageError(
                f"process {process} writes to --output {output}; wait for it, or give another folder "
                f"(if there is no such run, remove {path})"
            )
        shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere a signal ends it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """A block that writes to ``output``.

    Raises:
        ResourceError: in place of the ``OSError`` that a full disk or a read-only folder causes within the block.
    """
    try:
        yield
    except OSError as error:
        raise ResourceError(cannot_write(error, output)) from error
