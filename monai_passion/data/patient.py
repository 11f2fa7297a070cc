"""The only reader of a patient's files. It judges them before a network sees them: used, absent, repaired, odd."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes

from monai_passion.data.geometry import (
    FULL_COVERAGE,
    bring_onto,
    choose_reference,
    coverage,
    coverage_by_slices,
    shown_voxels,
)
from monai_passion.data.nifti import MAX_VOXELS, Header, Volume, check_same_grid, read_header, read_volume, same_grid
from monai_passion.errors import InputError, UsageError
from monai_passion.tasks import Task, as_task

__all__ = [
    "FEW_SLICES",
    "POLICIES",
    "Finding",
    "Patient",
    "is_refused",
    "judge_coverage",
    "judge_volume",
    "read_patient",
    "repair_volumes",
]

POLICIES = ("strict", "repair")
"""Handling of a constant file, a background other than 0 and another grid. "strict" refuses them, for data whose
presence is known and whose label lies on the grid; "repair" mends each with a finding, for a patient to segment."""

FEW_SLICES = 16
"""With fewer slices along an axis, a 3-D network has little to work with."""

MIN_BACKGROUND = 0.2
"""Share of the voxels from which a value counts as background."""

MAX_LABELS = 8
"""An image has more different values."""
NEXT_TO_ZERO = np.float32(1e-30)
"""Stands in for a 0 that says something: transforms and pictures take 0 itself for nothing, as outside a head."""
WRAPPED = "a few voxels are far below zero; did an export overflow (16-bit numbers)? export it again"
BACKGROUND = "has a background of {:g}, not 0; subtract it, or load with the policy repair"
MAX_WRAPPED = 0.02
"""Part of the voxels that may have overflowed; with more below zero, an image is a centered one."""


class Finding(NamedTuple):
    """Something a user should know about an input; its text names modalities, never files or folders."""

    level: str
    """``"unusable"``: the result is not to be used; ``"warning"``: may spoil it; ``"note"``: what was done."""
    text: str


class Patient(NamedTuple):
    """The input of the network, and the findings about it."""

    volumes: tuple[Volume | None, ...]
    """One per modality in channel order, all on the grid of the reference; None if absent."""
    modalities: tuple[str, ...]
    """All of them, in channel order."""
    files: Mapping[str, Path]
    """Given modality -> its file, used or not."""
    findings: tuple[Finding, ...]
    reference_name: str
    """The modality whose grid the segmentation has."""

    @property
    def used(self) -> dict[str, Volume]:
        return {m: volume for m, volume in zip(self.modalities, self.volumes, strict=True) if volume is not None}

    @property
    def absent(self) -> list[str]:
        return [m for m, volume in zip(self.modalities, self.volumes, strict=True) if volume is None]

    @property
    def reference(self) -> Volume:
        """The volume of ``reference_name``."""
        return self.used[self.reference_name]


def read_patient(
    files: Mapping[str, str | os.PathLike[str]],
    modalities: Task | Sequence[str],
    policy: str = "repair",
    *,
    reference: str | None = None,
    grid: Header | None = None,
    register: bool = False,
    allow_duplicate: bool = False,
    max_voxels: int = MAX_VOXELS,
    min_slices: int = FEW_SLICES,
) -> Patient:
    """Read and judge the files of one patient.

    With the policy "repair", a volume in which every voxel has the same value counts as absent, a background of another
    value than 0 is subtracted, and volumes on other grids than the reference are resampled to it, each with a finding.
    With "strict", each is an error.

    Args:
        files: modality -> NIfTI file, for any non-empty subset of the modalities.
        modalities: a task, or the names in channel order.
        policy: one of ``POLICIES``.
        reference: the modality whose grid the segmentation gets; None for that with the smallest voxels, see
            `choose_reference`.
        grid: grid of a label map, in place of that of an image.
        register: move the others rigidly onto the reference first, by mutual information.
        allow_duplicate: the same image for two modalities is a warning, not an error.
        max_voxels: larger files are refused before anything is allocated.
        min_slices: fewer slices along an axis are a warning; a single one is an error unless this is 1.

    Raises:
        UsageError: no file at all, a folder in place of one, or a reference that is not there.
        InputError: a file that cannot be used (see `read_volumes`), the same file twice, files of different places.
    """
    names = as_task(modalities).modality_names
    if not files:
        raise UsageError(f"no modality given; give at least one of {', '.join(f'--{m}' for m in names)}")
    given = {m: Path(files[m]) for m in names if m in files}
    for m, path in given.items():
        if os.path.isdir(path):  # False where the name itself is impossible
            raise UsageError(f"--{m} {path} is a folder; give a NIfTI file (.nii or .nii.gz)")
    for path in given.values():  # all, before any voxel
        read_header(path, max_voxels=max_voxels)
    equal = _equal_files(given)
    findings = _same_files(given, equal, allow_duplicate)
    read = {m: read_volume(path, max_voxels=max_voxels) for m, path in given.items()}
    for m, path in given.items():
        if path.name.endswith(".gz") and not _compressed(path):
            findings.append(Finding("warning", f"{m}: its name ends in .gz but it is not compressed"))
    volumes, repaired = repair_volumes(read, policy)
    findings += repaired
    findings += _same_images(volumes, {m for pair in equal for m in pair})
    if reference is not None and reference not in volumes:
        raise UsageError(f"--reference {reference} is not among the images given; choose from {', '.join(volumes)}")
    chosen = reference or choose_reference(volumes)
    if register:
        from monai_passion.data.registration import register as onto_reference  # ITK takes seconds to import

        volumes, distances = onto_reference(volumes, chosen)
        findings += [Finding("note", f"{m}: moved by {mm:.1f} mm onto {chosen}") for m, mm in distances.items()]
    volumes, moved = _on_one_grid(volumes, chosen, policy, grid)
    findings += moved
    if (slices := min(volumes[chosen].shape)) < 2 <= min_slices:
        raise InputError(
            f"{volumes[chosen].path} is a single slice; the network wants a volume: give all slices in one file"
        )
    if slices < min_slices:
        text = f"only {slices} slices along one axis; the network expects at least {min_slices}"
        findings.append(Finding("warning", text))
    return Patient(tuple(volumes.get(m) for m in names), names, given, tuple(findings), chosen)


def repair_volumes(volumes: Mapping[str, Volume], policy: str = "repair") -> tuple[dict[str, Volume], list[Finding]]:
    """The volumes of a patient that hold an image, with background 0, and the findings; see `read_patient`.

    Raises:
        InputError: a label map in place of an image, or only constant volumes; with "strict", anything to repair.
        UsageError: an unknown policy.
    """
    if policy not in POLICIES:
        raise UsageError(f"the policy is '{policy}'; give {' or '.join(POLICIES)}")
    kept: dict[str, Volume] = {}
    findings: list[Finding] = []
    for m, volume in volumes.items():
        findings += [Finding("warning", f"{m}: {note}") for note in volume.notes]
        judged = judge_volume(m, volume)
        for kind, text in judged.items():
            if is_refused(kind, policy):
                raise InputError(f"{volume.path}: {text}")
        if "constant" in judged:
            findings.append(Finding("warning", f"{m}: {_constant(volume)}, {m} counts as ABSENT"))
            continue
        if "wrapped" in judged:
            findings.append(Finding("warning", f"{m}: {judged['wrapped']}"))
        if (background := _background(volume)) not in (0, None):
            volume = volume._replace(data=_lifted(volume.data, np.float32(background)))
            findings.append(Finding("note", f"{m}: its background of {background:g} is subtracted"))
        elif background is None and (volume.data < 0).mean() >= MAX_WRAPPED:
            volume = volume._replace(data=_shown_zeros(volume.data))
        kept[m] = volume
    if not kept:
        paths = ", ".join(str(volume.path) for volume in volumes.values())
        raise InputError(f"no image in {paths}: every voxel has the same value; export the original images")
    return kept, findings


def _lifted(image: np.ndarray, background: np.float32) -> np.ndarray:
    """The image with a background of 0, next to its darkest values: else a rim that is resampled is neither."""
    outside = image == background
    low, high = image[~outside].min(), image[~outside].max()
    is_far = low - background > high - low  # as a number that stands for "nothing" in an image around 0
    return np.where(outside, np.float32(0), _shown_zeros(image - (low if is_far else background)))


def _shown_zeros(image: np.ndarray) -> np.ndarray:
    """0 as a number that is next to it, where it is a value like others, as in CT, and does not stand for nothing."""
    return np.where(image == 0, NEXT_TO_ZERO, image)


def judge_volume(modality: str, volume: Volume) -> dict[str, str]:
    """The oddities of one volume, kind -> text; kinds are "constant", "label map", "wrapped" and "background".

    After one of the first two, no further kind is checked. The texts name no file.
    """
    if volume.data.min() == volume.data.max():
        return {"constant": f"{_constant(volume)}; take it out of the data, or load with the policy repair"}
    if (values := _label_values(volume)) is not None:
        return {"label map": f"holds only the values {values}: a label map, not the image; give the {modality} image"}
    found = {"wrapped": WRAPPED} if _wrapped(volume) else {}
    if (background := _background(volume)) not in (0, None):
        found["background"] = BACKGROUND.format(background)
    return found


def is_refused(kind: str, policy: str) -> bool:
    """Whether a policy refuses a volume, given the result of `judge_volume`."""
    return kind == "label map" or (policy == "strict" and kind != "wrapped")


def _constant(volume: Volume) -> str:
    return f"every voxel is {volume.data.flat[0]:g}; there is no image in this file"


def _background(volume: Volume) -> float | None:
    """The one value outside the head: of all the corners and of a good part of the voxels; None where there is none."""
    corners = volume.data[np.ix_(*((0, -1) for _ in volume.shape))]
    value = corners.flat[0]
    return float(value) if (corners == value).all() and (volume.data == value).mean() > MIN_BACKGROUND else None


def _compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _label_values(volume: Volume) -> str | None:
    """The few whole numbers that a label map holds, as text; None for an image."""
    few = np.unique(volume.data.ravel()[:: max(volume.data.size // 10000, 1)])
    if len(few) > MAX_LABELS or (few != np.rint(few)).any():
        return None
    values = np.unique(volume.data)
    if len(values) > MAX_LABELS or (values != np.rint(values)).any():
        return None
    return ", ".join(f"{value:g}" for value in values)


def _wrapped(volume: Volume) -> bool:
    """Whether an image of whole numbers, none below zero, seems to have lost its brightest voxels to an overflow."""
    if (volume.data != np.rint(volume.data)).any():
        return False
    negative = volume.data < 0
    if not 0 < negative.mean() < MAX_WRAPPED or not (volume.data > 0).any():
        return False
    return bool(np.median(-volume.data[negative]) > np.percentile(volume.data[volume.data > 0], 99))


def _on_one_grid(
    volumes: Mapping[str, Volume], reference: str, policy: str, grid: Header | None
) -> tuple[dict[str, Volume], list[Finding]]:
    result, findings = dict(volumes), []
    onto: Volume | Header = volumes[reference] if grid is None else grid
    whose = reference if grid is None else "the label map"
    for m, volume in volumes.items():
        if policy == "strict":
            check_same_grid(onto, volume)
        if same_grid(volume, onto):
            continue
        result[m] = bring_onto(volume, onto)
        if not result[m].data.any():
            raise InputError(f"{m} shows nothing where {whose} is, whose grid the result has; leave one of them out")
        findings.append(Finding("note", f"{m}: {_text(volume)} resampled to the grid of {whose}, {_text(onto)}"))
    return result, findings + (judge_coverage(volumes, reference) if grid is None else [])


def judge_coverage(volumes: Mapping[str, Volume], reference: str) -> list[Finding]:
    """Warnings where the reference shows less of the patient than another image, or another image less than it.

    A volume shows nothing in slices that are 0 throughout.

    Args:
        volumes: modality -> its image, on any grid.
        reference: one of them.
    """
    findings, onto = [], volumes[reference]
    missed: dict[str, float] = {}
    for m, volume in volumes.items():
        if m == reference:
            continue
        if (share := coverage_by_slices(onto, volume)) < FULL_COVERAGE:
            text = f"{m} covers {100 * share:.0f} % of what {reference} shows; it is 0 in the rest"
            findings.append(Finding("warning", text))
        if same_grid(volume, onto):
            if (share := coverage_by_slices(volume, onto)) < FULL_COVERAGE:
                missed[m] = share
        elif (share := coverage(volume, onto, shown_voxels(volume))) < FULL_COVERAGE:
            text = (
                f"{reference}, whose grid the result has, covers {100 * share:.0f} % of what {m} shows; the rest is "
                f"not segmented and not in the volumes; --reference {m} takes its grid"
            )
            findings.append(Finding("warning", text))
    if missed:
        share, names = min(missed.values()), ", ".join(missed)
        text = f"{reference} covers {100 * share:.0f} % of what other sequences show ({names}); it is 0 in the rest"
        findings.append(Finding("warning", text))
    return findings


def _text(volume: Volume | Header) -> str:
    sizes = voxel_sizes(volume.affine)
    return f"{'x'.join(map(str, volume.shape))} voxels of {' x '.join(f'{size:.3g}' for size in sizes)} mm"


def _equal_files(files: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Pairs of modalities that were given the same bytes."""
    return [(a, b) for a, b in combinations(files, 2) if filecmp.cmp(files[a], files[b], shallow=False)]


def _same_files(files: Mapping[str, Path], pairs: Sequence[tuple[str, str]], allow: bool) -> list[Finding]:
    if pairs and not allow:
        a, b = pairs[0]
        raise InputError(
            f"{a} and {b} are the same file ({files[b]}); give each modality its own file, leave one out, "
            "or add --allow-duplicate to predict"
        )
    return [Finding("warning", f"{a} and {b} are the same file") for a, b in pairs]


def _same_images(volumes: Mapping[str, Volume], known: set[str]) -> list[Finding]:
    return [
        Finding("warning", f"{a} and {b} hold the same image; is one of them the wrong file?")
        for a, b in combinations(volumes, 2)
        if not {a, b} <= known and np.array_equal(volumes[a].data, volumes[b].data)
    ]
