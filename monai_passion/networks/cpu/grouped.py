"""3-D convolution in groups of channels, whose gradients take oneDNN many times as long as the convolution itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_passion.networks.cpu.fast import VECTOR, compute_type, neighbors
from monai_passion.networks.cpu.layout import channels_last

__all__ = ["convolve_in_groups"]


def convolve_in_groups(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """`torch.nn.functional.conv3d` at stride 1, zero-padded so that the size stays.

    Args:
        x: (n, C, *spatial).
        weight: (O, C / groups, k, k, k), k odd.
        bias: (O,).

    Returns:
        (n, O, *spatial), channels last.
    """
    dtype = compute_type(x)
    # Of maps smaller than the kernel oneDNN's kernels for bfloat16 read what is beside the map: with AMX where they are
    # one voxel deep, with AVX-512 for the gradient of the weight (see `monai_passion.networks.cpu.convolution`).
    x = x.to(torch.float32 if min(x.shape[2:]) < weight.shape[-1] else dtype)
    with torch.autocast("cpu", enabled=False):
        return _ConvolveInGroups.apply(x, weight, bias, groups).to(dtype)  # type: ignore[no-any-return, no-untyped-call]


class _ConvolveInGroups(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased, ctx.groups = bias is not None, groups
        return _convolve(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        upstream = channels_last(grads[0])
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            by_group = weight.to(x.dtype).unflatten(0, (ctx.groups, -1))
            turned = by_group.transpose(1, 2).flatten(0, 1).flip(2, 3, 4)
            of_x = _convolve(upstream, turned, None, ctx.groups)
        if ctx.needs_input_grad[1]:
            of_weight = _gradient_of_weight(x, upstream, weight, ctx.groups).to(weight.dtype)
        if ctx.biased and ctx.needs_input_grad[2]:
            of_bias = upstream.sum(dim=(0, 2, 3, 4), dtype=torch.float32)
        return of_x, of_weight, of_bias, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    padding = weight.shape[-1] // 2
    return channels_last(F.conv3d(channels_last(x), channels_last(weight), bias, padding=padding, groups=groups))


def _gradient_of_weight(x: Tensor, upstream: Tensor, weight: Tensor, groups: int) -> Tensor:
    """As if several groups were one, whose weight then has the groups' own along its diagonal."""
    outputs, inputs = len(weight) // groups, weight.shape[1]
    merged = neighbors(max(outputs, inputs), groups, VECTOR)
    wide = channels_last(upstream.new_zeros(len(weight), merged * inputs, *weight.shape[2:]))
    _, gradient, _ = torch.ops.aten.convolution_backward(
        upstream, channels_last(x), wide, None, [1] * 3, [weight.shape[-1] // 2] * 3, [1] * 3, False, [0] * 3,
        groups // merged, (False, True, False),
    )  # fmt: skip
    blocks = gradient.unflatten(1, (merged, inputs)).unflatten(0, (-1, merged, outputs))
    return blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).reshape(weight.shape)
