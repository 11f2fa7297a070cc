"""A U-Net for any subset of modalities, from MONAI's blocks: mean and variance over the available ones, per level.

The fusion is that of Havaei et al., HeMIS, MICCAI 2016, in the U-Net form of Dorent et al., MICCAI 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from monai.networks.blocks import UnetBasicBlock, UnetOutBlock, UnetUpBlock
from torch import Tensor, nn

from monai_passion.networks.backbone import Decoded, MultiModalBackbone
from monai_passion.networks.precision import to_single
from monai_passion.networks.routing import Features, Routing

__all__ = ["HeteroModalUNet"]

NORM = ("INSTANCE", {"affine": True})


class EncodedModality(NamedTuple):
    pyramid: tuple[Tensor, ...]
    squares: tuple[Tensor, ...]
    """The pyramid's squares, whose sum over modalities gives the variance; single precision, as they nearly cancel."""


class HeteroModalUNet(MultiModalBackbone):
    """One convolutional encoder per modality; each level hands the mean and the variance over modalities to a decoder.

    Spatial sizes must be multiples of ``2 ** (len(channels) - 1)``, at least twice that.

    Args:
        channels: of the encoder's levels, finest first; each level halves the size. The decoder has twice as many.

    Deep supervision: decoder maps at x1/2, x1/4, ... (finest first), the deepest level left out.

    Raises:
        ValueError: fewer than 2 levels, or a level without channels.
    """

    def __init__(
        self,
        num_modalities: int = 4,
        num_classes: int = 4,
        spatial_dims: int = 3,
        channels: Sequence[int] = (8, 16, 32, 64, 128),
    ) -> None:
        super().__init__(num_modalities, num_classes, spatial_dims)
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"channels is {tuple(channels)}; give a positive number for each of 2 or more levels")
        self.encoder_channels = tuple(channels)
        self.stride = 2 ** (len(channels) - 1)
        self.encoders = nn.ModuleList(
            nn.ModuleList(
                UnetBasicBlock(spatial_dims, before, after, kernel_size=3, stride=1 if i == 0 else 2, norm_name=NORM)
                for i, (before, after) in enumerate(pairwise((1, *channels)))
            )
            for _ in range(num_modalities)
        )
        self.bottleneck: nn.Module = nn.Identity()
        self.up = nn.ModuleList(
            UnetUpBlock(
                spatial_dims, 2 * deep, 2 * wide, kernel_size=3, stride=1, upsample_kernel_size=2, norm_name=NORM
            )
            for wide, deep in pairwise(channels)
        )
        self.heads = nn.ModuleList(UnetOutBlock(spatial_dims, 2 * c, num_classes) for c in channels[:-1])

    def encode_modality(self, modality: int, image: Tensor) -> EncodedModality:
        pyramid = []
        for level in self.encoders[modality]:
            image = level(image)
            pyramid.append(image)
        return EncodedModality(tuple(pyramid), tuple(to_single(x).square() for x in pyramid))

    def decode(self, features: Features, mask: Tensor, samples: Tensor | Sequence[int] | None = None) -> Decoded:
        routing = features.route(mask, samples)
        x = self.bottleneck(self._fuse(routing, features, len(self.up)))
        logits = []
        for level in reversed(range(len(self.up))):
            x = self.up[level](x, self._fuse(routing, features, level))
            logits.append(self.heads[level](x))
        return Decoded(tuple(reversed(logits)), x)

    def _fuse(self, routing: Routing, features: Features, level: int) -> Tensor:
        """(D, 2C, *spatial): mean, then variance, over the modalities of each decode (zero variance for one alone)."""
        total = routing.sum([maps and to_single(maps.pyramid[level]) for maps in features.maps])
        squares = routing.sum([maps and maps.squares[level] for maps in features.maps])
        count = routing.mask(total).sum(dim=1).reshape(-1, *(1,) * (total.ndim - 1))
        mean = total / count
        return torch.cat([mean, (squares / count - mean.square()).clamp_min(0)], dim=1)
