"""A convolution of kernel size 1 as a product of matrices that fill a processor's vectors, and its gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_passion.networks.cpu.fast import compute_type, is_fast, neighbors
from monai_passion.networks.cpu.layout import from_rows, to_rows

__all__ = ["pointwise"]

WIDE = {torch.bfloat16: 64, torch.float32: 32}
"""Channels of a row that a product of matrices with many rows is quick for."""


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

    torch multiplies a matrix of a million rows and eight columns at a fifth of the speed of one with an eighth of the
    rows and 64 columns. So neighbors are one row, and the weight stands once for each along a larger one's diagonal.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.biased = bias is not None
        outputs, inputs = weight.shape
        n = _neighbors(rows, outputs)
        wide, kernel = rows.view(-1, n * inputs), _repeat(weight.to(rows.dtype).T, n)
        result = wide @ kernel if bias is None else torch.addmm(bias.to(rows.dtype).repeat(n), wide, kernel)
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
            of_rows = (upstream @ _repeat(weight.to(rows.dtype), n)).view(rows.shape)
        if ctx.needs_input_grad[1]:
            of_weight = _between(upstream, rows.view(-1, n * inputs), n).to(weight.dtype)
        if ctx.biased and ctx.needs_input_grad[2]:
            of_bias = upstream.sum(dim=0).view(n, outputs).sum(dim=0, dtype=torch.float32)
        return of_rows, of_weight, of_bias


def _neighbors(rows: Tensor, outputs: int) -> int:
    return neighbors(max(rows.shape[2], outputs), rows.shape[:2].numel(), WIDE[rows.dtype])


def _repeat(matrix: Tensor, n: int) -> Tensor:
    """(I, O) -> (n I, n O): ``n`` times along the diagonal, zeros beside."""
    inputs, outputs = matrix.shape
    wide = matrix.new_zeros(n, inputs, n, outputs)
    wide.diagonal(dim1=0, dim2=2).copy_(matrix.unsqueeze(2))
    return wide.view(n * inputs, n * outputs)


def _between(a: Tensor, b: Tensor, n: int) -> Tensor:
    """(V / n, n A), (V / n, n B) -> (A, B): the products of rows, summed over V voxels in single precision."""
    if a.dtype == torch.float32:  # quicker as they are
        return a.view(-1, a.shape[1] // n).T @ b.view(-1, b.shape[1] // n)
    return (a.T @ b).view(n, -1, n, b.shape[1] // n).diagonal(dim1=0, dim2=2).sum(dim=2, dtype=torch.float32)
