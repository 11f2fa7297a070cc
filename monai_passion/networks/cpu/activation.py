"""Instance normalization and leaky ReLU as one operation, which every convolution of the backbones has beside it."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_passion.networks.cpu.fast import neighbors
from monai_passion.networks.cpu.layout import empty_channels_last, to_rows
from monai_passion.networks.routing import is_tracing

__all__ = ["SLOPE", "activate"]

SLOPE = 0.2
EPSILON = 1e-5
FLAT = 1e-12
"""Variance up to which a map counts as constant up to rounding: dividing by the square root of `EPSILON` would enlarge
the rounding, and its gradient, 300 times in every layer. Such a map becomes 0 and has no gradient."""
WIDE = 64
"""Channels that fill a processor's vectors; in narrower maps, several voxels are normalized at a time."""
SMALL = 2**17
"""Number of values below which torch's own operations are faster: of all samples with Numba, else of one sample."""


@cache
def _compiled() -> ModuleType | None:
    """What Numba makes of it, about three times as fast, where that is installed."""
    try:
        from monai_passion.networks.cpu import compiled
    except ImportError:
        return None
    return compiled


def _as_image(rows: Tensor) -> Tensor:
    """(voxels, C) -> (1, C, voxels, 1) with the channels last, as torch's batch normalization takes it."""
    return rows.unflatten(0, (1, -1, 1)).movedim(-1, 1)


def _widen(rows: Tensor) -> Tensor:
    """(..., voxels, C) -> (..., voxels / n, n C): n voxels as one, so that they fill a processor's vectors; a view."""
    voxels, channels = rows.shape[-2:]
    return rows.unflatten(-2, (-1, neighbors(channels, voxels, WIDE))).flatten(-2)


def _wide_rows(x: Tensor) -> Tensor:
    return _widen(to_rows(x))


def _scale(rows: Tensor, factor: Tensor, shift: Tensor, result: Tensor) -> None:
    """``factor`` (C,) times the rows (voxels, C) plus ``shift`` (C,), in one pass, into ``result``."""
    wide = _widen(rows)
    times = wide.shape[1] // rows.shape[1]
    zero, one, unused = factor.new_zeros(wide.shape[1]), factor.new_ones(wide.shape[1]), factor.new_empty(0)
    torch.ops.aten.native_batch_norm.out(
        _as_image(wide), factor.repeat(times), shift.repeat(times), zero, one, False, 0.0, 0.0,
        out=_as_image(_widen(result)), save_mean=unused, save_invstd=unused,
    )  # fmt: skip


def _normalize(rows: Tensor, result: Tensor) -> Tensor:
    """IN of one sample (voxels, C) into ``result``; 1 / deviation (C,)."""
    wide = _widen(rows)
    # With statistics to keep, which nobody reads, it returns single precision whatever the rows have.
    kept = torch.zeros(wide.shape[1]), torch.ones(wide.shape[1])
    means, variances = (x.view(-1, rows.shape[1]) for x in torch.batch_norm_update_stats(_as_image(wide), *kept, 0.0))
    # Of as many parts of the sample as are one row of the wide ones, all of one size.
    mean = means.mean(dim=0)
    variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
    inverse_std = torch.rsqrt(variance + EPSILON) * (variance > FLAT)
    _scale(rows, inverse_std, -mean * inverse_std, result)
    return inverse_std


def _differentiate(upstream: Tensor, normal: Tensor, inverse_std: Tensor, result: Tensor) -> None:
    """The gradient of `_normalize`'s rows from that of what it gave, ``normal`` (voxels, C), into ``result``."""
    wide_upstream, wide = _widen(upstream), _widen(normal)
    zero, one = inverse_std.new_zeros(wide.shape[1]), inverse_std.new_ones(wide.shape[1])
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        _as_image(wide_upstream), _as_image(wide), None, None, None, zero, one, True, EPSILON, (False, True, True)
    )
    along, mean = (x.view(-1, normal.shape[1]).sum(dim=0) / len(normal) for x in (products, sums))
    _scale(normal, -along * inverse_std, -mean * inverse_std, result)
    times = wide.shape[1] // normal.shape[1]
    _widen(result).addcmul_(wide_upstream, inverse_std.repeat(times).to(result.dtype))


class _Activate(torch.autograd.Function):
    """Keeps its result alone for the backward pass: with a slope that is not 0, the normalized values follow from it.

    (After Rota Bulò, Porzi, Kontschieder: In-place activated BatchNorm, CVPR 2018.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = empty_channels_last(x, x.shape)  # no view, which autograd would not let whoever comes after write into
        ctx.kernels = _compiled() if ctx.needs_input_grad[0] else None  # a short inference should not wait for Numba
        if ctx.kernels:
            inverse_std = ctx.kernels.normalize(*map(_wide_rows, (x, result)), x.shape[1], SLOPE, EPSILON, FLAT)
        else:
            samples = zip(to_rows(x), to_rows(result), strict=True)
            inverse_std = torch.stack([_normalize(*sample) for sample in samples])
            F.leaky_relu_(result, SLOPE)
        ctx.save_for_backward(result, inverse_std)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        result, inverse_std = ctx.saved_tensors
        gradient = empty_channels_last(result, result.shape)
        if ctx.kernels:
            upstream, values, out = map(_wide_rows, (grads[0], result, gradient))
            ctx.kernels.differentiate(upstream, values, inverse_std, out, SLOPE)
            return gradient
        for upstream, values, scale, out in zip(
            to_rows(grads[0]), to_rows(result), inverse_std, to_rows(gradient), strict=True
        ):
            passed = torch.ops.aten.leaky_relu_backward(upstream, values, SLOPE, True)
            normal = F.leaky_relu(values, 1 / SLOPE)
            _differentiate(passed, normal, scale, out)
        return gradient


def _is_for_torch(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return True
    if torch.compiler.is_compiling() or is_tracing():
        return True
    learning = torch.is_grad_enabled() and x.requires_grad
    return (x if learning and _compiled() else x[0]).numel() < SMALL


def _varies(x: Tensor) -> Tensor:
    """(n, C, 1, ...) bool: which maps are not `FLAT`."""
    variance = torch.var(x.detach().float(), dim=tuple(range(2, x.ndim)), correction=0, keepdim=True)
    return variance > FLAT


def activate(x: Tensor) -> Tensor:
    """IN without parameters, then LReLU: (n, C, *spatial) of more than one voxel each.

    Mean and deviation are always computed in single precision. A constant map, for example of a crop outside what a
    sequence shows, becomes 0 and has no gradient (see `FLAT`).

    Raises:
        ValueError: one voxel.
    """
    if not _is_for_torch(x):
        return _Activate.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    # Of maps in bfloat16 torch would round the statistics as well, on a CPU.
    rounds = x.device.type == "cpu" and x.dtype == torch.bfloat16
    single = x.float() if rounds else x
    normal = F.instance_norm(single).to(x.dtype)
    if not is_tracing():
        normal = normal * _varies(single)
    return F.leaky_relu(normal, SLOPE, inplace=True)
