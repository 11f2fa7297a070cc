"""Multi-uni self-distillation: pixel-wise (Eq. 3) and semantic-wise by class prototypes (Eq. 4-8).

Everywhere the teacher is the decode of all modalities of ONE sample, (1, ...), and the students are the decodes of
each of its modalities alone, (S, ...). The teacher never receives a gradient.

The terms of the paper are one number a student, so their gradients are worked out along with them: that keeps one
tensor of the size of the students until the backward pass, and no intermediate one. The voxels are gone through in
pieces that fit a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_passion.losses.segmentation import PROBABILITY_FLOOR, enlarge

__all__ = ["pixel_distillation", "pixel_distillation_released", "prototype_distillation", "prototypes"]

EPSILON = 1e-5
"""Floor of norms and voxel counts, as in the published code."""
PIECE = 2**15
"""Voxels at a time on a CPU."""


class _Known(torch.autograd.Function):
    """``value`` (S,) as a function of ``students`` (S, ...), whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, students: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].reshape(-1, *[1] * (gradient.ndim - 1)), None, None


def _wants_gradient(students: Tensor) -> bool:
    return students.requires_grad and torch.is_grad_enabled()


def _pieces(students: Tensor) -> Iterator[slice]:
    """Slices of the voxels of (S, channels, V)."""
    step = PIECE if students.device.type == "cpu" else max(students.shape[2], 1)
    return (slice(start, start + step) for start in range(0, students.shape[2], step))


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
    s, t = student.detach().flatten(2), teacher.detach().flatten(2)
    value = s.new_zeros(len(s))
    gradient = torch.empty_like(s) if _wants_gradient(student) else None
    for piece in _pieces(s):
        log_s = (s[:, :, piece] / temperature).log_softmax(dim=1)
        ratio = log_s - (t[:, :, piece] / temperature).log_softmax(dim=1)
        p = log_s.exp_()
        divergence = (p * ratio).sum(dim=1, keepdim=True)
        value += divergence.sum(dim=(1, 2))
        if gradient is not None:
            torch.mul(p, ratio.sub_(divergence), out=gradient[:, :, piece])
    value /= s.shape[2]
    if gradient is None:
        return value
    return _Known.apply(student, value, gradient.div_(temperature * s.shape[2]).reshape(student.shape))


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
    s, t = student.detach().flatten(2), teacher.detach().flatten(2)
    onehot, count = onehot[:, present], count[:, present]
    size = max(onehot.shape[1] * s.shape[2], 1)
    centre_s, centre_t = prototypes(s, onehot, count), prototypes(t, onehot, count)
    norm = torch.linalg.vector_norm(centre_s, dim=2, keepdim=True)
    towards_s = centre_s / norm.clamp_min(EPSILON)
    towards_t = centre_t / torch.linalg.vector_norm(centre_t, dim=2, keepdim=True).clamp_min(EPSILON)
    loss, gap = s.new_zeros(len(s)), s.new_zeros(len(s))
    gradient = torch.empty_like(s) if _wants_gradient(student) else None
    pull = torch.zeros_like(towards_s)
    for piece in _pieces(s):
        f, f_t = s[:, :, piece], t[:, :, piece]
        length = f.square().sum(dim=1, keepdim=True).sqrt()
        inverse = 1 / length.clamp_min(EPSILON)
        similar = (towards_s @ f) * inverse
        # In the same steps for both: a student that is its own teacher must have a gap of exactly 0.
        inverse_t = 1 / f_t.square().sum(dim=1, keepdim=True).sqrt().clamp_min(EPSILON)
        difference = similar - (towards_t @ f_t) * inverse_t
        loss += difference.square().sum(dim=(1, 2))
        gap += difference.abs().sum(dim=(1, 2))
        if gradient is not None:
            # Of the cosine's two factors: the direction of the voxel's feature, whose length does not matter ...
            radial = (difference * similar).sum(dim=1, keepdim=True) * inverse.square() * (length > EPSILON)
            difference *= inverse
            gradient[:, :, piece] = towards_s.transpose(1, 2) @ difference - radial * f
            pull += difference @ f.transpose(1, 2)
    loss, gap = loss / size, gap / size
    if gradient is None:
        return loss, gap
    # ... and that of the prototype, a mean of features.
    radial = (pull * towards_s).sum(dim=2, keepdim=True) * (norm > EPSILON)
    pull = (pull - radial * towards_s) / norm.clamp_min(EPSILON) / (count.unsqueeze(2) + EPSILON)
    gradient.baddbmm_(pull.transpose(1, 2), onehot.expand(len(s), -1, -1)).mul_(2 / size)
    return _Known.apply(student, loss, gradient.reshape(student.shape)), gap
