"""Write label maps and maps of real values in the geometry of the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_passion.data.nifti import read_geometry

__all__ = ["write_labels", "write_map"]


def write_labels(path: Path, labels: NDArray[np.unsignedinteger], like: Path) -> None:
    """Write a label map with the geometry of another file, bit for bit, and read it back to make sure.

    Args:
        path: ends in ``.nii.gz``.
        labels: (X, Y, Z).
        like: the file whose affine, sform, qform and their codes it gets.
    """
    _write(path, labels, like, "label")


def write_map(path: Path, values: NDArray[np.float32], like: Path) -> None:
    """Write real values with the geometry of another file, like `write_labels`."""
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
