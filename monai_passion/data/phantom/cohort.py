"""Phantoms on disk, in the folder layouts of BraTS2020 and MyoPS2020."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from monai_passion.data.phantom import brain, heart
from monai_passion.data.phantom.common import PhantomCase
from monai_passion.data.seeds import check_seed
from monai_passion.errors import UsageError
from monai_passion.system.files import write_text
from monai_passion.system.output import check_folder, writing

__all__ = ["MARKER", "PHANTOM_LAYOUTS", "PhantomLayout", "write_cohort"]

MARKER = "phantom.json"
"""Beside the cases: which cohort the folder holds, and that this package wrote it."""
GENERATOR = 1
"""Version of the generator; it changes when the same seed no longer gives the same bytes."""

GROWTH = (-0.9, 3.0)
"""Shares by which the volume of a tumor core may change."""


class PhantomLayout(NamedTuple):
    """The names of a data set's cases and files, and the function that makes a case."""

    case: Callable[[int, int, int], PhantomCase]
    """(seed, index, size) -> phantom."""
    prepare: Callable[[], object]
    """Raises if something is missing, before anything is written."""
    name: str
    first: int
    files: dict[str, str]
    """Modality -> the file name after the case's name."""
    label: str
    size: int
    sizes: range


PHANTOM_LAYOUTS = {
    "brats": PhantomLayout(
        case=brain.brain_case,
        prepare=brain.atlas,
        name="BraTS20_Training_{:03d}",
        first=1,
        files={"flair": "flair", "t1": "t1", "t1c": "t1ce", "t2": "t2"},
        label="seg",
        size=brain.FULL.shape[0],
        sizes=range(24, 241),
    ),
    "myops": PhantomLayout(
        case=heart.heart_case,
        prepare=lambda: None,
        name="myops_training_{:03d}",
        first=101,
        files={"bssfp": "C0", "lge": "LGE", "t2": "T2"},
        label="gd",
        size=256,
        sizes=range(32, 513),
    ),
}

PHANTOM_LAYOUTS["brats-healthy"] = PHANTOM_LAYOUTS["brats"]._replace(
    case=partial(brain.brain_case, healthy=True), name="Healthy_{:03d}"
)


def write_cohort(
    out: Path,
    layout: str,
    cases: int,
    seed: int = 0,
    size: int | None = None,
    report: Callable[[str, bool], None] = lambda name, written: None,
    growth: float = 0.0,
) -> list[Path]:
    """Write cases 0 to ``cases`` - 1 of a cohort as ``out/<case>/<case>_<modality>.nii.gz``.

    The same layout, seed and size give the same bytes; case i does not depend on the number of cases. A case appears
    complete or not at all. Existing cases are kept, so a second call goes on where the first stopped.

    Args:
        layout: a key of `PHANTOM_LAYOUTS`.
        size: voxels along an edge, of the cube (brats) or in the plane (myops); by default the data set's own size.
        report: called after each case with its name and whether it was written now.
        growth: of the tumor core since the cohort of the same seed without it, as a share of its volume; brats only.

    Returns:
        The folders of the cases.

    Raises:
        UsageError: a value out of range, ``out`` holds something else, or an optional package is missing.
        ResourceError: the disk is full, or nothing can be written there.
    """
    spec = PHANTOM_LAYOUTS[layout]
    size = spec.size if size is None else size
    if cases < 1:
        raise UsageError(f"cases is {cases}; ask for at least 1")
    check_seed(seed)
    if size not in spec.sizes:
        raise UsageError(f"size is {size}; a {layout} phantom has {spec.sizes[0]} to {spec.sizes[-1]} voxels an edge")
    if growth and layout != "brats":
        raise UsageError(f"growth is for the layout brats; {layout} phantoms have no tumor; leave it out")
    if not GROWTH[0] <= growth <= GROWTH[1]:
        raise UsageError(f"growth is {growth:g}; give a share of the volume from {GROWTH[0]:g} to {GROWTH[1]:g}")
    spec.prepare()
    cohort: dict[str, object] = {"phantom": layout, "seed": seed, "size": size, "generator": GENERATOR}
    make_case = spec.case
    if growth:
        cohort["growth"] = growth
        make_case = partial(brain.brain_case, growth=growth)
    names = [spec.name.format(spec.first + index) for index in range(cases)]
    check_folder(out)
    with writing(out):
        claim(out, cohort, names)
        for index, name in enumerate(names):
            missing = not (out / name).is_dir()
            if missing:
                write_case(out, name, spec, make_case(seed, index, size))
            report(name, missing)
    return [out / name for name in names]


def claim(out: Path, cohort: dict[str, object], names: list[str]) -> None:
    """Make ``out`` the folder of a cohort, or check that it is.

    Raises:
        UsageError: it holds other files, another cohort, or more cases than ``names``.
    """
    marker = out / MARKER
    if marker.is_file():
        try:
            found = json.loads(marker.read_text())
        except ValueError:
            found = None
        if found != cohort:
            raise UsageError(f"{out} holds another cohort ({marker} says {found}); give another folder or remove it")
        extra = sorted({entry.name for entry in out.iterdir() if not entry.name.startswith(".")} - {MARKER, *names})
        if extra:
            raise UsageError(f"{out} also holds {extra[0]}; ask for more cases or give another folder")
        return
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no phantoms; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(marker, json.dumps(cohort) + "\n")


def write_case(out: Path, name: str, spec: PhantomLayout, case: PhantomCase) -> None:
    """Write one case's files into a folder beside, then move it to its name."""
    draft = out / f".{name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    draft.mkdir()
    try:
        volumes = {suffix: case.images[modality] for modality, suffix in spec.files.items()} | {spec.label: case.label}
        for suffix, volume in volumes.items():
            save(volume, case.affine, draft / f"{name}_{suffix}.nii.gz")
        os.replace(draft, out / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def save(volume: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a NIfTI-1 file; nibabel leaves the time and the file name out of the gzip header."""
    image = nib.Nifti1Image(volume, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
