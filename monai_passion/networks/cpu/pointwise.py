"""A convolution of kernel size 1 over rows that fill a processor's vectors, and its gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_passion.networks.cpu.fast import ONEDNN_FROM, VECTOR, compute_type, has_tiles, is_fast, neighbors
from monai_passion.networks.cpu.layout import from_rows, to_rows

__all__ = ["pointwise"]

TILES = 64
"""Channels of a row for which a matrix product in AMX's tiles is fast."""


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of kernel size 1: (n, C, *spatial), (O, C, 1, ...), (O,) -> (n, O, *spatial)."""
    if is_fast(x):
        dtype = compute_type(x)
        with torch.autocast("cpu", enabled=False):
            rows = to_rows(x.to(dtype))
            return from_rows(_Pointwise.apply(rows, weight.flatten(1), bias), x)  # type: ignore[no-untyped-call]
    matrix, flat = weight.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2)
    product = torch.bmm(matrix, flat) if bias is None else torch.baddbmm(bias.unsqueeze(1), matrix, flat)
    return product.unflatten(2, x.shape[2:])


class _Pointwise(torch.autograd.Function):
    """Rows (n, V, I), weight (O, I) and bias (O,) -> (n, V, O).

    A row of eight channels leaves most of a vector or a tile empty. So neighbors are one row, and the weight stands
    once for each along a larger one's diagonal.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.biased = bias is not None
        outputs, inputs = weight.shape
        n = _neighbors(rows, outputs)
        wide, kernel = rows.view(-1, n * inputs), _repeat(weight.to(rows.dtype), n)
        result = _multiply(wide, kernel, None if bias is None else bias.to(rows.dtype).repeat(n))
        return result.view(*rows.shape[:2], outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        outputs, inputs = weight.shape
        n = _neighbors(rows, outputs)
        upstream = grads[0].reshape(-1, n * outputs)
        of_rows = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_rows = _multiply(upstream, _repeat(weight.to(rows.dtype).T, n)).view(rows.shape)
        if ctx.needs_input_grad[1]:
            of_weight = _between(upstream, rows.view(-1, n * inputs), n).to(weight.dtype)
        if ctx.biased and ctx.needs_input_grad[2]:
            of_bias = upstream.sum(dim=0).view(n, outputs).sum(dim=0, dtype=torch.float32)
        return of_rows, of_weight, of_bias


def _neighbors(rows: Tensor, outputs: int) -> int:
    wide = VECTOR if _convolves(rows) else TILES
    return neighbors(max(rows.shape[2], outputs), rows.shape[:2].numel(), wide)


def _convolves(rows: Tensor) -> bool:
    """Whether these are rows for oneDNN's convolutions, twice and more as quick as products without AMX."""
    return rows.numel() > ONEDNN_FROM and not has_tiles(rows.dtype)


def _multiply(rows: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """(V, I), (O, I), (O,) -> (V, O)."""
    if not _convolves(rows):
        return F.linear(rows, kernel, bias)
    product = F.conv2d(_as_image(rows), kernel[..., None, None], bias)
    return product.movedim(1, -1).contiguous().view(len(rows), len(kernel))


def _between(upstream: Tensor, rows: Tensor, n: int) -> Tensor:
    """The gradient (O, I) of the weight, from (V / n, n O) and (V / n, n I)."""
    if _convolves(rows):
        kernel = rows.new_empty(upstream.shape[1], rows.shape[1], 1, 1)
        _, product, _ = torch.ops.aten.convolution_backward(
            _as_image(upstream), _as_image(rows), kernel, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
            (False, True, False),
        )  # fmt: skip
    else:
        product = upstream.T @ rows
    blocks = product.reshape(n, -1, n, rows.shape[1] // n)
    return blocks.diagonal(dim1=0, dim2=2).sum(dim=2, dtype=torch.float32)


def _repeat(matrix: Tensor, n: int) -> Tensor:
    """(O, I) -> (n O, n I): ``n`` times along the diagonal, zeros beside."""
    outputs, inputs = matrix.shape
    wide = matrix.new_zeros(n, outputs, n, inputs)
    wide.diagonal(dim1=0, dim2=2).copy_(matrix.unsqueeze(2))
    return wide.view(n * outputs, n * inputs)


def _as_image(rows: Tensor) -> Tensor:
    """(V, C) -> (1, C, 1, V), the channels last."""
    return rows[None, None].movedim(-1, 1)
