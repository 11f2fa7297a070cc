"""Rivals of PASSION: each adds its own term, or its own measurement, to the objective of the backbones.

All use the decodes of each modality alone that `SelfDistillationNet` makes, and the same voxels and labels as PASSION.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_passion.losses.distillation import pixel_distillation, prototypes
from monai_passion.losses.passion import BackboneLoss, LossTerms, scatter, students
from monai_passion.losses.segmentation import Target
from monai_passion.networks.self_distillation import SelfDistillationOutput

__all__ = [
    "GradientModulationLoss",
    "PMRLoss",
    "TeacherDistillationLoss",
    "imbalance_ratio",
    "prototypical_terms",
    "true_class_score",
]


def class_weights(onehot: Tensor, count: Tensor) -> Tensor:
    """Weights of the voxels (1, V) that add to 1, the same for each class that occurs: (1, K, V), (1, K) -> (1, V)."""
    share = torch.where(count > 0, 1 / count.clamp_min(1), 0.0) / (count > 0).sum()
    return (onehot * share.unsqueeze(2)).sum(dim=1)


def true_class_score(logits: Tensor, onehot: Tensor, count: Tensor) -> Tensor:
    """Mean probability of the true class, each class weighing alike: how good a modality is alone.

    Args:
        logits: (S, K, *spatial).
        onehot: (1, K, V); count: (1, K), voxels per class.

    Returns:
        (S,), in [0, 1].
    """
    true = (logits.softmax(dim=1).flatten(2) * onehot).sum(dim=1)
    return (true * class_weights(onehot, count)).sum(dim=1)


def prototypical_terms(features: Tensor, onehot: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What PMR (Fan et al., CVPR 2023) computes of one modality's features.

    p is the softmax over the classes of minus the Euclidean distance of a voxel's feature to the prototypes. These are
    the class means of the sample at hand, which has voxels enough, and constants, as the stored ones of the original.
    Classes weigh alike, as in its balanced data; those without voxels are left out.

    Args:
        features: (S, C, *spatial).
        onehot: (1, K, V); count: (1, K), voxels per class.

    Returns:
        prototypical cross-entropy -log p_y, score p_y in [0, 1], entropy of p: each (S,), mean over the voxels.
    """
    present = count[0] > 0
    onehot, count = onehot[:, present], count[:, present]
    flat = features.flatten(2)
    centre = prototypes(flat.detach(), onehot, count)
    # Without matrix products, which cancel where a voxel is close to a prototype.
    distance = torch.cdist(flat.transpose(1, 2), centre, compute_mode="donot_use_mm_for_euclid_dist")
    log_p = (-distance).log_softmax(dim=2)
    log_true = (log_p * onehot.transpose(1, 2)).sum(dim=2)
    weight = class_weights(onehot, count)
    entropy = -(log_p.exp() * log_p).sum(dim=2)
    return -(weight * log_true).sum(dim=1), (weight * log_true.exp()).sum(dim=1), (weight * entropy).sum(dim=1)


def imbalance_ratio(score: Tensor, mask: Tensor) -> Tensor:
    """How much better a modality does than the mean of the sample's others; of two modalities s^0 / s^1 and s^1 / s^0.

    Args:
        score: (B, M), >= 0.
        mask: (B, M) bool, the modalities that were scored.

    Returns:
        (B, M), >= 0, without gradient: above 1 for dominant, below for slow modalities. Exactly 1 where there is
        nothing to compare: for absent modalities, alone ones, and if all others score 0.
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

    epoch: Tensor

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        lambda_pce: float = 1.0,
        lambda_entropy: float = 0.01,
        entropy_epochs: int = 10,
        level_decay: float = 0.5,
    ) -> None:
        super().__init__(num_modalities, num_classes, level_decay)
        self.lambda_pce = lambda_pce
        self.lambda_entropy = lambda_entropy
        self.entropy_epochs = entropy_epochs
        self.register_buffer("epoch", torch.tensor(0))

    def compute(self, output: SelfDistillationOutput, target: Target) -> LossTerms:
        terms = super().compute(output, target)
        parts = [
            prototypical_terms(student.features, target.onehot[b : b + 1], target.voxels[b : b + 1])
            for b, student in students(output)
        ]
        if not parts:
            return terms
        names = ("prototypical_cross_entropy", "score", "entropy")
        columns = zip(names, zip(*parts, strict=True), strict=True)
        shape = output.available.shape
        return terms._replace(others={name: scatter(column, output.pairs, shape) for name, column in columns})

    def combine(self, terms: LossTerms) -> Tensor:
        total = super().combine(terms)
        if not terms.others:
            return total
        ratio = imbalance_ratio(terms.others["score"], terms.others["score"] > 0)
        slow = torch.where(ratio < 1, 1 / ratio.clamp_min(0.5) - 1, 0.0)
        added = self.lambda_pce * slow * terms.others["prototypical_cross_entropy"]
        if int(self.epoch) < self.entropy_epochs:
            added = added - self.lambda_entropy * (ratio - 1).clamp(0, 1) * terms.others["entropy"]
        return total + added.sum(dim=1).mean()

    def end_epoch(self) -> Tensor:
        self.epoch += 1
        return super().end_epoch()


class TeacherDistillationLoss(BackboneLoss):
    """Distillation from a separately trained, frozen teacher (Hinton et al. 2015) on top of the backbones' objective.

    Adds ``lambda_teacher`` times the sum over the modalities of KL[softmax(z^m / tau) || softmax(z_teacher / tau)], the
    term of Eq. 3 at full resolution. The teacher needs every modality and sees only the samples that have them all: in
    IDT nobody has the others. So what it can give shrinks with the missing rates; the log says of how many samples.
    Its network is ``SelfDistillationNet(unimodal="train", separate=True, teacher=...)``.
    """

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        lambda_teacher: float = 0.5,
        temperature: float = 4.0,
        level_decay: float = 0.5,
    ) -> None:
        super().__init__(num_modalities, num_classes, level_decay)
        self.lambda_teacher = lambda_teacher
        self.temperature = temperature

    def compute(self, output: SelfDistillationOutput, target: Target) -> LossTerms:
        terms = super().compute(output, target)
        losses, pairs = [], []
        for b, student in students(output):
            if b in output.teacher_samples and output.teacher is not None:
                row = output.teacher_samples.index(b)
                losses.append(pixel_distillation(student.logits[0], output.teacher[row : row + 1], self.temperature))
                pairs += [pair for pair in output.pairs if pair[0] == b]
        if not losses:
            return terms
        return terms._replace(others={"teacher": scatter(losses, pairs, output.available.shape)})

    def combine(self, terms: LossTerms) -> Tensor:
        total = super().combine(terms)
        if "teacher" in terms.others:
            total = total + self.lambda_teacher * terms.others["teacher"].sum(dim=1).mean()
        return total


class GradientModulationLoss(BackboneLoss):
    """The backbones' objective, which also scores each modality alone, for `GradientModulationHandler`.

    Its network is ``SelfDistillationNet(unimodal="monitor", separate=True)``.
    """

    def compute(self, output: SelfDistillationOutput, target: Target) -> LossTerms:
        terms = super().compute(output, target)
        scores = [
            true_class_score(student.logits[0].detach(), target.onehot[b : b + 1], target.voxels[b : b + 1])
            for b, student in students(output)
        ]
        return (
            terms._replace(others={"score": scatter(scores, output.pairs, output.available.shape)}) if scores else terms
        )
