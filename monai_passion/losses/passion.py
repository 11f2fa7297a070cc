"""PASSION as in its paper: self-distillation, balanced by relative preference (Eq. 14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.utils.misc import str2bool
from torch import Tensor

from monai_passion.losses.base import LossTerms, MultiModalLoss
from monai_passion.losses.fused import pixel_distillation, prototype_distillation
from monai_passion.losses.preference import initial_beta, relative_preference, task_mask, update_beta
from monai_passion.losses.segmentation import Target
from monai_passion.networks.backbone import Decoded

__all__ = ["PassionLoss"]


class PassionLoss(MultiModalLoss):
    """L_seg + sum over the modalities of lambda_1 beta^m L_pixel^m + lambda_2 delta^m L_proto^m, Eq. 14.

    Its network is ``SelfDistillationNet(unimodal="train")``. `monai_passion.losses.distillation` has the equations.

    Args:
        missing_rates: MR of every modality in the training data, in channel order; beta starts at 1 / (1 - MR).
        lambda_pixel, lambda_proto: lambda_1 and lambda_2.
        gamma: rate of the update of beta after each epoch, Eq. 13.
        temperature: tau of Eq. 3.
        pixel, prototype, delta, beta: the four components of the paper's ablation; without ``delta`` every available
            modality learns from prototypes, without ``beta`` all coefficients stay 1. "true" or "false", from a command
            line, work too.
        options: of `MultiModalLoss`.

    Raises:
        ValueError: not one missing rate per modality, or a rate outside [0, 1].
    """

    decodes_alone = "train"

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        missing_rates: Sequence[float],
        lambda_pixel: float = 0.5,
        lambda_proto: float = 0.1,
        gamma: float = 0.01,
        temperature: float = 4.0,
        pixel: bool | str = True,
        prototype: bool | str = True,
        delta: bool | str = True,
        beta: bool | str = True,
        **options: Any,
    ) -> None:
        super().__init__(num_modalities, num_classes, **options)
        if len(missing_rates) != num_modalities:
            raise ValueError(
                f"missing_rates has {len(missing_rates)} values for {num_modalities} modalities; give one each"
            )
        self.lambda_pixel = lambda_pixel if str2bool(pixel) else 0.0
        self.lambda_proto = lambda_proto if str2bool(prototype) else 0.0
        self.gamma = gamma
        self.temperature = temperature
        self.use_delta = str2bool(delta)
        self.use_beta = str2bool(beta)
        if self.use_beta:
            self.beta.copy_(initial_beta(torch.tensor(missing_rates)))

    compared = ("pixel", "prototype", "gap")

    def compare(self, student: Decoded, teacher: Decoded, target: Target, present: Tensor) -> dict[str, Tensor]:
        levels = zip(student.logits, teacher.logits, strict=True)
        pixel = self.levels([pixel_distillation(s, t, self.temperature) for s, t in levels])
        prototype, gap = prototype_distillation(
            student.features, teacher.features, target.onehot, target.voxels, present
        )
        return {"pixel": pixel, "prototype": prototype, "gap": gap}

    def combine(self, terms: LossTerms) -> Tensor:
        distilled = self.lambda_pixel * self.beta * terms.modal["pixel"]
        preference = relative_preference(terms.modal["gap"], terms.available)
        delta = task_mask(preference) if self.use_delta else terms.available
        distilled = distilled + self.lambda_proto * delta * terms.modal["prototype"]
        return terms.segmentation + distilled.sum(dim=1)

    def end_epoch(self) -> Tensor:
        preference = super().end_epoch()
        if self.use_beta:
            self.beta.copy_(update_beta(self.beta, preference, self.gamma))
        return preference
