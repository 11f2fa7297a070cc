"""Prototypical Modality Rebalance, PMR (Fan et al., CVPR 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_passion.losses.base import LossTerms
from monai_passion.losses.baseline import BackboneLoss
from monai_passion.losses.distillation import prototypes
from monai_passion.losses.segmentation import Target
from monai_passion.networks.backbone import Decoded

__all__ = ["PMRLoss", "class_weights", "imbalance_ratio", "prototypical_terms"]


def class_weights(onehot: Tensor, count: Tensor) -> Tensor:
    """Weights of the voxels (1, V) that add to 1, the same for each class that occurs: (1, K, V), (1, K) -> (1, V)."""
    share = torch.where(count > 0, 1 / count.clamp_min(1), 0.0) / (count > 0).sum()
    return (onehot * share.unsqueeze(2)).sum(dim=1)


def prototypical_terms(features: Tensor, onehot: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The terms that PMR (Fan et al., CVPR 2023) computes from one modality's features.

    p is the softmax over the classes of minus the Euclidean distance of a voxel's feature to the prototypes. The
    prototypes are the class means of this sample, which has enough voxels; they get no gradient, like the stored ones
    of the original. Classes weigh alike, as in its balanced data; classes without voxels are left out.

    Args:
        features: (S, C, *spatial).
        onehot: (1, K, V); count: (1, K), voxels per class.

    Returns:
        prototypical cross-entropy -log p_y, score p_y in [0, 1], entropy of p: each (S,), mean over the voxels.
    """
    present = count[0] > 0
    onehot, count = onehot[:, present], count[:, present]
    flat = features.flatten(2)
    center = prototypes(flat.detach(), onehot, count)
    # Without matrix products, which cancel where a voxel is close to a prototype.
    distance = torch.cdist(flat.transpose(1, 2), center, compute_mode="donot_use_mm_for_euclid_dist")
    log_p = (-distance).log_softmax(dim=2)
    log_true = (log_p * onehot.transpose(1, 2)).sum(dim=2)
    weight = class_weights(onehot, count)
    entropy = -(log_p.exp() * log_p).sum(dim=2)
    return -(weight * log_true).sum(dim=1), (weight * log_true.exp()).sum(dim=1), (weight * entropy).sum(dim=1)


def imbalance_ratio(score: Tensor, mask: Tensor) -> Tensor:
    """Ratio of a modality's score to the mean of the sample's others; for two modalities s^0 / s^1 and s^1 / s^0.

    Args:
        score: (B, M), >= 0.
        mask: (B, M) bool, the modalities that were scored.

    Returns:
        (B, M), >= 0, without gradient: above 1 for dominant, below for slow modalities. Exactly 1 if there is nothing
        to compare: for absent and single modalities, and if all others score 0.
    """
    score = score.detach() * mask
    others = score.sum(dim=1, keepdim=True) - score
    number = mask.sum(dim=1, keepdim=True) - 1
    defined = mask & (number > 0) & (others > 0)
    return torch.where(defined, score * number / torch.where(defined, others, 1.0), 1.0)


class PMRLoss(BackboneLoss):
    """Prototypical Modality Rebalance (Fan et al., CVPR 2023) on top of the backbones' objective.

    Adds, over the modalities of each sample with ratio rho^m of its score to the others',

    * ``lambda_pce clip(1 / rho^m - 1, 0, 1)`` times the prototypical cross-entropy: speeds up the slow modalities;
    * ``- lambda_entropy clip(rho^m - 1, 0, 1)`` times the entropy, in the first ``entropy_epochs`` epochs: keeps the
      dominant ones from converging early.

    The original has two modalities, which this equals for M = 2, and a ratio and prototypes per batch and epoch.
    Its network is ``SelfDistillationNet(unimodal="train", separate=True)``.
    """

    decodes_alone = "train"
    counts_epochs = True

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        lambda_pce: float = 1.0,
        lambda_entropy: float = 0.01,
        entropy_epochs: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(num_modalities, num_classes, **options)
        self.lambda_pce = lambda_pce
        self.lambda_entropy = lambda_entropy
        self.entropy_epochs = entropy_epochs

    compared = ("gap", "prototypical_cross_entropy", "score", "entropy")

    def compare(self, student: Decoded, teacher: Decoded, target: Target, present: Tensor) -> dict[str, Tensor]:
        names = ("prototypical_cross_entropy", "score", "entropy")
        own = dict(zip(names, prototypical_terms(student.features, target.onehot, target.voxels), strict=True))
        return {**super().compare(student, teacher, target, present), **own}

    def combine(self, terms: LossTerms) -> Tensor:
        total = super().combine(terms)
        score = terms.modal["score"]
        ratio = imbalance_ratio(score, score > 0)
        slow = torch.where(ratio < 1, 1 / ratio.clamp_min(0.5) - 1, 0.0)
        added = self.lambda_pce * slow * terms.modal["prototypical_cross_entropy"]
        if int(self.epoch) < self.entropy_epochs:
            added = added - self.lambda_entropy * (ratio - 1).clamp(0, 1) * terms.modal["entropy"]
        return total + added.sum(dim=1)
