"""Multi-uni self-distillation: pixel-wise (Eq. 3) and semantic-wise by class prototypes (Eq. 4-8).

Everywhere the teacher is the decode of all modalities of ONE sample, (1, ...), and the students are the decodes of
each of its modalities alone, (S, ...). The teacher never receives a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_passion.losses.segmentation import PROBABILITY_FLOOR, enlarge

__all__ = [
    "pixel_distillation",
    "pixel_distillation_released",
    "prototype_gap",
    "prototype_loss",
    "prototype_similarity",
    "prototypes",
]

EPSILON = 1e-5
"""Floor of norms and voxel counts, as in the published code."""


def pixel_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL[softmax(z^m / tau) || softmax(z / tau)] of one level, Eq. 3.

    The paper does not say how voxels are reduced: here the divergence of each voxel (a sum over classes) is averaged
    over the voxels of the level, so that levels and crop sizes weigh alike.

    Args:
        student: logits (S, K, *spatial).
        teacher: logits (1, K, *spatial), detached here.

    Returns:
        (S,), in nats, >= 0.
    """
    log_s = (student / temperature).log_softmax(dim=1)
    log_t = (teacher.detach() / temperature).log_softmax(dim=1)
    return (log_s.exp() * (log_s - log_t)).sum(dim=1).flatten(1).mean(dim=1)


def pixel_distillation_released(student: Tensor, teacher: Tensor, temperature: float, spatial: Sequence[int]) -> Tensor:
    """The released code's divergence of one level: KL[teacher || student] tau^2, averaged over classes AND voxels.

    Softmax first, then enlarged to full resolution, then clamped to [0.005, 1] without renormalising.

    Args:
        student: logits (S, K, *level); teacher: (1, K, *level).
        spatial: full resolution.

    Returns:
        (S,).
    """
    s, t = (
        enlarge((z / temperature).softmax(dim=1), spatial).clamp(PROBABILITY_FLOOR, 1.0)
        for z in (student, teacher.detach())
    )
    return temperature**2 * (t * (t.log() - s.log())).flatten(1).mean(dim=1)


def prototypes(features: Tensor, onehot: Tensor, count: Tensor) -> Tensor:
    """c_k, the mean feature of the voxels of class k, Eq. 4.

    Args:
        features: (S, C, *spatial).
        onehot: (1, K, V); count: (1, K), voxels per class.

    Returns:
        (S, K, C); zero for a class without voxels.
    """
    total = onehot @ features.flatten(2).transpose(1, 2)
    return total / (count.unsqueeze(2) + EPSILON)


def prototype_similarity(features: Tensor, prototype: Tensor) -> Tensor:
    """S_k(i) = Cos(z_i, c_k) at every voxel i, Eq. 5-6.

    Args:
        features: (S, C, *spatial); prototype: (S, K, C).

    Returns:
        (S, K, V), in [-1, 1].
    """
    flat = features.flatten(2)
    direction = prototype / prototype.norm(dim=2, keepdim=True).clamp_min(EPSILON)
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(EPSILON)
    return (direction @ flat) / length


def prototype_gap(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """D^m, how far a modality's similarity maps are from the teacher's, Eq. 7: large means neglected.

    The norm of the scalar S_k(i) is its absolute value. The paper sums over voxels and classes; the mean taken here is
    the same up to a factor that cancels in the relative preference (Eq. 10). Classes without voxels have no prototype
    and are left out.

    Args:
        student: (S, K, V); teacher: (1, K, V).
        present: (K,) bool, the classes to compare, at least one.

    Returns:
        (S,), in [0, 2], without gradient.
    """
    return (student - teacher).detach()[:, present].abs().flatten(1).mean(dim=1)


def prototype_loss(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """L_proto, the mean squared difference of the similarity maps, Eq. 8, reduced as `prototype_gap`.

    Returns:
        (S,), in [0, 4].
    """
    return (student - teacher.detach())[:, present].square().flatten(1).mean(dim=1)
