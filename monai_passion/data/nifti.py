"""NIfTI files, read with nibabel alone: a header is judged before its voxels are touched, and nothing is guessed."""

from __future__ import annotations

import gzip
import io
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from monai_passion.errors import InputError, first_line

__all__ = [
    "GRID_TOLERANCE_MM",
    "MAX_VOXELS",
    "SPACING_MM",
    "Grid",
    "Header",
    "Volume",
    "check_same_grid",
    "grid_distance",
    "read_geometry",
    "read_header",
    "read_volume",
    "read_volumes",
    "same_grid",
]

UNITS = {1: "meters", 3: "micrometers"}
"""Of space, by their codes in ``xyzt_units``, other than mm."""
SPACING_MM = (0.2, 30.0)
"""Distances between voxels that occur in MRI of patients; cardiac short-axis stacks reach 23 mm."""
MAX_VOXELS = 2**28
"""1 GiB as float32: more than any clinical MRI, less than a header can claim."""
GRID_TOLERANCE_MM = 0.01
MAX_NONFINITE = 0.01
"""Fraction of voxels that may be NaN or infinite."""
HUGE = 1e12
"""No MRI stores such a value, and its square would leave float32; it counts as infinite."""
MAX_OFFSET = 2**26
"""Bytes before the voxels: header and extensions."""

_GEOMETRY = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
"""The fields of a NIfTI header that place its voxels in space."""
_QUIET = logging.Logger("nibabel", level=logging.CRITICAL + 1)
"""For what nibabel mends by itself; what matters becomes an error or a note."""


class Grid(Protocol):
    """A grid in scanner space: a shape of three axes and an affine, voxel index -> mm."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def affine(self) -> NDArray[np.float64]: ...


class Header(NamedTuple):
    """What a file says about itself."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    """(4, 4), voxel index -> mm in RAS+."""
    path: Path
    notes: tuple[str, ...]
    """Oddities of the file that do not stop its use."""


class Volume(NamedTuple):
    """One 3-D image in memory."""

    data: NDArray[np.float32]
    """(X, Y, Z), finite."""
    affine: NDArray[np.float64]
    """(4, 4), voxel index -> mm in RAS+."""
    path: Path
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape


def read_header(path: str | os.PathLike[str], *, num_volumes: int = 1, max_voxels: int = MAX_VOXELS) -> Header:
    """Shape and affine of a file, without its voxels.

    The affine is the sform, else the qform, else the voxel sizes alone; where they disagree a note says so.

    Args:
        path: a single-file NIfTI-1 or NIfTI-2, compressed or not, whatever its name ends in.
        num_volumes: 1 for a 3-D file (a 4-D one with a single volume is taken as 3-D, with a note),
            more for a 4-D file with exactly so many.
        max_voxels: more than these are refused.

    Raises:
        InputError: the file is not NIfTI, is empty, 2-D, RGB or complex, has another number of volumes, or an
            impossible affine, voxel size or scaling.
    """
    path = Path(path)
    with _open(path) as stream:
        return _judge(path, _header(path, stream), num_volumes, max_voxels)


def read_volume(path: str | os.PathLike[str], *, max_voxels: int = MAX_VOXELS) -> Volume:
    """The 3-D image in a file, as float32 with the file's scaling applied; see `read_volumes`."""
    return read_volumes(path, max_voxels=max_voxels)[0]


def read_volumes(
    path: str | os.PathLike[str],
    num_volumes: int = 1,
    wanted: Sequence[int] = (0,),
    *,
    max_voxels: int = MAX_VOXELS,
) -> list[Volume]:
    """The wanted volumes of a file; values of the others have no influence.

    A few NaN become 0, a few infinite or absurdly large values become the largest finite value of their sign;
    both are noted.

    Args:
        path: see `read_header`.
        num_volumes: how many volumes the file must have.
        wanted: which of them, in this order.
        max_voxels: more than these, all volumes together, are refused.

    Raises:
        InputError: as `read_header`; also a file that is cut short or damaged, and one of whose voxels
            1 % or more are NaN or infinite.
    """
    path = Path(path)
    with _open(path) as stream:
        raw = _header(path, stream)
        header = _judge(path, raw, num_volumes, max_voxels)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = np.asarray(ArrayProxy(stream, raw, mmap=False), dtype=np.float32)
            stream.read(1)  # a gzip stream checks its sum only at its very end
        except (EOFError, OSError, ValueError, zlib.error) as error:
            raise InputError(
                f"{path} is cut short or damaged ({first_line(error)}); copy or export it again"
            ) from error
    data = scaled.reshape(*header.shape, num_volumes)
    volumes = []
    for volume in wanted:
        finite, notes = _finite(path, np.ascontiguousarray(data[..., volume]))
        volumes.append(Volume(finite, header.affine, path, header.notes + notes))
    return volumes


