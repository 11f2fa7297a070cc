"""The objective that the authors' released code minimizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monai_passion.losses.base import LossTerms, MultiModalLoss
from monai_passion.losses.distillation import pixel_distillation_released
from monai_passion.losses.fused import prototype_distillation
from monai_passion.losses.preference import (
    batch_preference_released,
    epoch_preference_released,
    update_beta_released,
)
from monai_passion.losses.segmentation import Target
from monai_passion.networks.backbone import Decoded

__all__ = ["PassionReleasedLoss"]


class PassionReleasedLoss(MultiModalLoss):
    """A sum over the batch of
    ``fused + sum_m [0.5 b_m w_m KL_m + d_m w_m (b_m separate_m + 0.1 proto_m)]``, b = beta, d = delta (one per batch),
    w = modal weight.

    `docs/explanation/paper-vs-release.md` lists every difference from the paper. Its network is
    ``SelfDistillationNet(separate=True, skip_single=False)``.

    Args:
        modal_weight: per modality, iterations per epoch / samples that have it; 1 / (1 - MR) at batch size 1.
        eta: rate of the update of beta, multiplied by 1.5 in the epochs 0, 100, 200, ...
        start_epoch: warm-up epochs before it, with the separate decoder's loss alone.
        level_decay: 0.5 in the released code.
        options: of `MultiModalLoss`.

    Raises:
        ValueError: not one ``modal_weight`` per modality.
    """

    decodes_alone = "train"
    counts_epochs = True

    eta: Tensor

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        modal_weight: Sequence[float],
        lambda_pixel: float = 0.5,
        lambda_proto: float = 0.1,
        eta: float = 0.01,
        temperature: float = 4.0,
        start_epoch: int = 0,
        level_decay: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(num_modalities, num_classes, level_decay, **options)
        if len(modal_weight) != num_modalities:
            raise ValueError(
                f"modal_weight has {len(modal_weight)} values for {num_modalities} modalities; give one each"
            )
        self.lambda_pixel = lambda_pixel
        self.lambda_proto = lambda_proto
        self.temperature = temperature
        self.start_epoch = start_epoch
        self.register_buffer("modal_weight", torch.tensor(modal_weight, dtype=torch.float32))
        self.register_buffer("eta", torch.tensor(eta, dtype=torch.float64))

    compared = ("pixel", "prototype", "gap")

    def compare(self, student: Decoded, teacher: Decoded, target: Target, present: Tensor) -> dict[str, Tensor]:
        spatial = student.logits[0].shape[2:]
        pixel = self.levels(
            [
                pixel_distillation_released(s, t, self.temperature, spatial)
                for s, t in zip(student.logits, teacher.logits, strict=True)
            ]
        )
        prototype, gap = prototype_distillation(
            student.features, teacher.features, target.onehot, target.voxels, present
        )
        return {"pixel": pixel, "prototype": prototype, "gap": gap}

    def classes(self, target: Target, sample: int) -> Tensor:
        return (target.voxels > 0).all(dim=0)

    def combine(self, terms: LossTerms) -> Tensor:
        weight = self.beta * self.modal_weight
        separate = terms.modal["separate"] * terms.available
        if int(self.epoch) < self.start_epoch:
            return (weight * separate).sum(dim=1)
        delta = batch_preference_released(terms.modal["gap"], terms.available) > 0
        distilled = self.lambda_pixel * weight * terms.modal["pixel"] + delta * (
            weight * separate + self.lambda_proto * self.modal_weight * terms.modal["prototype"]
        )
        return terms.segmentation + distilled.sum(dim=1)

    def reduce(self, losses: Tensor) -> Tensor:
        return losses.sum()

    @torch.no_grad()
    def observe(self, terms: LossTerms) -> None:
        gap = terms.modal["gap"]
        seen = terms.available & gap.isfinite()
        self.preference_sum += torch.where(seen, gap, 0.0).sum(dim=0)
        self.preference_count += seen.sum(dim=0)

    def end_epoch(self) -> Tensor:
        total, count = self.epoch_sums()
        preference = epoch_preference_released(total / count)
        if int(self.epoch) >= self.start_epoch:
            if int(self.epoch) % 100 == 0:
                self.eta *= 1.5
            self.beta.copy_(update_beta_released(self.beta, preference.to(self.beta), float(self.eta)))
        self.epoch += 1
        return preference
