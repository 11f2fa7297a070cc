"""Any subset of a patient's files -> one stacked image and the flags of its available channels."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from torch import Tensor

from monai_passion.data.labels import read_label
from monai_passion.data.nifti import (
    MAX_VOXELS,
    Volume,
    check_same_grid,
    read_header,
    read_volumes,
)
from monai_passion.data.patient import read_patient, repair_volumes
from monai_passion.data.studies import find_study
from monai_passion.errors import InputError, UsageError
from monai_passion.modalities import resolve

__all__ = ["LoadImageModalitiesd", "LoadModalities", "LoadModalitiesd"]

logger = logging.getLogger(__name__)

Paths = Mapping[str, "str | None"] | Sequence["str | None"] | str


class LoadModalities(Transform):
    """The files of one patient as one image; the absent modalities are zero and no file is opened for them.

    Args:
        modalities: names in channel order.
        channels: None for one 3-D file per modality. Else the files are 4-D and hold one volume for each of these
            names, in this order, as in the Medical Segmentation Decathlon; the volumes of modalities for which no
            path is given are not used.
        root: the folder that relative paths start from.
        max_voxels: larger files are refused before anything is allocated.
        policy: handling of a constant file, a background other than 0 and another grid, see `read_patient`: "strict",
            for data whose presence is known and whose labels lie on the same grid, or "repair", which logs its changes.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        channels: Sequence[str] | None = None,
        root: str | os.PathLike[str] = "",
        max_voxels: int = MAX_VOXELS,
        policy: str = "strict",
    ) -> None:
        self.modalities = tuple(modalities)
        self.policy = policy
        self.channels = channels
        self.root = Path(root)
        self.max_voxels = max_voxels

    def __call__(
        self,
        paths: Paths,
        slice: int | None = None,
        channels: Sequence[str] | None = None,
        sequence: str | None = None,
    ) -> tuple[MetaTensor, Tensor]:
        """Read and stack the files of one patient.

        Args:
            paths: modality -> path or None; or a list of them in channel order; or one file. Without ``channels``, a
                4-D file holds all modalities in channel order, with constant ones absent, and a 3-D file stands for its
                patient, see `monai_passion.data.studies.find_study`.
            slice: load only this slice of the third axis, as a 2-D image: its affine has only the pixel sizes, its
                place in space is in ``meta["original_affine"]``.
            channels: in place of the ``channels`` of this transform.
            sequence: modality of a single 3-D file whose name does not tell it.

        Returns:
            image: (M, X, Y, Z) or (M, X, Y), float32, with the affine of the files.
            available: (M,) bool.

        Raises:
            InputError: no path at all, a file twice, or what the policy does not repair; see `read_patient`.
            UsageError: an unknown modality, or a list of the wrong length.
        """
        return self.stack(self.read(paths, channels, sequence=sequence), slice)

    def read(
        self,
        paths: Paths,
        channels: Sequence[str] | None = None,
        label: Path | None = None,
        sequence: str | None = None,
    ) -> list[Volume | None]:
        """One volume per modality (None if absent), all on one grid; with "repair", on that of ``label``.

        Raises:
            InputError: no path at all, a file twice, or what the policy does not repair; see `read_patient`.
            UsageError: an unknown modality, or a list of the wrong length.
        """
        channels = self.channels if channels is None else channels
        policy = self.policy
        if channels is None and isinstance(paths, str | os.PathLike):
            paths = find_study((self.root / paths).absolute(), self.modalities, sequence)
            if isinstance(paths, str):  # a 4-D file: which of its volumes are images, only the voxels tell
                channels, policy = self.modalities, "repair"
        files = self._files(paths, channels)
        given = {m: path for m, path in zip(self.modalities, files, strict=True) if path}
        if not given:
            raise InputError(f"no modality given; give a file for at least one of {', '.join(self.modalities)}")
        if channels is None:
            repaired = label if policy == "repair" else None
            grid = None if repaired is None else read_header(repaired, max_voxels=self.max_voxels)
            patient = read_patient(given, self.modalities, policy, grid=grid, max_voxels=self.max_voxels, min_slices=1)
            volumes, findings = list(patient.volumes), patient.findings
        else:
            found, more = repair_volumes(self._volumes(files, channels), policy)
            volumes, findings = [found.get(m) for m in self.modalities], tuple(more)
        if self.policy == "repair":
            for finding in findings:
                logger.warning("%s: %s", next(iter(given.values())), finding.text)
        return volumes

    def stack(self, volumes: Sequence[Volume | None], slice: int | None = None) -> tuple[MetaTensor, Tensor]:
        """The volumes along the channel axis, with zeros for None, and the flags of the available ones."""
        present = [volume for volume in volumes if volume is not None]
        stack = np.zeros((len(volumes), *present[0].shape), dtype=np.float32)
        for m, volume in enumerate(volumes):
            if volume is not None:
                stack[m] = volume.data
        return _tensor(stack, present, slice), torch.tensor([volume is not None for volume in volumes])

    def _files(self, paths: Paths, channels: Sequence[str] | None) -> list[Path | None]:
        if isinstance(paths, str | os.PathLike):
            paths = dict.fromkeys(self.modalities, os.fspath(paths))
        if not isinstance(paths, Mapping):
            if len(paths) != len(self.modalities):
                raise UsageError(f"{len(paths)} paths for {len(self.modalities)} modalities {self.modalities}")
            paths = dict(zip(self.modalities, paths, strict=True))
        given = {resolve(name, self.modalities): self.root / path for name, path in paths.items() if path}
        if channels is None:
            seen: dict[str, str] = {}
            for name, path in given.items():
                other = seen.setdefault(os.path.realpath(path), name)
                if other != name:
                    raise InputError(f"{path} is given for both {other} and {name}; give each its own file")
        return [given.get(name) for name in self.modalities]

    def _volumes(self, files: Sequence[Path | None], channels: Sequence[str]) -> dict[str, Volume]:
        """The volumes of 4-D files."""
        order = [name and resolve(name, self.modalities) for name in channels]  # None: a volume that is not used
        volumes: dict[str, Volume] = {}
        for path in dict.fromkeys(path for path in files if path):
            names = [name for name, file in zip(self.modalities, files, strict=True) if file == path]
            if absent := set(names) - set(order):
                raise UsageError(f"{path}: its volumes are {order}, without {absent}; correct `channels`")
            wanted = [order.index(name) for name in names]
            read = read_volumes(path, len(order), wanted, max_voxels=self.max_voxels)
            volumes.update(zip(names, read, strict=True))
        return volumes


