"""On-the-fly gradient modulation with generalization enhancement, OGM-GE (Peng et al., CVPR 2022)."""

from __future__ import annotations

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor

from monai_passion.handlers.steps import check_plain_steps
from monai_passion.losses.modulation import GradientModulationLoss
from monai_passion.losses.pmr import imbalance_ratio
from monai_passion.networks.backbone import MultiModalBackbone

__all__ = ["GradientModulationHandler", "modulation"]


def modulation(score: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """k^m = 1 - tanh(alpha rho^m) where rho^m > 1, else 1 (their Eq. 10).

    Args:
        score: (B, M), of each modality alone.
        mask: (B, M) bool, what was scored.
        alpha: >= 0.

    Returns:
        (M,), in (0, 1]: rho^m is the ratio of the batch's mean score of a modality to the mean of the others.
    """
    number = mask.sum(dim=0)
    mean = (score * mask).sum(dim=0) / number.clamp_min(1)
    ratio = imbalance_ratio(mean.unsqueeze(0), (number > 0).unsqueeze(0)).squeeze(0)
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), 1.0)


class GradientModulationHandler:
    """After each backward pass, slows down the encoders of modalities that score better alone than the others.

    The gradient of each parameter that one modality alone uses is multiplied by the modality's ``k`` (`modulation`);
    with ``noise``, Gaussian noise of the gradient's own standard deviation is added (GE). Comes before
    `NonFiniteHandler`.

    Args:
        backbone: whose `modality_parameters` these are.
        loss: its terms hold the scores.
        alpha: strength of the modulation.
        noise: generalization enhancement.

    Raises:
        ValueError: ``alpha`` is negative.
        UsageError: (when the training starts) see `check_plain_steps`.
    """

    def __init__(
        self, backbone: MultiModalBackbone, loss: GradientModulationLoss, alpha: float = 0.3, noise: bool = True
    ) -> None:
        if alpha < 0:
            raise ValueError(f"alpha is {alpha}; it must not be negative")
        self.backbone = backbone
        self.loss = loss
        self.alpha = alpha
        self.noise = noise

    def attach(self, engine: SupervisedTrainer) -> None:
        engine.add_event_handler(Events.STARTED, check_plain_steps, "ogm_ge")
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: SupervisedTrainer) -> None:
        terms = self.loss.terms
        if terms is None:
            return
        score = terms.modal["score"]
        for m, k in enumerate(modulation(score, score > 0, self.alpha).tolist()):
            for parameter in self.backbone.modality_parameters(m):
                if parameter.grad is None:
                    continue
                modulated = k * parameter.grad
                if self.noise and parameter.numel() > 1:
                    modulated += torch.randn_like(modulated) * parameter.grad.std()
                parameter.grad.copy_(modulated)
