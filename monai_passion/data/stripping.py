"""Skull stripping by deepbet's networks (Fisch et al., Med Image Anal 2024), the extra ``strip``, or by HD-BET.

deepbet's wheel holds two TorchScript networks, run here as its authors describe: a coarse one finds the box of the
brain in 128^3 voxels, a fine one the brain within that box in 256^3. They were trained on T1 images of healthy heads,
so every sequence gets its own mask, and the one that agrees best with the others is used for all. HD-BET (Isensee et
al., Human Brain Mapping 2019), trained on all four sequences of patients, is a program of its own.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_passion.data.geometry import dice, voxel_ml
from monai_passion.data.nifti import Volume
from monai_passion.errors import InputError, PassionError, UsageError

__all__ = ["STRIPPERS", "Stripped", "brain_mask", "choose_mask", "strip"]

STRIPPERS = ("deepbet", "hd-bet")
COARSE, FINE = (128,) * 3, (256,) * 3
MARGIN = 0.1
"""Margin around the box of the brain, on each side, as a share of its size."""
MEAN, DEVIATION = 0.449, 0.226
"""Mean and deviation of the gray values in the networks' training."""


class Stripped(NamedTuple):
    """Result of `strip`."""

    volumes: dict[str, Volume]
    """0 outside the brain."""
    mask: NDArray[np.bool_]
    """(X, Y, Z)."""
    modality: str
    """Modality whose mask is used."""
    agreement: float
    """Mean Dice of that mask with those of the other modalities; 1 without others."""
    brain_ml: float


def strip(volumes: Mapping[str, Volume], stripper: str = "deepbet") -> Stripped:
    """Set everything but the brain to 0, by one mask for all volumes.

    Args:
        volumes: modality -> heads on one grid, registered onto each other.
        stripper: one of `STRIPPERS`.

    Raises:
        UsageError: another stripper; or the extra, or HD-BET, is not installed.
        PassionError: HD-BET failed.
        InputError: no brain was found.
    """
    if stripper not in STRIPPERS:
        raise UsageError(f"the stripper is '{stripper}'; give {' or '.join(STRIPPERS)}")
    masks = hd_bet_masks(volumes) if stripper == "hd-bet" else {m: brain_mask(v) for m, v in volumes.items()}
    modality, agreement = choose_mask(masks)
    mask = masks[modality]
    ml = voxel_ml(next(iter(volumes.values())).affine)
    stripped = {m: v._replace(data=np.where(mask, v.data, np.float32(0))) for m, v in volumes.items()}
    if dark := [m for m, volume in stripped.items() if not volume.data.any()]:
        raise InputError(
            f"{stripper} finds no brain in {volumes[dark[0]].path}; give images of a whole head, another --stripper, "
            "or images without skull"
        )
    return Stripped(stripped, mask, modality, agreement, float(mask.sum()) * ml)


def choose_mask(masks: Mapping[str, NDArray[np.bool_]]) -> tuple[str, float]:
    """The modality with a brain whose mask agrees best with those of the others, and its mean Dice with them."""
    if len(masks) == 1:
        return next(iter(masks)), 1.0
    means = {a: float(np.mean([dice(masks[a], masks[b]) for b in masks if b != a])) for a in masks}
    found = [m for m in masks if masks[m].any()]  # empty ones agree with each other
    best = max(found or masks, key=lambda m: means[m])
    return best, means[best]


def hd_bet_masks(volumes: Mapping[str, Volume]) -> dict[str, NDArray[np.bool_]]:
    """The brain in each head, by the program ``hd-bet`` (version 2) in one run.

    Raises:
        UsageError: the program is not installed.
        PassionError: it failed; the message has its last line.
    """
    import torch

    program = shutil.which("hd-bet")
    if program is None:
        raise UsageError("--stripper hd-bet needs the program hd-bet; install it with: pip install hd-bet")
    with TemporaryDirectory() as folder:
        heads, brains = Path(folder, "heads"), Path(folder, "brains")
        heads.mkdir()
        for m, volume in volumes.items():
            nib.save(nib.Nifti1Image(volume.data, volume.affine), heads / f"{m}.nii.gz")
        device = ["-device", "cuda"] if torch.cuda.is_available() else ["-device", "cpu", "--disable_tta"]
        places = ["-i", str(heads), "-o", str(brains)]
        command = [program, *places, "--save_bet_mask", "--no_bet_image", *device]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        masks = {m: brains / f"{m}_bet.nii.gz" for m in volumes}
        if done.returncode or not all(mask.is_file() for mask in masks.values()):
            said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
            raise PassionError(f"hd-bet failed with exit code {done.returncode} ({said[0]}); try --stripper deepbet")
        return {m: np.asarray(nib.load(mask).dataobj) > 0 for m, mask in masks.items()}  # type: ignore[attr-defined]


def brain_mask(volume: Volume) -> NDArray[np.bool_]:
    """The brain in a head, (X, Y, Z): one component, without holes."""
    import torch
    from torch.nn.functional import interpolate

    coarse, fine = _networks()
    turn = nib.io_orientation(volume.affine)
    head = nib.apply_orientation(volume.data, turn)
    image = torch.from_numpy(np.ascontiguousarray(head))[None, None]
    with torch.no_grad():
        small = interpolate(image, COARSE, mode="nearest-exact")
        low, high = (float(np.quantile(small.numpy(), q)) for q in (0.005, 0.995))
        found = _largest(coarse(_normalized(small, low, high))[0, 1].numpy() > 0.5)
        box = _box(found, head.shape)
        part = image[0, 0][box][None, None]
        within = fine(_normalized(interpolate(part, FINE, mode="nearest-exact"), low, high))[:, 1:2]
        brain = interpolate(within, part.shape[2:], mode="trilinear")[0, 0].numpy() > 0.5
    mask = np.zeros(head.shape, bool)
    mask[box] = ndimage.binary_fill_holes(_largest(brain))
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
    return np.asarray(nib.apply_orientation(mask, back), bool)


@cache
def _networks() -> tuple[Any, Any]:
    import torch

    try:
        package = distribution("deepbet")
    except PackageNotFoundError:
        raise UsageError("--skull-strip needs deepbet; install it with: pip install 'monai_passion[strip]'") from None
    files = (package.locate_file(f"data/models/{name}.pt") for name in ("bbox_model", "model"))
    coarse, fine = (torch.jit.load(str(file), map_location="cpu").eval() for file in files)
    return coarse, fine


def _normalized(image: Any, low: float, high: float) -> Any:
    scaled = ((image - low) / max(high - low, 1e-6)).clamp(0, 1)
    return DEVIATION * (scaled - scaled.mean()) / scaled.std().clamp(min=1e-6) + MEAN


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected component."""
    labels, count = ndimage.label(mask)
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if count else mask


def _box(found: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """That of the brain with `MARGIN`, in an image of ``shape``; all of it where nothing was found."""
    boxes = ndimage.find_objects(found.astype(np.uint8))
    if not boxes:
        return tuple(slice(0, size) for size in shape)
    result = []
    for part, small, size in zip(boxes[0], found.shape, shape, strict=True):
        low, high = part.start * size / small, part.stop * size / small
        more = MARGIN * (high - low)
        result.append(slice(max(int(low - more), 0), min(int(np.ceil(high + more)), size)))
    return tuple(result)