def grid_distance(a: Grid, b: Grid) -> float:
    """The largest distance (mm) between corresponding corners of two volumes of the same shape."""
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in a.shape))])
    return float(np.linalg.norm(corners @ (a.affine - b.affine).T, axis=1).max())


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two volumes have the same shape, and corners within 0.01 mm of each other."""
    return a.shape == b.shape and grid_distance(a, b) < GRID_TOLERANCE_MM


def check_same_grid(a: Volume | Header, b: Volume | Header) -> None:
    """Refuse two volumes on different grids.

    Raises:
        InputError: they are; the message names both files.
    """
    if a.shape != b.shape:
        how = f"{'x'.join(map(str, a.shape))} and {'x'.join(map(str, b.shape))} voxels"
    elif not same_grid(a, b):
        how = f"their corners lie up to {grid_distance(a, b):.3g} mm apart"
    else:
        return
    raise InputError(f"{a.path} and {b.path} have different grids ({how}); register and resample one onto the other")


def read_geometry(path: str | os.PathLike[str]) -> nib.Nifti1Header:
    """A new header, NIfTI-1 or -2 like the file's, that keeps the file's geometry bit for bit and nothing else.

    An sform that is all zero is marked as unset, as reading takes it.

    Raises:
        InputError: it is not NIfTI.
    """
    path = Path(path)
    with _open(path) as stream:
        raw = _header(path, stream)
    geometry = type(raw)()
    for field in _GEOMETRY:
        geometry[field] = raw[field]
    if not np.any(geometry.get_sform()[:3, :3]):  # which says nothing, and some viewers take before the qform
        geometry["sform_code"] = 0
    geometry["pixdim"][4:] = 1
    geometry.set_xyzt_units("mm")
    return geometry


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """The uncompressed bytes of a file, by its content and not by its name."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                yield file
            else:
                with gzip.GzipFile(fileobj=file) as stream:
                    once = io.BufferedReader(cast(io.RawIOBase, stream), 2**20)
                    try:
                        twice = once.peek(2)[:2] == b"\x1f\x8b"
                    except (EOFError, OSError, zlib.error):  # who reads it says what is wrong with it
                        twice = False
                    if not twice:
                        yield cast(IO[bytes], once)
                    else:
                        with gzip.GzipFile(fileobj=once, mode="rb") as inner:
                            yield cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, inner), 2**20))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give a NIfTI file (.nii or .nii.gz)") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or first_line(error)}); check the file") from error


def _header(path: Path, stream: IO[bytes]) -> nib.Nifti1Header:
    """nibabel's header, its own checks passed; extensions are not read."""
    try:
        head = stream.read(nib.Nifti2Header.sizeof_hdr)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is cut short or damaged ({first_line(error)}); copy or export it again") from error
    if not head:
        raise InputError(f"{path} is empty (0 bytes); copy or export it again")
    kinds = ((nib.Nifti1Header, head[344:348], b"n+1\0"), (nib.Nifti2Header, head[4:8], b"n+2\0"))
    for kind, found, magic in kinds:
        if found == magic and len(head) >= kind.sizeof_hdr:
            try:
                with np.errstate(all="ignore"):
                    header = kind(head[: kind.sizeof_hdr], check=False)
                    # nibabel takes a voxel size of 0 for 1.
                    if header["sform_code"] == 0 and not (np.abs(header["pixdim"][1:4]) > 0).all():
                        raise InputError(f"{path} gives no voxel sizes; set them in its header or export it again")
                    header.check_fix(logger=_QUIET)
                    return header
            except (HeaderDataError, ValueError, OverflowError) as error:
                raise InputError(f"{path} has a damaged NIfTI header ({first_line(error)}); export it again") from error
    if head[344:348] == b"ni1\0":
        raise InputError(f"{path} is one half of a .hdr/.img pair; convert the pair to a single .nii.gz")
    raise InputError(f"{path} is not a NIfTI file; convert it to .nii.gz, from DICOM with dcm2niix")


