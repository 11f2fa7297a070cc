"""Each modality alone through the fusing decoder, and self-distillation on top of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_passion.losses.base import LossTerms, MultiModalLoss
from monai_passion.losses.fused import pixel_distillation
from monai_passion.losses.segmentation import Target
from monai_passion.networks.backbone import Decoded
from monai_passion.networks.self_distillation import SelfDistillationOutput

__all__ = ["SubsetStudentsLoss", "UnimodalDistillationLoss"]


class UnimodalDistillationLoss(MultiModalLoss):
    """L_seg + lambda_unimodal L_reg + w(e) tau^2 L_pixel: labels first, then the multi-modal decode as a soft label.

    L_reg is the supervision of each modality alone through the fusing decoder (Eq. 1), L_pixel the divergence of Eq. 3
    with levels weighted by ``level_decay``. The factor tau^2 keeps its gradient independent of the temperature (Hinton
    et al. 2015), and w(e) = lambda_pixel min(1, e / ramp_epochs) in epoch e = 1, 2, ... spares the students the
    teacher's first guesses (Laine and Aila 2017). Its network is ``SelfDistillationNet(unimodal="train")``.

    Args:
        lambda_unimodal: weight of L_reg.
        lambda_pixel: final weight of the distillation.
        temperature: tau.
        ramp_epochs: until ``lambda_pixel`` is reached; 0: from the start.
        options: of `MultiModalLoss`.
    """

    decodes_alone = "train"
    counts_epochs = True

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        lambda_unimodal: float = 1.0,
        lambda_pixel: float = 0.5,
        temperature: float = 2.0,
        ramp_epochs: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(num_modalities, num_classes, lambda_unimodal=lambda_unimodal, **options)
        self.lambda_pixel = lambda_pixel
        self.temperature = temperature
        self.ramp_epochs = ramp_epochs

    compared = ("gap", "pixel")

    def compare(self, student: Decoded, teacher: Decoded, target: Target, present: Tensor) -> dict[str, Tensor]:
        levels = zip(student.logits, teacher.logits, strict=True)
        pixel = self.levels([pixel_distillation(s, t, self.temperature) for s, t in levels])
        return {**super().compare(student, teacher, target, present), "pixel": pixel}

    def combine(self, terms: LossTerms) -> Tensor:
        ramp = min(1.0, (int(self.epoch) + 1) / self.ramp_epochs) if self.ramp_epochs else 1.0
        weight = self.lambda_pixel * ramp * self.temperature**2
        return terms.segmentation + weight * terms.modal["pixel"].sum(dim=1)


class SubsetStudentsLoss(MultiModalLoss):
    """L_seg + lambda_unimodal L_reg + lambda_subset times Dice + weighted cross-entropy of random subsets' decodes.

    Like single modalities, random subsets of two or more of a sample's modalities are decoded and supervised, so that
    combinations that are rare in the data are trained, too. The term ``subset`` divides the loss of a subset among its
    modalities. Its network is ``SelfDistillationNet(unimodal="train", random_subsets=1)``.
    """

    decodes_alone = "train"
    decodes_subsets = True

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        lambda_unimodal: float = 1.0,
        lambda_subset: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(num_modalities, num_classes, lambda_unimodal=lambda_unimodal, **options)
        self.lambda_subset = lambda_subset

    def compute(self, output: SelfDistillationOutput, target: Target) -> LossTerms:
        terms = super().compute(output, target)
        terms.modal["subset"] = terms.segmentation.new_zeros(output.available.shape)
        if output.subsets is not None and output.subset_masks is not None:
            samples = list(output.subset_samples)
            losses = self.supervise(output.subsets.logits[0], samples, target)
            mask = output.subset_masks.to(losses)
            share = losses.unsqueeze(1) * mask / mask.sum(dim=1, keepdim=True)
            rows = torch.tensor(samples, device=losses.device)
            terms.modal["subset"] = terms.modal["subset"].index_add(0, rows, share)
            terms.measured["subset"] = terms.modal["subset"].detach() > 0
        return terms

    def combine(self, terms: LossTerms) -> Tensor:
        return terms.segmentation + self.lambda_subset * terms.modal["subset"].sum(dim=1)
