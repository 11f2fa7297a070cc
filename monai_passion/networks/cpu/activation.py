"""Instance normalization and leaky ReLU as one operation, which every convolution of the backbones has beside it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_passion.networks.cpu.layout import empty_channels_last, to_rows
from monai_passion.networks.routing import is_tracing

__all__ = ["SLOPE", "activate"]

SLOPE = 0.2
EPSILON = 1e-5
WIDE = 64
"""Channels that fill a processor's vectors: narrower maps are normalized several voxels at a time."""
SMALL = 2**17
"""Numbers in a sample below which torch's own operations are quicker, as all maps of slices are."""


def _as_image(rows: Tensor) -> Tensor:
    """(voxels, C) -> (1, C, voxels, 1) with the channels last, as torch's batch normalization takes it."""
    return rows.unflatten(0, (1, -1, 1)).movedim(-1, 1)


def _normalize(rows: Tensor, result: Tensor) -> Tensor:
    """IN of one sample (voxels, C) into ``result``; 1 / deviation (C,)."""
    voxels, channels = rows.shape
    fold = next(n for n in range(max(WIDE // channels, 1), 0, -1) if voxels % n == 0)
    wide = _as_image(rows.view(-1, fold * channels))
    means, variances = (x.view(fold, channels) for x in torch.batch_norm_update_stats(wide, None, None, 0.0))
    # Of as many parts of the sample as were folded, all of one size.
    mean = means.mean(dim=0)
    variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
    unused = rows.new_empty(0)
    torch.ops.aten.native_batch_norm.out(
        wide, None, None, mean.repeat(fold), variance.repeat(fold), False, 0.0, EPSILON,
        out=_as_image(result.view(-1, fold * channels)), save_mean=unused, save_invstd=unused,
    )  # fmt: skip
    return torch.rsqrt(variance + EPSILON)


class _Activate(torch.autograd.Function):
    """Keeps its result alone for the backward pass: with a slope that is not 0, the normalized values follow from it.

    (After Rota Bulò, Porzi, Kontschieder: In-place activated BatchNorm, CVPR 2018.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = empty_channels_last(x, x.shape)  # no view, which autograd would not let whoever comes after write into
        inverse_std = [_normalize(*sample) for sample in zip(to_rows(x), to_rows(result), strict=True)]
        F.leaky_relu_(result, SLOPE)
        ctx.save_for_backward(result, torch.stack(inverse_std))
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        result, inverse_std = ctx.saved_tensors
        gradient = empty_channels_last(result, result.shape)
        for upstream, values, scale, out in zip(
            to_rows(grads[0]), to_rows(result), inverse_std, to_rows(gradient), strict=True
        ):
            passed = torch.ops.aten.leaky_relu_backward(upstream, values, SLOPE, True)
            normal = F.leaky_relu(values, 1 / SLOPE)
            unused = torch.empty_like(scale)
            # Of mean 0 and deviation 1, so that what is left of the normalization's gradient is its factor.
            torch.ops.aten.native_batch_norm_backward.out(
                _as_image(passed), _as_image(normal), scale, None, None, torch.zeros_like(scale),
                torch.ones_like(scale), True, EPSILON, (True, True, True),
                out0=_as_image(out), out1=unused, out2=unused,
            )  # fmt: skip
        return gradient


def activate(x: Tensor) -> Tensor:
    """IN without parameters, then LReLU: (n, C, *spatial) of more than one voxel each.

    Raises:
        ValueError: one voxel.
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or x[0].numel() < SMALL
    if plain or torch.compiler.is_compiling() or is_tracing():
        return F.leaky_relu(F.instance_norm(x), SLOPE, inplace=True)
    return _Activate.apply(x)  # type: ignore[no-any-return, no-untyped-call]
