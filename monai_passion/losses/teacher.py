"""Distillation from a separately trained teacher (Hinton et al. 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monai_passion.losses.base import LossTerms, scatter, students
from monai_passion.losses.baseline import BackboneLoss
from monai_passion.losses.fused import pixel_distillation
from monai_passion.losses.segmentation import Target
from monai_passion.networks.self_distillation import SelfDistillationOutput

__all__ = ["TeacherDistillationLoss"]


class TeacherDistillationLoss(BackboneLoss):
    """The backbones' objective plus distillation from a frozen teacher that was trained with every modality.

    Adds ``lambda_teacher`` times the sum over the modalities of KL[softmax(z^m / tau) || softmax(z_teacher / tau)], the
    term of Eq. 3 at full resolution. The teacher needs every modality, so it sees only complete samples; the higher the
    missing rates, the fewer they are. Its network is ``SelfDistillationNet(unimodal="train", separate=True)``.

    Args:
        teacher: (image, available) -> logits. It is neither trained nor part of this module's state.
        lambda_teacher: weight.
        temperature: tau.
        options: of `MultiModalLoss`.
    """

    decodes_alone = "train"

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        teacher: nn.Module,
        lambda_teacher: float = 0.5,
        temperature: float = 4.0,
        **options: Any,
    ) -> None:
        super().__init__(num_modalities, num_classes, **options)
        self._teacher = (teacher,)  # a tuple hides it from nn.Module
        self.lambda_teacher = lambda_teacher
        self.temperature = temperature

    def compute(self, output: SelfDistillationOutput, target: Target) -> LossTerms:
        terms = super().compute(output, target)
        full = [b for b, row in enumerate(output.available.tolist()) if all(row)]
        pairs = [pair for pair in output.pairs if pair[0] in full]
        terms.modal["teacher"] = terms.segmentation.new_zeros(output.available.shape)
        terms.measured["teacher"] = output.available.all(dim=1, keepdim=True).expand_as(output.available)
        if not pairs:
            return terms
        said = self.ask(output.image[full], output.available[full])
        losses = [
            pixel_distillation(student.logits[0], said[row : row + 1], self.temperature)
            for b, student in students(output)
            if b in full
            for row in [full.index(b)]
        ]
        terms.modal["teacher"] = scatter(losses, pairs, output.available.shape)
        return terms

    @torch.no_grad()
    def ask(self, image: Tensor, available: Tensor) -> Tensor:
        """The teacher's logits (F, K, *spatial) of samples with every modality."""
        (teacher,) = self._teacher
        return teacher.to(image.device).eval()(image, available).float()

    def combine(self, terms: LossTerms) -> Tensor:
        return super().combine(terms) + self.lambda_teacher * terms.modal["teacher"].sum(dim=1)
