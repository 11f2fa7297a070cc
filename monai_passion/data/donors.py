"""Tumors to set into other heads: cut out of labeled patients, held in memory, placed relative to the brain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_passion.data.presence import Presence
from monai_passion.data.tables import read_table
from monai_passion.errors import InputError

__all__ = ["FILES", "Donor", "donor_from_cubes", "donor_from_patient", "load_donors", "read_cube_donors"]

ATLAS_CENTER = np.array([120.0, 127.5, 70.0])
ATLAS_SIZE = np.array([138.0, 168.0, 137.0])
"""Middle and extent (mm) of the brain's box in the space of BraTS, LPS from its first voxel: means over patients."""
FILES = {"flair": "flair", "t1c": "t1ce", "t1": "t1", "t2": "t2"}
CLASSES = {1: 1, 2: 2, 4: 3}
"""Label of a BraTS file -> class."""
RAMP = 3
"""Voxels over which a donor's surroundings fade out towards the end of what is known."""
ENOUGH = 30
"""Voxels of a class that suffice for its mean and deviation; with fewer, those of `TYPICAL` are used."""
TYPICAL = np.array(
    [
        [[2.8, -0.2, -0.7, 1.6], [2.2, -0.2, -0.05, 0.8], [3.0, 1.9, -0.3, 1.0]],
        [[1.1, 0.8, 0.4, 0.8], [0.9, 0.4, 0.4, 0.6], [1.2, 1.1, 0.4, 0.6]],
    ]
)
"""(mean and deviation, NCR ED ET, FLAIR T1c T1 T2) of z-scored images, over 68 patients of BraTS2020."""


class Donor(NamedTuple):
    """A tumor and its surroundings, on axes to the right, front and top (RAS+). M modalities, K classes."""

    patient: str
    label: NDArray[np.uint8]
    """(X, Y, Z), classes 0 .. K-1."""
    image: NDArray[np.float16]
    """(M, X, Y, Z), z-scored over the brain; 0 where unknown."""
    known: NDArray[np.float16]
    """(X, Y, Z) in [0, 1]: weight of ``image``; it fades towards the end of what is known."""
    spacing: NDArray[np.float64]
    """Edges of a voxel in mm."""
    place: NDArray[np.float64]
    """Center of the array relative to the center of the brain's box, as a share of the box's extent."""
    statistics: NDArray[np.float64]
    """(2, K - 1, M): mean and deviation of every class of tumor."""
    available: NDArray[np.bool_]
    """(M,): the modalities that the donor has; a head with further modalities does not take this tumor."""


def _statistics(image: NDArray[np.floating], label: NDArray[np.integer], known: NDArray[Any]) -> NDArray[np.float64]:
    found = TYPICAL.copy() if image.shape[0] == TYPICAL.shape[2] else np.zeros((2, 3, image.shape[0]))
    for k in range(found.shape[1]):
        inside = (label == k + 1) & (known > 0)
        if np.count_nonzero(inside) >= ENOUGH:
            values = image[:, inside].astype(np.float64)
            found[:, k] = values.mean(axis=1), values.std(axis=1)
    return found


def _fade(known: NDArray[np.bool_]) -> NDArray[np.float16]:
    distance = ndimage.distance_transform_cdt(np.pad(known, 1), metric="chessboard")[1:-1, 1:-1, 1:-1]
    return np.clip(distance / RAMP, 0, 1).astype(np.float16)


