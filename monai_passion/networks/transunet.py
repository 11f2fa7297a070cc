"""A U-Net whose bottleneck is a vision transformer (Chen et al.: TransUNet, 2021), for any subset of modalities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_passion.networks.blocks import (
    TransformerBlock,
    convolution,
    map_to_tokens,
    resize_tokens,
    token_grid,
    tokens_to_map,
)
from monai_passion.networks.unet import HeteroModalUNet

__all__ = ["TransUNet"]


class TransformerBottleneck(nn.Module):
    """A vision transformer over the voxels of a map, around a skip: (D, C, *grid) -> the same."""

    def __init__(
        self, grid: Sequence[int], channels: int, embedding: int, heads: int, depth: int, mlp: int, dropout: float
    ) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.embed = convolution(len(grid), channels, embedding)
        self.positions = nn.Parameter(torch.zeros(1, torch.Size(self.grid).numel(), embedding))
        self.blocks = nn.Sequential(*(TransformerBlock(embedding, heads, mlp, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(embedding)
        self.project = convolution(len(grid), embedding, channels)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[2:]
        tokens = map_to_tokens(self.embed(x)) + resize_tokens(self.positions, self.grid, grid)
        return x + self.project(tokens_to_map(self.norm(self.blocks(tokens)), grid))


class TransUNet(HeteroModalUNet):
    """`HeteroModalUNet` with a vision transformer over the fused tokens of the deepest level.

    Args:
        channels: as for `HeteroModalUNet`.
        roi_size: the image size that the positional embeddings are made for; they are interpolated for others.
        embedding, heads, depth, mlp, dropout: of the transformer.

    Raises:
        ValueError: fewer than 2 levels, or a ``roi_size`` or ``heads`` that does not fit.
    """

    def __init__(
        self,
        num_modalities: int = 4,
        num_classes: int = 4,
        spatial_dims: int = 3,
        channels: Sequence[int] = (8, 16, 32, 64, 128),
        roi_size: int | Sequence[int] = 80,
        embedding: int = 256,
        heads: int = 8,
        depth: int = 4,
        mlp: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(num_modalities, num_classes, spatial_dims, channels)
        grid = token_grid(roi_size, 2 ** (len(channels) - 1), spatial_dims)
        self.bottleneck = TransformerBottleneck(grid, 2 * channels[-1], embedding, heads, depth, mlp, dropout)
