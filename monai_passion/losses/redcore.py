"""Supervision of the modalities weighed by their relative advantage, as in RedCore (Sun et al., AAAI 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monai_passion.errors import UsageError
from monai_passion.losses.base import LossTerms, MultiModalLoss, over_processes

__all__ = ["RelativeAdvantageLoss", "relative_advantage"]


def relative_advantage(loss: Tensor) -> Tensor:
    """(mean - L^m) / mean of the modalities' running losses (M,): positive where one does better than the mean.

    It sums to 0; exactly 0 where every loss is 0.
    """
    mean = loss.mean()
    return torch.where(mean > 0, (mean - loss) / torch.where(mean > 0, mean, 1.0), 0.0)


class RelativeAdvantageLoss(MultiModalLoss):
    """L_seg + sum over the modalities of beta^m L_reg^m, beta regulated by the relative advantage.

    After every ``interval`` batches, eta RA^m is subtracted from beta^m, which is kept at or above 0.1 and scaled to
    the norm sqrt(M), so that the root mean square of the weights is 1. RA^m comes from running means (momentum
    ``momentum``) of each modality's loss. RedCore regulates the reconstruction of absent modalities' features in this
    way. Segmentation backbones reconstruct none, so here it regulates the supervision of each modality alone through
    the fusing decoder, L_reg of Eq. 1; the variational bottleneck is left out. Its network is
    ``SelfDistillationNet(unimodal="train")``.

    Args:
        eta: rate of the update.
        interval: batches between two updates.
        momentum: share of the newest loss in the running mean.
        options: of `MultiModalLoss`.
    """

    decodes_alone = "train"

    running: Tensor
    batches: Tensor

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        eta: float = 0.01,
        interval: int = 10,
        momentum: float = 0.1,
        lambda_unimodal: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(num_modalities, num_classes, lambda_unimodal=lambda_unimodal, **options)
        self.eta = eta
        self.interval = interval
        self.momentum = momentum
        self.register_buffer("running", torch.zeros(num_modalities))
        self.register_buffer("batches", torch.tensor(0))

    def check_network(self, network: nn.Module) -> None:
        super().check_network(network)
        if not self.lambda_unimodal:
            raise UsageError(f"{type(self).__name__} balances the uni-modal losses; set lambda_unimodal above 0")

    def combine(self, terms: LossTerms) -> Tensor:
        # The base adds lambda_unimodal L_reg, whose weight here is lambda_unimodal beta.
        return terms.segmentation + self.lambda_unimodal * ((self.beta - 1) * terms.modal["unimodal"]).sum(dim=1)

    @torch.no_grad()
    def observe(self, terms: LossTerms) -> None:
        super().observe(terms)
        unimodal = terms.modal["unimodal"].to(self.running)
        total, number = over_processes(torch.stack([unimodal.sum(dim=0), terms.available.to(unimodal).sum(dim=0)]))
        mean = total / number.clamp_min(1)
        first = (self.running == 0) & (number > 0)
        moved = torch.lerp(self.running, mean, self.momentum)
        self.running.copy_(torch.where(first, mean, torch.where(number > 0, moved, self.running)))
        self.batches += 1
        seen = self.running > 0  # a modality that no patient has keeps its weight
        if int(self.batches) % self.interval == 0 and bool(seen.any()):
            beta = (self.beta[seen] - self.eta * relative_advantage(self.running[seen])).clamp_min(0.1)
            self.beta[seen] = beta * len(beta) ** 0.5 / beta.norm()
