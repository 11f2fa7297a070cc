"""mmFormer: intra- and inter-modal transformers (Zhang et al.: mmFormer, MICCAI 2022), as PASSION uses it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
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

__all__ = ["MMFormer"]

T1, T2 = 2, 3
"""Channels of T1 and T2 in BraTS; see ``released_t2_bottleneck``."""


class EncodedModality(NamedTuple):
    pyramid: tuple[Tensor, ...]
    skips: tuple[Tensor, ...]
    """Per level but the deepest, the modality's share of the first convolution of the fusion."""
    tokens: Tensor
    """(n, P, embedding) after the modality's own transformer."""


class Transformer(nn.Module):
    """Blocks that each add the positions first."""

    def __init__(self, channels: int, heads: int, depth: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, mlp, dropout) for _ in range(depth))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens + positions)
        return tokens


class MMFormer(MultiModalBackbone):
    """mmFormer: a convolutional encoder and a transformer per modality, one transformer over all, a U-Net decoder.

    Spatial sizes must be multiples of ``2 ** (levels - 1)``, at least twice that.

    Args:
        width: channels of the finest level; 8 in PASSION, 16 in the mmFormer paper.
        levels: resolutions, each with twice the channels of the one above.
        roi_size: the image size that the positional embeddings are made for; they are interpolated for others.
        embedding: channels of a token.
        heads, depth, mlp, dropout: of every transformer.
        released_t2_bottleneck: repeat an error of the released code (BraTS modalities only), to reproduce its numbers:
            in training, when T2 is decoded alone for distillation, the bottleneck gets the tokens of T1 if the sample
            has T1, and none otherwise. Such a decode is recognized by its mask: T2 alone, for a sample that has more
            modalities, or that was decoded before in the same call (by its teacher, if T2 is all it has).
        released_masked_tokens: repeat another error: in training, a modality that is decoded alone although its
            sample's first decode in the same call (its teacher) leaves it out, as in PDT, has no tokens in the
            bottleneck.

    Deep supervision: decoder maps at x1/2, x1/4, ... (finest first).

    Raises:
        ValueError: a width below 1, fewer than 2 levels, a ``roi_size`` or ``heads`` that does not fit, or
            ``released_t2_bottleneck`` without the 4 modalities of BraTS.
    """

    block_order = "pre"
    per_modality = ("encoders", "embed", "intra")

    def __init__(
        self,
        num_modalities: int = 4,
        num_classes: int = 4,
        spatial_dims: int = 3,
        width: int = 8,
        levels: int = 5,
        roi_size: int | Sequence[int] = 80,
        embedding: int = 512,
        heads: int = 8,
        depth: int = 1,
        mlp: int = 4096,
        dropout: float = 0.1,
        released_t2_bottleneck: bool = False,
        released_masked_tokens: bool = False,
    ) -> None:
        super().__init__(num_modalities, num_classes, spatial_dims)
        if width < 1 or levels < 2:
            raise ValueError(f"width is {width} and levels {levels}; give a positive width and 2 or more levels")
        if released_t2_bottleneck and num_modalities != 4:
            raise ValueError(f"released_t2_bottleneck is about the 4 modalities of BraTS, not {num_modalities}")
        channels = self.encoder_channels = tuple(width * 2**i for i in range(levels))
        deepest = channels[-1]
        self.stride = 2 ** (levels - 1)
        self.grid = token_grid(roi_size, 2 ** (levels - 1), spatial_dims)
        self.released_t2_bottleneck = released_t2_bottleneck
        self.released_masked_tokens = released_masked_tokens
        block = partial(ConvBlock, spatial_dims, order="pre")
        transformer = partial(Transformer, embedding, heads, depth, mlp, dropout)
        self.encoders = nn.ModuleList(ConvEncoder(spatial_dims, channels, "pre") for _ in range(num_modalities))
        self.embed = nn.ModuleList(convolution(spatial_dims, deepest, embedding) for _ in range(num_modalities))
        self.positions = nn.Parameter(torch.zeros(num_modalities, torch.Size(self.grid).numel(), embedding))
        self.intra = nn.ModuleList(transformer() for _ in range(num_modalities))
        self.inter = transformer()
        self.bottleneck = convolution(spatial_dims, num_modalities * embedding, num_modalities * deepest)
        self.fuse = nn.ModuleList(FusionConv(spatial_dims, num_modalities, c, c) for c in channels[:-1])
        self.fuse_bottleneck = block(num_modalities * deepest, deepest, 1)
        self.fused = nn.ModuleList(
            nn.Sequential(block(c, c, 3, padding_mode="zeros"), block(c, c, 1)) for c in channels
        )
        self.up = nn.ModuleList(block(2 * c, c, 3) for c in channels[:-1])
        self.merge = nn.ModuleList(nn.Sequential(block(2 * c, c, 3), block(c, c, 1)) for c in channels[:-1])
        self.head = convolution(spatial_dims, width, num_classes)
        self.deep_heads = nn.ModuleList(convolution(spatial_dims, c, num_classes) for c in channels[1:])
        initialize(self)

    def encode_modality(self, modality: int, image: Tensor) -> EncodedModality:
        pyramid = self.encoders[modality](image)
        # Normalization and activation are channel by channel, so the concatenation need not be made for them either.
        skips = tuple(fuse.project(modality, activate(x)) for fuse, x in zip(self.fuse, pyramid, strict=False))
        positions = resize_tokens(self.positions[modality : modality + 1], self.grid, pyramid[-1].shape[2:])
        tokens = self.intra[modality](map_to_tokens(self.embed[modality](pyramid[-1])), positions)
        return EncodedModality(pyramid, skips, tokens)

    def decode(self, features: Features, mask: Tensor, samples: Tensor | Sequence[int] | None = None) -> Decoded:
        routing = features.route(mask, samples)
        tokens = self._bottleneck_routing(routing).stack([maps and maps.tokens for maps in features.maps])
        grid = next(maps.pyramid[-1].shape[2:] for maps in features.maps if maps is not None)
        x = self.fused[-1](self.fuse_bottleneck(self._fuse_tokens(tokens, grid)))
        logits = [self.deep_heads[-1](x)]
        for level in reversed(range(len(self.fuse))):
            skips = [maps and maps.skips[level] for maps in features.maps]
            up = self.up[level](upsample(x))
            skip = self.fused[level](self.fuse[level](routing, skips))
            x = self.merge[level](torch.cat([skip, up], dim=1))
            logits.append((self.deep_heads[level - 1] if level else self.head)(x))
        return Decoded(tuple(reversed(logits)), x)

    def _fuse_tokens(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Tokens (D, M, P, embedding), absent ones zero -> map (D, M * deepest, *grid)."""
        positions = resize_tokens(self.positions, self.grid, grid).flatten(0, 1)
        fused = self.inter(tokens.flatten(1, 2), positions)
        # As published, M neighbors in the sequence (not the M modalities of a place) become the channels of a voxel.
        fused = fused.reshape(tokens.shape[0], tokens.shape[2], -1)
        return self.bottleneck(tokens_to_map(fused, grid))

    def _bottleneck_routing(self, routing: Routing) -> Routing:
        """Whose tokens each decode sees: those of its modalities, but for the errors of the released code."""
        if not self.training or not (self.released_t2_bottleneck or self.released_masked_tokens):
            return routing
        present = []
        for decode, (sample, modalities) in enumerate(zip(routing.samples, routing.present, strict=True)):
            first = routing.samples.index(sample)
            if self.released_t2_bottleneck and modalities == (T2,):
                has_more = any(rows[sample] >= 0 for m, rows in enumerate(routing.rows) if m != T2)
                if has_more or first < decode:
                    modalities = (T1,) if routing.rows[T1][sample] >= 0 else ()
            if self.released_masked_tokens:
                modalities = tuple(m for m in modalities if routing.takes(first, m))
            present.append(modalities)
        return Routing(routing.samples, tuple(present), routing.rows, routing.gate)