def _box(mask: NDArray[np.bool_], margin: Sequence[int]) -> tuple[slice, ...]:
    """The slices that hold all of ``mask`` and a margin, within the array."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(
        slice(max(0, part.start - m), min(size, part.stop + m))
        for part, m, size in zip(boxes[0], margin, mask.shape, strict=True)
    )


def donor_from_patient(item: Mapping[str, Any], margin: float = 16.0) -> Donor | None:
    """The tumor of a preprocessed patient: ``image`` (M, X, Y, Z) in RAS+, z-scored, ``label`` (1, X, Y, Z) of classes.

    Args:
        item: output of the deterministic transforms of a training; ``patient`` is its name.
        margin: mm of surroundings to keep.

    Returns:
        None where there is no tumor.

    Raises:
        ValueError: a class that tumors do not have.
    """
    image, label = np.asarray(item["image"]), np.asarray(item["label"])[0].astype(np.uint8)
    if not label.any():
        return None
    if label.max() > len(CLASSES):
        raise ValueError(f"{item['patient']} has the class {label.max()}; tumors have {len(CLASSES)}")
    spacing = np.asarray(item["image"].pixdim, dtype=np.float64)
    brain = (image != 0).any(axis=0)
    head, box = _box(brain, (0, 0, 0)), _box(label > 0, [round(margin / size) for size in spacing])
    middle = np.array([(part.start + part.stop) / 2 for part in box])
    center, extent = np.array([((part.start + part.stop) / 2, part.stop - part.start) for part in head]).T
    every = (slice(None), *box)
    image, label, inside = image[every], label[box], brain[box]
    known = _fade(inside)
    known[inside & (label > 0)] = 1  # a tumor that touches the skull is known up to there
    return Donor(
        str(item["patient"]),
        label,
        image.astype(np.float16),
        known,
        spacing,
        (middle - center) / extent,
        _statistics(image, label, known),
        np.asarray(item["available"], dtype=np.bool_),
    )


def donor_from_cubes(
    patient: str,
    label: Path,
    cubes: Iterable[Path],
    modalities: Sequence[str],
    available: NDArray[np.bool_] | None = None,
) -> Donor | None:
    """The tumor of a patient with a whole label map, and images only in cubes.

    Args:
        patient: a name.
        label: the label map, in the space of BraTS (LPS, offset 0), with the labels 1, 2 and 4.
        cubes: folders of one cube each on the same grid, placed by their offsets; zeros in all modalities are padding
            and count as unknown.
        modalities: names in channel order.
        available: (M,), the modalities to use; the others' files are not read. All by default.

    Returns:
        None where there is no tumor.
    """
    available = np.ones(len(modalities), np.bool_) if available is None else available
    whole = nib.load(label)
    values = np.asarray(whole.dataobj)
    classes = np.zeros(values.shape, np.uint8)
    for value, k in CLASSES.items():
        classes[values == value] = k
    if not classes.any():
        return None
    spacing = np.abs(np.diag(whole.affine)[:3])
    box = _box(classes > 0, (6, 6, 6))
    start = np.array([part.start for part in box])
    classes = classes[box]
    image = np.zeros((len(modalities), *classes.shape), np.float32)
    for folder in cubes:
        volumes = [
            nib.load(folder / f"{folder.name}_{FILES[m]}.nii.gz") if has else None
            for m, has in zip(modalities, available, strict=True)
        ]
        grid = next(volume for volume in volumes if volume is not None)
        cube = np.stack(
            [np.zeros(grid.shape, np.float32) if v is None else np.asarray(v.dataobj, np.float32) for v in volumes]
        )
        first = np.rint(grid.affine[:3, 3] / spacing).astype(int) - start
        low, high = np.maximum(first, 0), np.minimum(first + cube.shape[1:], classes.shape)
        if (high <= low).any():
            continue
        there = [slice(a, b) for a, b in zip(low, high, strict=True)]
        here = [slice(a, b) for a, b in zip(low - first, high - first, strict=True)]
        image[:, there[0], there[1], there[2]] = cube[:, here[0], here[1], here[2]]
    known = _fade((image != 0).any(axis=0))
    middle = (start + np.array(classes.shape) / 2) * spacing
    place = (middle - ATLAS_CENTER) / ATLAS_SIZE * np.array([-1, -1, 1])  # LPS to RAS
    image = np.ascontiguousarray(image[:, ::-1, ::-1])
    classes, known = np.ascontiguousarray(classes[::-1, ::-1]), np.ascontiguousarray(known[::-1, ::-1])
    statistics = _statistics(image, classes, known)
    return Donor(patient, classes, image.astype(np.float16), known, spacing, place, statistics, available)


def read_cube_donors(
    cubes: Path,
    labels: Path,
    modalities: Sequence[str],
    exclude: Iterable[str] = (),
    split: str = "train",
    presence: Presence | None = None,
) -> list[Donor]:
    """The donors in a folder of cubes with its ``index.csv``, and a folder with the same patients' label maps.

    Args:
        cubes: ``index.csv`` (case, patient, split, ...) and ``CASE/CASE_{flair,t1,t1ce,t2}.nii.gz``.
        labels: ``PATIENT_seg.nii.gz``.
        modalities: names in channel order.
        exclude: patients who must not be donors, such as those of a validation list.
        split: only the patients of this list.
        presence: for the patients that it names, only the modalities that it leaves are used.

    Raises:
        InputError: there is no ``index.csv``, it lacks a column, or there is no label map of a patient.
    """
    path, kept_out = cubes / "index.csv", set(exclude)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the folder of the cubes")
    index = read_table(path)
    if lacking := sorted({"case", "patient", "split"} - set(index)):
        raise InputError(f"{path} has no column {', '.join(lacking)}, which donors need; add it")
    folders: dict[str, list[Path]] = {}
    for row in index.to_dict("records"):
        if row["split"] == split and row["patient"] not in kept_out:
            folders.setdefault(row["patient"], []).append(cubes / row["case"])
    rows = {} if presence is None else dict(zip(presence.cases, presence.table, strict=True))
    donors = []
    for patient, parts in folders.items():
        label = labels / f"{patient}_seg.nii.gz"
        if not label.is_file():
            raise InputError(f"{label} does not exist; give the folder of the label maps of {cubes}")
        donors.append(donor_from_cubes(patient, label, parts, modalities, rows.get(patient)))
    return [donor for donor in donors if donor is not None]


def load_donors(
    items: Iterable[Mapping[str, Any]],
    preprocess: Callable[[Mapping[str, Any]], Any],
    modalities: Sequence[str],
    cubes: str | None = None,
    labels: str | None = None,
    exclude: Iterable[str] = (),
    presence: Presence | None = None,
) -> list[Donor]:
    """All donors of a training: its own patients and, if given, those of a folder of cubes.

    Args:
        items: patients with labels, as in a datalist.
        preprocess: turns an item into the input of `donor_from_patient`.
        modalities: names in channel order.
        cubes, labels: see `read_cube_donors`.
        exclude: patients who must not be donors.
        presence: see `read_cube_donors`; ``items`` have it applied already.

    Raises:
        InputError: there are none.
    """
    kept_out = set(exclude)
    labeled = [item for item in items if item.get("label") and item["patient"] not in kept_out]
    found = [donor_from_patient(preprocess(item)) for item in labeled]
    donors = [donor for donor in found if donor is not None]
    if cubes:
        own = {donor.patient for donor in donors} | kept_out
        donors += read_cube_donors(Path(cubes), Path(labels or cubes), modalities, own, presence=presence)
    if not donors:
        raise InputError("no training patient has a tumor, so there is none to transplant; add such patients")
    return donors
