"""Scores of every combination of modalities, gathered while an Ignite engine runs over the patients."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from nibabel.affines import voxel_sizes
from torch import Tensor

from monai_passion.errors import WeightsError
from monai_passion.evaluation.metrics import CHALLENGE, image_diagonal, score_case, score_slices
from monai_passion.evaluation.summary import read_metrics, summarize, write_metrics, write_summary
from monai_passion.modalities import combinations
from monai_passion.system.files import write_atomically
from monai_passion.transforms.decision import NOT_NUMBERS, most_probable_class

__all__ = ["CombinationScores", "label_maps", "region_dice"]


def label_maps(probability: Tensor, num_combinations: int) -> Tensor:
    """Probabilities (C * K, *spatial), combination-major -> int16 labels (C, *spatial); combinations of NaN give -1.

    Raises:
        WeightsError: a combination is NaN in part; one that a patient lacks is NaN throughout.
    """
    maps = probability.unflatten(0, (num_combinations, -1))
    labels = torch.empty(maps[:, 0].shape, dtype=torch.int16, device=maps.device)
    for combination, label in zip(maps, labels, strict=True):
        label.copy_(most_probable_class(combination))
    unknown = maps[:, 0].flatten(1).isnan()
    if bool((unknown.any(dim=1) & ~unknown.all(dim=1)).any()):
        raise WeightsError(NOT_NUMBERS)
    labels[unknown[:, 0]] = -1
    return labels


def region_dice(pred: Tensor, true: Tensor, regions: Mapping[str, Sequence[int]]) -> list[float]:
    """Dice of each region of two label maps; two empty regions agree (1)."""
    scores = []
    for labels in regions.values():
        values = torch.tensor(labels, device=pred.device)
        p, t = torch.isin(pred, values), torch.isin(true, values)
        total = int(p.sum() + t.sum())
        scores.append(2 * int((p & t).sum()) / total if total else 1.0)
    return scores


def file_diagonal(meta: Mapping[str, Any], b: int, axes: int) -> float:
    """Diagonal (mm) of the file that image ``b`` of a batch was read from, before any cropping.

    Args:
        meta: ``spatial_shape`` and ``original_affine`` of each image, as loading sets them.
        axes: 3; for a slice 2.
    """
    shape = np.asarray(meta["spatial_shape"]).reshape(-1, 3)[b, :axes]
    affine = np.asarray(meta["original_affine"]).reshape(-1, 4, 4)[b]
    return image_diagonal(shape.tolist(), voxel_sizes(affine)[:axes].tolist())


class CombinationScores(Metric):
    """Scores all 2^M - 1 combinations of each patient of an evaluation engine.

    The engine's inferer must be an `IncompleteModalityInferer` with all combinations, in the order of
    `monai_passion.modalities.combinations`. The metric's value is the mean Dice over patients, combinations and
    regions.

    Args:
        modalities: names in channel order.
        regions: region -> labels.
        output_dir: after the run, ``metrics.csv`` (one row per case, combination, region and convention for empty
            regions) and ``summary.json`` (means with bootstrap intervals by patient) are written here.
        dice_only: compute only the mean Dice; for validation during a training.
        diagonal: distance (mm) for a missed region if the files are crops; by default the diagonal of the file.
        per_slice: every slice of the third axis is a case of its own, as 2-D segmentation is scored.
        example: also write ``example.npz``: the slice of the first patient with the most labeled voxels, and the result
            of each combination. It shows voxels of that patient.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        regions: Mapping[str, Sequence[int]],
        output_dir: str | os.PathLike[str] | None = None,
        dice_only: bool = False,
        diagonal: float | None = None,
        per_slice: bool = False,
        example: bool = False,
    ) -> None:
        self.modalities = tuple(modalities)
        self.regions = {name: tuple(labels) for name, labels in regions.items()}
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.dice_only = dice_only
        self.diagonal = diagonal
        self.per_slice = per_slice
        self.example = example
        self.combinations = combinations(self.modalities)
        self.names = ["+".join(c) for c in self.combinations]
        super().__init__()

    def attach(self, engine: Engine, name: str, usage: Any = None) -> None:
        """Attach to an engine; the files are written when the run is complete."""
        super().attach(engine, name) if usage is None else super().attach(engine, name, usage)
        if self.output_dir is not None:
            engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.dice: list[float] = []
        self.slices: dict[str, np.ndarray] = {}

    def iteration_completed(self, engine: Engine) -> None:
        """Score the batch that the engine has just run."""
        output, batch = engine.state.output, engine.state.batch
        for b, (probability, label) in enumerate(zip(output["pred"], output["label"], strict=True)):
            true = label[0].as_subclass(Tensor).long()
            maps = label_maps(probability.as_subclass(Tensor), len(self.combinations))
            if self.example and not self.slices:
                affine = np.full((4, 4), np.nan)
                if hasattr(label, "affine"):
                    affine = np.asarray(label.affine[b] if label.affine.ndim == 3 else label.affine)
                self.slices = {**self._most_labeled_slice(batch["image"][b], true, maps), "affine": affine}
            spacing = None
            if hasattr(label, "pixdim"):
                pixdim = label.pixdim[b] if label.pixdim.ndim == 2 else label.pixdim
                spacing = [float(size) for size in pixdim[: true.ndim]]
            diagonal = self.diagonal
            if diagonal is None and spacing is not None and {"spatial_shape", "original_affine"} <= label.meta.keys():
                diagonal = file_diagonal(label.meta, b, 2 if self.per_slice else 3)
            shares = probability.as_subclass(Tensor).unflatten(0, (len(self.combinations), -1))
            flags = torch.as_tensor(batch["available"][b]).tolist() if "available" in batch else []
            present = {m for m, there in zip(self.modalities, flags, strict=False) if there}
            for name, pred, share in zip(self.names, maps, shares, strict=True):
                if int(pred.flatten()[0]) == -1:
                    if present >= set(name.split("+")):
                        if not self.dice_only:
                            raise WeightsError(NOT_NUMBERS)
                        self.dice += [0.0] * len(self.regions)  # the training goes on, or is stopped for its losses
                    continue  # else this patient lacks one of these modalities
                if not self.dice_only:
                    rows = self._score(
                        pred, true, share, spacing, diagonal, batch["case"][b], batch["patient"][b], name
                    )
                    self.dice += [row["dice"] for row in rows if row["convention"] == CHALLENGE.name]
                    self.rows += rows
                    continue
                parts = zip(pred.unbind(-1), true.unbind(-1), strict=True) if self.per_slice else [(pred, true)]
                for part, reference in parts:
                    self.dice += region_dice(part, reference, self.regions)

    def _score(
        self,
        pred: Tensor,
        true: Tensor,
        probability: Tensor,
        spacing: list[float] | None,
        diagonal: float | None,
        case: str,
        patient: str,
        combination: str,
    ) -> list[dict[str, Any]]:
        given = pred.cpu().numpy(), true.cpu().numpy(), self.regions, spacing
        score = score_slices if self.per_slice else score_case
        shares = probability.float().cpu().numpy()
        return score(*given, case=case, patient=patient, combination=combination, probability=shares, diagonal=diagonal)

    def _most_labeled_slice(self, image: Tensor, true: Tensor, maps: Tensor) -> dict[str, np.ndarray]:
        z = int((true > 0).sum(dim=(0, 1)).argmax())
        return {
            "image": image.as_subclass(Tensor)[..., z].float().cpu().numpy(),
            "label": true[..., z].to(torch.int8).cpu().numpy(),
            "prediction": maps[..., z].to(torch.int8).cpu().numpy(),
            "combinations": np.array(self.names),
            "modalities": np.array(self.modalities),
        }

    def _write_slices(self, path: Path) -> None:
        with open(path, "wb") as file:  # given a path, numpy would append its own suffix
            np.savez_compressed(file, allow_pickle=False, **self.slices)

    def update(self, output: Any) -> None:
        raise NotImplementedError("CombinationScores reads the engine's state; attach it to one")

    def compute(self) -> float:
        """Mean Dice over patients, combinations and regions, and over the processes of a distributed training."""
        total, count = idist.all_reduce(torch.tensor([sum(self.dice), len(self.dice)], dtype=torch.float64)).tolist()
        return total / max(count, 1)

    def write(self, engine: Engine) -> None:
        assert self.output_dir is not None
        if self.slices:
            write_atomically(self.output_dir / "example.npz", self._write_slices)
        path = write_metrics(self.rows, self.output_dir / "metrics.csv")
        write_summary(summarize(read_metrics(path)), self.output_dir / "summary.json")
