"""The output of one patient: there as a whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_passion.data.nifti import read_geometry
from monai_passion.errors import ResourceError, UsageError

__all__ = ["output_folder", "write_labels", "write_map", "writing"]


@contextmanager
def output_folder(output: Path, inputs: Iterable[Path] = (), overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``output`` that takes its place when the block ends well, and is removed when not.

    Args:
        output: missing, an empty folder or, given ``overwrite``, any folder: files of the same name are replaced,
            others stay.
        inputs: files that must not be replaced.
        overwrite: see ``output``.

    Raises:
        UsageError: ``output`` holds files, is a file, or would replace an input.
        ResourceError: nothing can be written there, or the disk is full.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; give a folder")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise UsageError(f"--output {output} is not empty; give another folder, or add --overwrite")
    temporary = output.parent / f".{output.name}.{os.getpid()}"
    with writing(output):
        temporary.mkdir(parents=True)
    try:
        yield temporary
        _check_inputs(temporary, output, inputs)
        with writing(output):
            _move(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Raises:
    ResourceError: in place of the ``OSError`` that a full disk or a read-only folder causes within the block.
    """
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot write to {output} ({error.strerror or error}); free some space or give another folder"
        ) from error


def _check_inputs(temporary: Path, output: Path, inputs: Iterable[Path]) -> None:
    inputs = {path.resolve() for path in inputs}
    for file in temporary.iterdir():
        if (target := (output / file.name).resolve()) in inputs:
            raise UsageError(f"{target} is an input and would be replaced; give another --output")


def _move(temporary: Path, output: Path) -> None:
    if not output.is_dir() or not any(output.iterdir()):
        os.replace(temporary, output)  # in one step, over an empty folder too
        return
    for file in sorted(temporary.iterdir(), key=lambda file: file.name == "report.json"):  # it last: all is there
        os.replace(file, output / file.name)


def write_labels(path: Path, labels: NDArray[np.unsignedinteger], like: Path) -> None:
    """Write a label map with the geometry of another file, bit for bit, and read it back to make sure.

    Args:
        path: ends in ``.nii.gz``.
        labels: (X, Y, Z).
        like: the file whose affine, sform, qform and their codes it gets.
    """
    _write(path, labels, like, "label")


def write_map(path: Path, values: NDArray[np.float32], like: Path) -> None:
    """Write real values, as `write_labels` does labels."""
    _write(path, values, like, "none")


def _write(path: Path, values: NDArray[Any], like: Path, intent: str) -> None:
    header = read_geometry(like)
    header.set_data_shape(values.shape)
    header.set_data_dtype(values.dtype)
    header.set_intent(intent)
    image = (nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image)(values, None, header)
    nib.save(image, path)
    written = nib.load(path)
    same_codes = all(written.header[field] == header[field] for field in ("sform_code", "qform_code"))
    if not same_codes or not np.array_equal(written.affine, header.get_best_affine()):
        raise AssertionError(f"{path} was written with another affine than {like}")
    if not np.array_equal(np.asanyarray(written.dataobj), values):
        raise AssertionError(f"{path} was written with other values")