def _judge(path: Path, raw: nib.Nifti1Header, num_volumes: int, max_voxels: int) -> Header:
    notes: list[str] = []
    shape = tuple(int(size) for size in raw.get_data_shape())
    text = "x".join(map(str, shape))
    if any(size < 1 for size in shape):
        raise InputError(f"{path} has the impossible shape {text}; export it again")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < len(raw.get_data_shape()) and num_volumes == 1:
        notes.append(f"{text} taken as {'x'.join(map(str, shape))}")
    if len(shape) < 3:
        raise InputError(f"{path} is {len(shape)}-D ({text}); give a 3-D volume")
    found = shape[3] if len(shape) == 4 else 1
    if len(shape) > 4 or found != num_volumes:
        wanted = "a 3-D volume" if num_volumes == 1 else f"a 4-D file with {num_volumes} volumes"
        raise InputError(f"{path} has the shape {text} where {wanted} is expected; split or extract the right volume")
    if int(np.prod(shape, dtype=object)) > max_voxels:
        raise InputError(f"{path} claims {text} voxels, more than the {max_voxels} allowed; crop or resample it")
    if 1 in shape[:3]:
        notes.append("a single slice")

    dtype = raw.get_data_dtype()
    if dtype.fields is not None:
        raise InputError(f"{path} holds color (RGB) voxels; export the original gray-value image")
    if dtype.kind not in "iuf":
        raise InputError(f"{path} holds {dtype} voxels; export a real-valued image, of complex data the magnitude")
    try:
        raw.get_slope_inter()
    except HeaderDataError as error:
        raise InputError(
            f"{path} has an impossible intensity scaling ({first_line(error)}); export it again"
        ) from error
    if not 0 <= float(raw["vox_offset"]) <= MAX_OFFSET:
        raise InputError(f"{path} has its voxels at an impossible place in the file; export it again")

    affine, more = _affine(path, raw)
    return Header(cast("tuple[int, int, int]", shape[:3]), affine, path, (*notes, *more))


def _affine(path: Path, raw: nib.Nifti1Header) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    notes: list[str] = []
    unit = UNITS.get(int(raw["xyzt_units"]) & 0b111, "")
    with np.errstate(all="ignore"):
        try:
            qform = raw.get_qform(coded=True)[0]
            unreadable = ""
        except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
            qform, unreadable = None, first_line(error)
        affine = raw.get_sform(coded=True)[0]
        if affine is not None and qform is not None and not np.any(affine[:3, :3]):
            affine = None
            notes.append("its sform is all zero; the qform is used")
        if affine is None and unreadable:
            raise InputError(f"{path} has an impossible orientation ({unreadable}); set its affine or export it again")
        if affine is None and qform is None:
            affine = raw.get_base_affine()
            notes.append("neither sform nor qform is set: orientation unknown, the axes taken as they are stored")
        elif affine is None:
            affine = qform
        affine = np.asarray(affine, dtype=np.float64)
        if not np.isfinite(affine).all():
            raise InputError(f"{path} has NaN or infinite numbers in its affine; set its affine or export it again")
        spacing = voxel_sizes(affine)
        if not ((spacing >= SPACING_MM[0]) & (spacing <= SPACING_MM[1])).all():
            sizes = " x ".join(f"{size:.3g}" for size in spacing)
            remedy = f"convert it to mm from {unit}" if unit else "correct its header"
            raise InputError(
                f"{path} has voxels of {sizes} mm, outside {SPACING_MM[0]} to {SPACING_MM[1]} mm; {remedy}"
            )
        if unit:
            notes.append(f"its header has the unit {unit}; the numbers are taken as mm, as they would be for a head")
        axes = affine[:3, :3] / spacing
        if abs(np.linalg.det(axes)) < 1e-3:
            raise InputError(f"{path} has a singular affine (its axes lie in one plane); set its affine")
        if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
            notes.append("sheared: its axes are not perpendicular")
        if unreadable:
            notes.append("its qform is not valid; the sform is used")
        elif qform is not None:
            shape = (*raw.get_data_shape(), 1, 1)[:3]
            here = Header(shape, affine, path, ())
            apart = grid_distance(here, here._replace(affine=np.asarray(qform, dtype=np.float64)))
            if not apart < 0.1:
                notes.append(f"qform and sform disagree by {apart:.3g} mm; the sform is used")
    return affine, tuple(notes)


def _finite(path: Path, data: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    nan, infinite = np.isnan(data), np.abs(data) > HUGE
    if not (bad := int(nan.sum()) + int(infinite.sum())):
        return data, ()
    if bad >= MAX_NONFINITE * data.size:
        share = 100 * bad / data.size
        raise InputError(f"{path}: {share:.3g} % of its voxels are NaN or infinite (1 % at most); export it again")
    usable = data[~(nan | infinite)]
    notes = []
    if nan.any():
        notes.append(f"{int(nan.sum())} NaN voxels set to 0")
    if infinite.any():
        notes.append(f"{int(infinite.sum())} infinite or huge voxels clipped to the finite range")
    return np.where(nan, np.float32(0), data.clip(usable.min(), usable.max())), tuple(notes)
