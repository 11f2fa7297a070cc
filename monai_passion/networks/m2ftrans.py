"""M2FTrans: masked fusion transformer (Shi et al.: M2FTrans, JBHI 2024), as PASSION uses it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_passion.networks.backbone import Decoded, MultiModalBackbone
from monai_passion.networks.blocks import (
    ConvBlock,
    ConvEncoder,
    FusionConv,
    TransformerBlock,
    convolution,
    initialize,
    map_to_tokens,
    resize_tokens,
    token_grid,
    tokens_to_map,
    upsample,
)
from monai_passion.networks.cpu.activation import activate
from monai_passion.networks.routing import Features, Routing

__all__ = ["M2FTrans"]

DEEP_CHANNELS = 16
CROSS_LEVELS = 2
"""The deepest levels, which fuse by channel attention; the finer ones by convolution."""
CROSS_LAYERS = 2


class EncodedModality(NamedTuple):
    pyramid: tuple[Tensor, ...]
    bottleneck: Tensor
    """The deepest level after the transformer, (n, C, *grid)."""
    keys: tuple[Tensor, ...]
    """Per transformer block, what the fusion tokens can attend to: (n, heads, P, C / heads)."""
    values: tuple[Tensor, ...]
    skips: tuple[Tensor, ...]
    """Per level above the cross-token ones, the modality's share of the first convolution of the fusion."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (n, C, *spatial)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Projection(nn.Module):
    """1x1, depth-wise 3x3 and 1x1 convolution, a layer norm after each, GELU between."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.conv1 = convolution(spatial_dims, channels, channels)
        self.norm1 = ChannelNorm(channels)
        self.conv2 = convolution(spatial_dims, channels, channels, 3, groups=channels)
        self.norm2 = ChannelNorm(channels)
        self.conv3 = convolution(spatial_dims, channels, channels)
        self.norm3 = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.conv1(x)))
        x = F.gelu(self.norm2(self.conv2(x)))
        return self.norm3(self.conv3(x))


class GroupedPerceptron(nn.Module):
    """x -> GELU(x + perceptron(x)), the perceptron four times as wide, with a grouped 3x3 convolution inside."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.conv1 = convolution(spatial_dims, channels, wide)
        self.norm1 = ChannelNorm(wide)
        self.conv2 = convolution(spatial_dims, wide, wide, 3, groups=channels)
        self.norm2 = ChannelNorm(wide)
        self.conv3 = convolution(spatial_dims, wide, channels)
        self.norm3 = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.norm1(self.conv1(x)))
        y = F.gelu(self.norm2(self.conv2(y)))
        return F.gelu(x + self.norm3(self.conv3(y)))


