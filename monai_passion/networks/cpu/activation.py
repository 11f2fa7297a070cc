"""Instance normalisation and leaky ReLU as one operation, which every convolution of the backbones has beside it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_passion.networks.routing import is_tracing

__all__ = ["SLOPE", "activate"]

SLOPE = 0.2
EPSILON = 1e-5
PIECE = 2**20
"""Voxels at a time in the backward pass: they and what is worked out of them stay in a processor's cache."""


class _Activate(torch.autograd.Function):
    """Keeps its result alone for the backward pass: with a slope that is not 0, the normalised values follow from it.

    (After Rota Bulò, Porzi, Kontschieder: In-place activated BatchNorm, CVPR 2018.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = x.contiguous().view(1, -1, *x.shape[2:])
        normal, _, inverse_std = torch.native_batch_norm(rows, None, None, None, None, True, 0.0, EPSILON)
        # Not `view`: of a view made in here, autograd forbids whoever comes after to write into it.
        result: Tensor = torch.ops.aten._unsafe_view(F.leaky_relu(normal, SLOPE, inplace=True), x.shape)
        ctx.save_for_backward(result, inverse_std)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        result, inverse_std = ctx.saved_tensors
        rows = result.view(1, -1, *result.shape[2:])
        upstream, gradient = grads[0].contiguous().view_as(rows), torch.empty_like(rows)
        step = max(torch.get_num_threads(), PIECE // rows[0, 0].numel())
        for start in range(0, rows.shape[1], step):
            piece = slice(start, start + step)
            passed = torch.ops.aten.leaky_relu_backward(upstream[:, piece], rows[:, piece], SLOPE, True)
            normal, scale = F.leaky_relu(rows[:, piece], 1 / SLOPE), inverse_std[piece]
            # Of mean 0 and deviation 1, so that what is left of the normalisation's gradient is its factor.
            gradient[:, piece] = torch.ops.aten.native_batch_norm_backward(
                passed, normal, scale, None, None, torch.zeros_like(scale), torch.ones_like(scale), True, EPSILON,
                (True, False, False),
            )[0]  # fmt: skip
        return gradient.view(result.shape)


def activate(x: Tensor) -> Tensor:
    """IN without parameters, then LReLU: (n, C, *spatial) of more than one voxel each.

    Raises:
        ValueError: one voxel.
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or x[0, 0].numel() == 1
    if plain or torch.compiler.is_compiling() or is_tracing() or not (torch.is_grad_enabled() and x.requires_grad):
        return F.leaky_relu(F.instance_norm(x), SLOPE, inplace=True)
    return _Activate.apply(x)  # type: ignore[no-any-return, no-untyped-call]
