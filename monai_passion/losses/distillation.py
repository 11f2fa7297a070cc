"""Multi-uni self-distillation: pixel-wise (Eq. 3) and semantic-wise by class prototypes (Eq. 4-8).

Everywhere the teacher is the decode of all modalities of ONE sample, (1, ...), and the students are the decodes of
each of its modalities alone, (S, ...). The teacher never receives a gradient.

These functions follow the equations literally. Trainings compute them with `monai_passion.losses.fused`, which gives
the same numbers and gradients in less time and memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from monai_passion.losses.segmentation import PROBABILITY_FLOOR, enlarge

__all__ = [
    "EPSILON",
    "pixel_distillation",
    "pixel_distillation_released",
    "prototype_distillation",
    "prototypes",
    "similarity",
]

EPSILON = 1e-5
"""Floor of norms and voxel counts, as in the published code."""


def pixel_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL[softmax(z^m / tau) || softmax(z / tau)] of one level, Eq. 3.

    The paper does not say how voxels are reduced: here the divergence of each voxel (a sum over classes) is averaged
    over the voxels of the level, so that levels and crop sizes weigh alike.

    Args:
        student: logits (S, K, *spatial).
        teacher: logits (1, K, *spatial); gets no gradient.

    Returns:
        (S,), in nats, >= 0.
    """
    p, q = (student / temperature).softmax(dim=1), (teacher.detach() / temperature).softmax(dim=1)
    return (p * (p.log() - q.log())).sum(dim=1).flatten(1).mean(dim=1)


def pixel_distillation_released(student: Tensor, teacher: Tensor, temperature: float, spatial: Sequence[int]) -> Tensor:
    """The released code's divergence of one level: KL[teacher || student] tau^2, averaged over classes AND voxels.

    Softmax first, then enlarged to full resolution, then clamped to [0.005, 1] without renormalizing.

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


def similarity(features: Tensor, centers: Tensor) -> Tensor:
    """S_k(i) = Cos(z_i, c_k), Eq. 5-6: the cosine of the feature of each voxel i and the prototype of each class k.

    Args:
        features: (S, C, *spatial); centers: (S, K, C).

    Returns:
        (S, K, V), in [-1, 1].
    """
    return F.normalize(centers, dim=2, eps=EPSILON) @ F.normalize(features.flatten(2), dim=1, eps=EPSILON)


def prototype_distillation(
    student: Tensor, teacher: Tensor, onehot: Tensor, count: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """L_proto (Eq. 8) and the knowledge gap D (Eq. 7): how far a modality's similarity maps are from the teacher's.

    With S_k(i) = Cos(z_i, c_k), the cosine similarity of voxel i to its own decode's prototype of class k (Eq. 5-6),
    L_proto is the mean of (S_k^m(i) - S_k(i))^2 over voxels and classes, and D that of the absolute difference, which
    is the norm of a scalar. The paper sums: for D the factor cancels in the relative preference (Eq. 10). Classes that
    are not ``present`` have no prototype and are left out.

    Args:
        student: features (S, C, *spatial).
        teacher: features (1, C, *spatial); gets no gradient.
        onehot: (1, K, V); count: (1, K), voxels per class.
        present: (K,) bool, the classes to compare.

    Returns:
        L_proto: (S,), in [0, 4]; 0 if no class is present.
        D: (S,), in [0, 2], without gradient; large means neglected.
    """
    onehot, count = onehot[:, present], count[:, present]
    teacher = teacher.detach()
    difference = similarity(student, prototypes(student, onehot, count)) - similarity(
        teacher, prototypes(teacher, onehot, count)
    )
    size = max(difference[0].numel(), 1)
    return difference.square().sum(dim=(1, 2)) / size, difference.detach().abs().sum(dim=(1, 2)) / size
