"""Relative preference of the modalities, and the two regularizations built on it (Eq. 9-13)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "batch_preference_released",
    "epoch_preference_released",
    "initial_beta",
    "relative_preference",
    "task_mask",
    "update_beta",
    "update_beta_released",
]


def relative_preference(gap: Tensor, mask: Tensor) -> Tensor:
    """RP^m = 1 - D^m / mean of D over the sample's modalities, Eq. 9-10.

    Args:
        gap: D (B, M), >= 0.
        mask: (B, M) bool, the sample's modalities.

    Returns:
        (B, M): positive for preferred, negative for neglected modalities. It sums to 0 over the modalities of a sample.
        Exactly 0 for absent modalities, for a sample with one modality and where every distance is 0 (0/0 in the
        equation: nothing is preferred over anything).
    """
    number = mask.sum(dim=1, keepdim=True)
    mean = (gap * mask).sum(dim=1, keepdim=True) / number.clamp_min(1)
    defined = mask & (number > 1) & (mean > 0)
    return torch.where(defined, 1 - gap / torch.where(mean > 0, mean, 1.0), 0.0)


def task_mask(preference: Tensor) -> Tensor:
    """delta = [RP < 0], Eq. 11: only neglected modalities learn from prototypes."""
    return preference < 0


def initial_beta(missing_rates: Tensor) -> Tensor:
    """beta of the first epoch, 1 / (1 - MR), so that rare modalities weigh as much as frequent ones.

    0 for a modality that no patient has (MR = 1), which no term contains.

    Raises:
        ValueError: a rate outside [0, 1].
    """
    if bool(((missing_rates < 0) | (missing_rates > 1) | missing_rates.isnan()).any()):
        raise ValueError(f"missing_rates are {missing_rates.tolist()}; each must lie in [0, 1]")
    return torch.where(missing_rates < 1, 1 / (1 - missing_rates), 0.0)


def update_beta(beta: Tensor, preference: Tensor, gamma: float) -> Tensor:
    """beta - gamma RP of the epoch, Eq. 13, never below 0 (a negative weight would push a modality away)."""
    return (beta - gamma * preference).clamp_min(0)


def batch_preference_released(gap: Tensor, mask: Tensor) -> Tensor:
    """The released code's preference of one batch, with the opposite sign: sum over the samples of D / mean D - 1.

    Args:
        gap: D (B, M); mask: (B, M) bool.

    Returns:
        (M,): positive for neglected modalities. NaN when some sample's distances are all 0, as for a sample with a
        single modality; NaN > 0 is False, so such a batch switches delta off.
    """
    kept = mask.to(gap.dtype)
    mean = (gap * kept).sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True)
    return (kept * (gap / mean - 1)).sum(dim=0)


def epoch_preference_released(mean_gap: Tensor) -> Tensor:
    """RP of an epoch from each modality's mean distance (M,): (mean - E_m) / mean, the mean over all M modalities.

    0 where every distance is 0 (0/0 in the released code).
    """
    mean = mean_gap.mean()
    return torch.where(mean > 0, (mean - mean_gap) / mean, 0.0)


def update_beta_released(beta: Tensor, preference: Tensor, eta: float) -> Tensor:
    """beta - eta RP, clamped to [0.1, 4], then scaled to norm sqrt(M) (2 for four modalities)."""
    beta = (beta - eta * preference).clamp(0.1, 4.0)
    return math.sqrt(len(beta)) * beta / beta.norm()
