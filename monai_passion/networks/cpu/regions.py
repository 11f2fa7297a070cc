"""RFNet's sum over classes of probability times projected maps, in one pass that keeps nothing of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_passion.networks.cpu.fast import compute_type, is_fast
from monai_passion.networks.cpu.layout import from_rows, to_rows

__all__ = ["mix_regions"]

PIECE = 2**15
"""Voxels at a time, so that intermediate results stay in a processor's cache."""


def mix_regions(maps: Sequence[Tensor], probability: Tensor, kernel: Tensor) -> Tensor:
    """sum_k q_k W_k y at every voxel, with y the concatenated maps; the probabilities get no gradient.

    Args:
        maps: (n, C, *spatial) each.
        probability: q, (n, K, *spatial).
        kernel: W, (n, K, O, I), with I the channels of all maps.

    Returns:
        (n, O, *spatial).
    """
    classes, spatial = kernel.shape[1], maps[0].shape[2:]
    if is_fast(maps[0]):
        rows = [to_rows(x.to(compute_type(x))) for x in maps]
        weight = to_rows(probability.detach().to(rows[0].dtype))
        mixed = [_MixRegions.apply(*sample) for sample in zip(kernel, weight, *rows, strict=True)]  # type: ignore[no-untyped-call]
        return from_rows(torch.stack(mixed) if len(mixed) > 1 else mixed[0].unsqueeze(0), maps[0])
    stacked = _side_by_side([x.flatten(2) for x in maps])
    by_class = torch.bmm(kernel.flatten(1, 2), stacked).unflatten(1, (classes, -1))  # (n, K, O, voxels)
    weight = probability.detach().flatten(2).unsqueeze(2).to(by_class.dtype)
    return (by_class * weight).sum(dim=1).unflatten(2, spatial)


class _MixRegions(torch.autograd.Function):
    """Of rows (V, C) of each map and (V, K) of the probabilities: ((y W) * (q E)) S.

    E (K, K O) repeats a number per class for each output, S (K O, O) sums over the classes. They hold 0 and 1 alone:
    products of matrices fill a processor's vectors, which sums of K times O numbers do not.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, probability: Tensor, *maps: Tensor) -> Tensor:
        ctx.save_for_backward(kernel, probability, *maps)
        wide, repeat, total = _matrices(kernel, maps[0].dtype)
        result = maps[0].new_empty(len(maps[0]), total.shape[1])
        for piece, y in _pieces(maps):
            torch.mm((y @ wide).mul_(probability[piece] @ repeat), total, out=result[piece])
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kernel, probability, *maps = ctx.saved_tensors
        wide, repeat, total = _matrices(kernel, maps[0].dtype)
        of_wide = torch.zeros(wide.shape)  # single precision, whatever the kernel has
        of_maps = [torch.empty_like(rows) for rows in maps]
        for piece, y in _pieces(maps):
            upstream = (grads[0][piece] @ total.T).mul_(probability[piece] @ repeat)
            of_wide += y.T @ upstream
            of_y = (upstream @ wide.T).split([rows.shape[1] for rows in maps], dim=1)
            for rows, part in zip(of_maps, of_y, strict=True):
                rows[piece] = part
        return of_wide.T.reshape(kernel.shape).to(kernel.dtype), None, *of_maps


def _matrices(kernel: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """W (I, K O), E and S for a kernel (K, O, I)."""
    classes, outputs, _ = kernel.shape
    one_per_class, one_per_output = torch.eye(classes, dtype=dtype), torch.eye(outputs, dtype=dtype)
    return (
        kernel.flatten(0, 1).T.to(dtype),
        one_per_class.repeat_interleave(outputs, dim=1),
        one_per_output.repeat(classes, 1),
    )


def _side_by_side(maps: Sequence[Tensor]) -> Tensor:
    """Along the channels; a lone one as it is, not copied."""
    return torch.cat(list(maps), dim=1) if len(maps) > 1 else maps[0]


def _pieces(maps: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Voxels, and the maps side by side there."""
    for start in range(0, len(maps[0]), PIECE):
        piece = slice(start, start + PIECE)
        yield piece, _side_by_side([rows[piece] for rows in maps])