class CrossTokenLayer(nn.Module):
    """Attention between channels, compared as whole maps: those of the query attend to those of the modalities."""

    def __init__(self, spatial_dims: int, num_modalities: int, channels: int, dropout: float, last: bool) -> None:
        super().__init__()
        project = partial(Projection, spatial_dims, channels)
        self.query = project()
        self.keys = nn.ModuleList(project() for _ in range(num_modalities))
        self.values = nn.ModuleList(project() for _ in range(num_modalities))
        self.out = project()
        self.dropout = nn.Dropout(dropout)
        self.query_update = GroupedPerceptron(spatial_dims, channels)
        self.modality_update = None if last else GroupedPerceptron(spatial_dims, channels)

    def forward(
        self, routing: Routing, query: Tensor, maps: Sequence[Tensor | None]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Update the query (D, C, *spatial) and the maps, a row for each of the modality's decodes."""
        keys, values = (
            torch.cat(
                [
                    self._spread(routing, m, None if x is None else project(x).flatten(2), query)
                    for m, (project, x) in enumerate(zip(projections, maps, strict=True))
                ],
                dim=1,
            )
            for projections in (self.keys, self.values)
        )
        mask = routing.mask(query).repeat_interleave(query.shape[1], dim=1)[:, None, None]  # (D, 1, 1, MC)
        # One head, as an axis: ONNX's attention has that axis.
        asked, keys, values = (x.unsqueeze(1) for x in (self.query(query).flatten(2), keys, values))
        attended = F.scaled_dot_product_attention(asked, keys, values, mask)
        query = self.query_update(query + self.dropout(self.out(attended.reshape(query.shape))))
        if self.modality_update is not None:
            maps = [None if x is None else self.modality_update(x) for x in maps]
        return query, maps

    @staticmethod
    def _spread(routing: Routing, modality: int, rows: Tensor | None, query: Tensor) -> Tensor:
        """Rows of the modality's decodes -> (D, C, L), zero in the other decodes."""
        if rows is None:
            return query.new_zeros(query.flatten(2).shape)
        decodes = routing.decodes(modality)
        if len(decodes) == len(routing):
            return rows
        index = torch.tensor(decodes, device=rows.device)
        return rows.new_zeros(len(routing), *rows.shape[1:]).index_copy(0, index, rows)


class M2FTrans(MultiModalBackbone):
    """M2FTrans: convolutional encoders, learned fusion tokens that attend to the modalities there are, a U-Net decoder.

    A modality's own tokens attend only to each other, so they are computed once, in `encode`; with dropout, all decodes
    of one encode share the dropped values. Spatial sizes must be multiples of ``2 ** (levels - 1)``, at least twice
    that.

    Args:
        width: channels of the finest level; 8 in PASSION.
        levels: 3 or more resolutions, each with twice the channels of the one above; tokens have as many as the last.
        roi_size: the image size that positional embeddings and fusion tokens are made for; interpolated for others.
        heads, depth, mlp: of the transformer.
        dropout: of the transformer and of the channel attention.

    Deep supervision: one output per level, before the fusion of that level, at x1, x1/2, x1/4, ... (finest first).

    Raises:
        ValueError: a width or depth below 1, fewer than 3 levels, or a ``roi_size`` or ``heads`` that does not fit.
    """

    def __init__(
        self,
        num_modalities: int = 4,
        num_classes: int = 4,
        spatial_dims: int = 3,
        width: int = 8,
        levels: int = 5,
        roi_size: int | Sequence[int] = 80,
        heads: int = 8,
        depth: int = 3,
        mlp: int = 4096,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(num_modalities, num_classes, spatial_dims)
        if width < 1 or levels <= CROSS_LEVELS or depth < 1:
            raise ValueError(
                f"width is {width}, levels {levels}, depth {depth}; give a positive width and depth, "
                f"and more than {CROSS_LEVELS} levels"
            )
        channels = self.encoder_channels = tuple(width * 2**i for i in range(levels))
        deepest = channels[-1]
        self.stride = 2 ** (levels - 1)
        self.grid = token_grid(roi_size, 2 ** (levels - 1), spatial_dims)
        block = partial(ConvBlock, spatial_dims, order="post")
        self.encoders = nn.ModuleList(ConvEncoder(spatial_dims, channels, "post") for _ in range(num_modalities))
        num_tokens = torch.Size(self.grid).numel()
        # Rows of the modalities, then of the fusion tokens, as published.
        self.positions = nn.Parameter(torch.zeros((num_modalities + 1) * num_tokens, deepest))
        self.fusion_tokens = nn.Parameter(torch.randn(num_tokens, deepest))
        self.transformer = nn.ModuleList(TransformerBlock(deepest, heads, mlp, dropout) for _ in range(depth))
        self.cross = nn.ModuleList(
            nn.ModuleList(
                CrossTokenLayer(spatial_dims, num_modalities, c, dropout, last=i == CROSS_LAYERS - 1)
                for i in range(CROSS_LAYERS)
            )
            for c in channels[-CROSS_LEVELS:]
        )
        self.fuse = nn.ModuleList(FusionConv(spatial_dims, num_modalities, c, c) for c in channels[:-CROSS_LEVELS])
        self.fused = nn.ModuleList(nn.Sequential(block(c, c, 3), block(c, c, 1)) for c in channels[:-CROSS_LEVELS])
        self.up = nn.ModuleList(block(deep, wide, 3) for wide, deep in pairwise(channels))
        self.merge = nn.ModuleList(nn.Sequential(block(2 * c, c, 3), block(c, c, 1)) for c in channels)
        self.deep_heads = nn.ModuleList(
            nn.Sequential(block(c, DEEP_CHANNELS, 1), convolution(spatial_dims, DEEP_CHANNELS, num_classes))
            for c in channels
        )
        self.head = convolution(spatial_dims, width, num_classes)
        initialize(self)

    def encode_modality(self, modality: int, image: Tensor) -> EncodedModality:
        pyramid = self.encoders[modality](image)
        grid = pyramid[-1].shape[2:]
        tokens = map_to_tokens(pyramid[-1]) + self._positions(modality, grid)
        keys, values = [], []
        for block in self.transformer:
            q, k, v = block.project(tokens)
            tokens = block.update(tokens, block.attend(q, k, v))
            keys.append(k)
            values.append(v)
        skips = tuple(fuse.project(modality, x) for fuse, x in zip(self.fuse, pyramid, strict=False))
        return EncodedModality(pyramid, tokens_to_map(tokens, grid), tuple(keys), tuple(values), skips)

    def decode(self, features: Features, mask: Tensor, samples: Tensor | Sequence[int] | None = None) -> Decoded:
        routing = features.route(mask, samples)
        grid = next(maps.bottleneck.shape[2:] for maps in features.maps if maps is not None)
        fused, weights = self._fuse_tokens(routing, features, grid)
        deep: list[Tensor] = []
        x: Tensor | None = None
        for level in reversed(range(len(self.merge))):
            up = fused if x is None else self.up[level](upsample(x))
            deep.append(self.deep_heads[level](up))
            if level < len(self.fuse):
                skips = [maps and maps.skips[level] for maps in features.maps]
                skip = self.fused[level](activate(self.fuse[level](routing, skips, weights)))
            else:
                maps = [maps and (maps.bottleneck if x is None else maps.pyramid[level]) for maps in features.maps]
                skip = self._fuse_channels(level - len(self.fuse), routing, up, maps, weights)
            x = self.merge[level](torch.cat([skip, up], dim=1))
        assert x is not None
        return Decoded((self.head(x), *reversed(deep)), x)

    def _positions(self, index: int, grid: Sequence[int]) -> Tensor:
        """(1, P, C) of one modality, or of the fusion tokens."""
        positions = self.positions.unflatten(0, (self.num_modalities + 1, -1))[index : index + 1]
        return resize_tokens(positions, self.grid, grid)

    def _fuse_tokens(self, routing: Routing, features: Features, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The fusion tokens as a map (D, C, *grid), and how much they looked at each place of each modality in the
        first block: (D, M, *grid), summed over heads and fusion tokens, zero for absent modalities, detached."""
        tokens = resize_tokens(self.fusion_tokens.unsqueeze(0), self.grid, grid)
        taken = routing.mask(tokens)
        tokens = (tokens + self._positions(self.num_modalities, grid)).expand(taken.shape[0], -1, -1)
        length = tokens.shape[1]
        available = taken.repeat_interleave(length, dim=1)
        mask = F.pad(available, (0, length), value=True)[:, None, None]  # (D, 1, 1, (M + 1) P)
        weights: Tensor | None = None
        for i, block in enumerate(self.transformer):
            q, k, v = block.project(tokens)
            k, v = (
                torch.cat([routing.stack(maps).transpose(1, 2).flatten(2, 3), own], dim=2)
                for maps, own in (
                    ([maps and maps.keys[i] for maps in features.maps], k),
                    ([maps and maps.values[i] for maps in features.maps], v),
                )
            )
            if weights is None:
                scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
                attention = block.drop(scores.masked_fill(~mask, float("-inf")).softmax(dim=-1))
                weights = attention.detach().sum(dim=(1, 2))[:, :-length].unflatten(1, (self.num_modalities, *grid))
                attended = attention @ v
            else:
                attended = block.attend(q, k, v, mask)
            tokens = block.update(tokens, attended)
        assert weights is not None
        return tokens_to_map(tokens, grid), weights

    def _fuse_channels(
        self, index: int, routing: Routing, query: Tensor, maps: Sequence[Tensor | None], weights: Tensor
    ) -> Tensor:
        weights = F.interpolate(weights, query.shape[2:])
        rows: Sequence[Tensor | None] = [
            routing.gather(maps, m) * torch.cat([weights[routing.span(d), m : m + 1] for d in decodes])
            if (decodes := routing.decodes(m))
            else None
            for m in range(self.num_modalities)
        ]
        for layer in self.cross[index]:
            query, rows = layer(routing, query, rows)
        return query
