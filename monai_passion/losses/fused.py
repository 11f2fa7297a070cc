"""`pixel_distillation` and `prototype_distillation` of `monai_passion.losses.distillation`, fast and in little memory.

Numbers and gradients are the same. Each term is one number per student, so its gradient is computed with it: one tensor
of the size of the students is kept until the backward pass, and no intermediate one. Voxels are processed in pieces
that fit a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from monai_passion.losses.distillation import EPSILON, prototypes

__all__ = ["pixel_distillation", "prototype_distillation"]

PIECE = 2**15
"""Voxels per piece on a CPU."""


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
    """See `monai_passion.losses.distillation.pixel_distillation` (Eq. 3)."""
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


def prototype_distillation(
    student: Tensor, teacher: Tensor, onehot: Tensor, count: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """See `monai_passion.losses.distillation.prototype_distillation` (Eq. 5-8)."""
    s, t = student.detach().flatten(2), teacher.detach().flatten(2)
    onehot, count = onehot[:, present], count[:, present]
    size = max(onehot.shape[1] * s.shape[2], 1)
    center_s, center_t = prototypes(s, onehot, count), prototypes(t, onehot, count)
    norm = torch.linalg.vector_norm(center_s, dim=2, keepdim=True)
    towards_s = center_s / norm.clamp_min(EPSILON)
    towards_t = center_t / torch.linalg.vector_norm(center_t, dim=2, keepdim=True).clamp_min(EPSILON)
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