class LoadImageModalitiesd(MapTransform):
    """Dictionary version of `LoadModalities`, which also loads the label on the same grid.

    It reads from an item ``image_key`` (paths, see `LoadModalities`), ``label_key`` (a path, null or missing), and if
    present ``"slice"``, ``"channels"`` and ``"sequence"``. It sets ``image_key``, ``available_key`` (M,) bool and,
    given a path, ``label_key`` (1, *spatial) float32; without a path ``label_key`` is removed. ``"label_values"``, if
    present, maps every value that a label file may hold to one of the task. The image's metadata get ``"case"``, by
    which results are named.

    Text under a key that begins with ``image_key``, such as MONAI Label's ``image_path``, is removed, since MONAI's
    `Spacingd` would take it for the image's metadata. Label reads the format of its result from it, so
    ``result_extension`` is set instead.

    Args:
        slice_key: the item's number of a slice; None to load whole volumes whatever the item says, see `TakeSliced`.

    Raises:
        InputError: see `LoadModalities`; also a label on another grid, or with values that are not whole numbers or not
            among ``"label_values"``.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        image_key: str = "image",
        label_key: str = "label",
        available_key: str = "available",
        channels: Sequence[str] | None = None,
        root: str | os.PathLike[str] = "",
        max_voxels: int = MAX_VOXELS,
        slice_key: str | None = "slice",
        allow_missing_keys: bool = False,
        policy: str = "strict",
    ) -> None:
        super().__init__(image_key, allow_missing_keys)
        self.label_key = label_key
        self.available_key = available_key
        self.slice_key = slice_key
        self.load = LoadModalities(modalities, channels, root, max_voxels, policy)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        path = item.pop(self.label_key, None)
        for key in self.key_iterator(item):
            label = self.load.root / path if path else None
            volumes = self.load.read(item[key], item.get("channels"), label, item.get("sequence"))
            slice = item.get(self.slice_key)
            item[key], item[self.available_key] = self.load.stack(volumes, slice)
            if "case" in item:
                item[key].meta["case"] = item["case"]
            about = [k for k, value in item.items() if str(k).startswith(f"{key}_") and isinstance(value, str)]
            if f"{key}_path" in about:
                item.setdefault("result_extension", ".nii.gz")
            for k in about:
                del item[k]
            if path:
                label = read_label(self.load.root / path, item.pop("label_values", None), self.load.max_voxels)
                check_same_grid(next(volume for volume in volumes if volume is not None), label)
                item[self.label_key] = _tensor(label.data[None], [label], slice)
        return item


LoadModalitiesd = LoadImageModalitiesd
"""Short name. The full name has LoadImage in it because MONAI Deploy, which provides images itself, skips such
classes."""


def _tensor(data: NDArray[np.float32], volumes: Sequence[Volume], slice: int | None) -> MetaTensor:
    in_space = volumes[0].affine.copy()
    affine = in_space
    if slice is not None:
        if not 0 <= slice < data.shape[-1]:
            raise InputError(f"{volumes[0].path} has {data.shape[-1]} slices, none with the number {slice}")
        data = data[..., slice]
        in_space[:, 3] += slice * in_space[:, 2]
        # A 2-D image has no oblique place in space for MONAI, which would read wrong pixel sizes from one.
        affine = np.diag([*voxel_sizes(in_space), 1])
    meta = {
        "filename_or_obj": str(volumes[0].path),
        "original_affine": in_space,
        "spatial_shape": np.array(data.shape[1:]),
        "original_channel_dim": 0,
        "space": "RAS",
        "notes": "; ".join(dict.fromkeys(f"{v.path}: {note}" for v in volumes for note in v.notes)),
    }
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(data)), affine=torch.from_numpy(affine), meta=meta)
