"""Channels last: the layout in which a CPU convolves, pads and interpolates fastest, kept from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["channels_last", "empty_channels_last", "from_rows", "to_rows"]


def channels_last(x: Tensor) -> Tensor:
    """(n, C, *spatial) with the channels last in memory; the same tensor where they are."""
    if x.shape[1] == 1:  # its strides would not say which layout it is, so that torch would take the other one
        return x.contiguous()[:, 0].unsqueeze(-1).movedim(-1, 1)
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def empty_channels_last(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Of this shape (n, C, *spatial), to be written into."""
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=layout)


def to_rows(x: Tensor) -> Tensor:
    """(n, C, *spatial) -> (n, voxels, C), contiguous: a view where the channels are last."""
    return x.flatten(2).transpose(1, 2).contiguous()


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """(n, voxels, C) -> (n, C, *spatial), the spatial shape that of ``like``: a view with the channels last."""
    return rows.unflatten(1, like.shape[2:]).movedim(-1, 1)
