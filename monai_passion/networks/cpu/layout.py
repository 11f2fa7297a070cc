"""Channels last: the layout in which a CPU convolves, pads and interpolates fastest, kept from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["channels_last", "empty_channels_last", "from_rows", "split_rows", "to_rows"]


def channels_last(x: Tensor) -> Tensor:
    """(n, C, *spatial) with the channels last in memory; the same tensor if they are already."""
    if x.shape[1] == 1:  # its strides would not say which layout it is, so that torch would take the other one
        return x.contiguous()[:, 0].unsqueeze(-1).movedim(-1, 1)
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def empty_channels_last(like: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty tensor of this shape (n, C, *spatial), channels last, to write into."""
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=layout)


def to_rows(x: Tensor) -> Tensor:
    """(n, C, *spatial) -> (n, voxels, C), contiguous: a view where the channels are last."""
    return x.flatten(2).transpose(1, 2).contiguous()


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """(n, voxels, C) -> (n, C, *spatial), the spatial shape that of ``like``: a view with the channels last."""
    return rows.unflatten(1, like.shape[2:]).movedim(-1, 1)


def split_rows(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """(n, ...) split into parts of these numbers of rows; the gradient has the memory layout of ``x``."""
    if torch.compiler.is_compiling() or not x.requires_grad:
        return x.split(list(sizes))
    return _SplitRows.apply(x, list(sizes))  # type: ignore[no-any-return, no-untyped-call]


class _SplitRows(torch.autograd.Function):
    """Torch's own makes zeros with the channels first for a part without gradient, and the sum has them first, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.sizes, ctx.like = sizes, torch.empty_like(x, device="meta")
        return x.split(sizes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        there = [grad for grad in grads if grad is not None]
        if not there:
            return None, None
        whole = torch.empty_like(ctx.like, device=there[0].device)
        for part, grad in zip(whole.split(ctx.sizes), grads, strict=True):
            part.zero_() if grad is None else part.copy_(grad)
        return whole, None
