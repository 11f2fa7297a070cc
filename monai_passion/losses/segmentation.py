"""Dice and weighted cross-entropy of the multi-modal prediction with deep supervision (Eq. 1-2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "PROBABILITY_FLOOR",
    "Target",
    "cross_entropy",
    "deep_supervision",
    "dice_loss",
    "enlarge",
    "make_target",
    "weighted_cross_entropy",
]

PROBABILITY_FLOOR = 0.005
"""Floor of probabilities in logarithms, as in the published losses; below it the gradient is zero."""


class Target(NamedTuple):
    """A label map prepared once for all losses of a step. V voxels."""

    label: Tensor
    """(B, 1, V) int64, classes 0 .. K-1."""
    onehot: Tensor
    """(B, K, V) float."""
    voxels: Tensor
    """(B, K) float: voxels per class."""

    def rows(self, samples: Sequence[int]) -> Target:
        """The target of these samples."""
        index = torch.tensor(list(samples), dtype=torch.long, device=self.label.device)
        return Target(*(part[index] for part in self))

    def sample(self, b: int) -> Target:
        """The target of one sample, B = 1."""
        return Target(*(part[b : b + 1] for part in self))


def make_target(label: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Target:
    """Prepare a label map (B, 1, *spatial) or (B, *spatial) of any dtype, for losses in ``dtype``.

    Raises:
        ValueError: a value outside 0 .. K-1.
    """
    label = label.as_subclass(Tensor) if type(label) is not Tensor else label
    label = label.reshape(label.shape[0], 1, -1).long()
    if label.numel() and (int(label.min()) < 0 or int(label.max()) >= num_classes):
        values = sorted(set(label.unique().tolist()) - set(range(num_classes)))
        raise ValueError(
            f"the label map holds {values}; classes are 0 to {num_classes - 1}: map the label values first"
        )
    onehot = torch.zeros(label.shape[0], num_classes, label.shape[2], dtype=dtype, device=label.device)
    onehot.scatter_(1, label, 1.0)
    return Target(label, onehot, onehot.sum(dim=2))


def weighted_cross_entropy(probability: Tensor, target: Target) -> Tensor:
    """Mean over voxels of -w_y log p_y with w_k = 1 - n_k / V: rare classes weigh more.

    Args:
        probability: (B, K, V).

    Returns:
        (B,) per sample, in [0, -log 0.005].
    """
    weight = 1 - target.voxels / probability.shape[2]
    true = probability.gather(1, target.label).squeeze(1).clamp(PROBABILITY_FLOOR, 1.0)
    return -(weight.gather(1, target.label.squeeze(1)) * true.log()).mean(dim=1)


def cross_entropy(probability: Tensor, target: Target) -> Tensor:
    """Mean over voxels of -log p_y, every voxel alike: unlike the weighted one it also learns from heads without tumor.

    Args:
        probability: (B, K, V).

    Returns:
        (B,) per sample, in [0, -log 1e-6].
    """
    return -probability.gather(1, target.label).squeeze(1).clamp(1e-6, 1.0).log().mean(dim=1)


def dice_loss(probability: Tensor, target: Target) -> Tensor:
    """1 - mean over all K classes of 2 |P Y| / (|P| + |Y|), background included, sums not squared.

    Args:
        probability: (B, K, V).

    Returns:
        (B,) per sample, in [0, 1]. A class that is neither in the label nor predicted counts as missed, as published.
    """
    intersection = (probability * target.onehot).sum(dim=2)
    dice = 2 * intersection / (probability.sum(dim=2) + target.voxels + 1e-7)
    return 1 - dice.mean(dim=1)


def enlarge(values: Tensor, spatial: Sequence[int]) -> Tensor:
    """Up_2^l: bi- or trilinear to the full resolution, corners aligned (N, C, *coarse) -> (N, C, *spatial)."""
    if tuple(values.shape[2:]) == tuple(spatial):
        return values
    mode = "bilinear" if values.ndim == 4 else "trilinear"
    return F.interpolate(values, size=tuple(spatial), mode=mode, align_corners=True)


def deep_supervision(logits: Sequence[Tensor], target: Target, weighted: bool = True) -> tuple[Tensor, ...]:
    """Dice + weighted cross-entropy of every level, the summands of L_seg in Eq. 1.

    Args:
        logits: level 0 first, (B, K, *spatial) and coarser. Their softmax is enlarged, as in the published code.
        weighted: false for `cross_entropy` in place of `weighted_cross_entropy`.

    Returns:
        (B,) per level.
    """
    spatial = logits[0].shape[2:]
    entropy = weighted_cross_entropy if weighted else cross_entropy
    losses = []
    for level in logits:
        probability = enlarge(level.softmax(dim=1), spatial).flatten(2)
        losses.append(entropy(probability, target) + dice_loss(probability, target))
    return tuple(losses)
