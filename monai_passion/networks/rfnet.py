"""RFNet: region-aware fusion (Ding, Yu, Yang: RFNet, ICCV 2021), as PASSION uses it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_passion.networks.backbone import Decoded, MultiModalBackbone
from monai_passion.networks.blocks import (
    ConvBlock,
    ConvEncoder,
    FusionConv,
    add_before_norm,
    convolution,
    initialize,
    upsample,
)
from monai_passion.networks.cpu.activation import SLOPE, activate
from monai_passion.networks.cpu.regions import mix_regions
from monai_passion.networks.routing import Features, Routing

__all__ = ["RFNet"]

ATTENTION_CHANNELS = 128
PROBABILITY_CHANNELS = 16


class EncodedModality(NamedTuple):
    pyramid: tuple[Tensor, ...]
    probability: tuple[Tensor, ...]
    """Per level, the modality's share of the first convolution of the probability maps."""
    shortcut: tuple[Tensor, ...]
    """Per level, its share of the first convolution of the shortcut."""


class ProbabilityMaps(nn.Module):
    """Class probabilities of one level, which say where each class's region is; also a deep-supervision output."""

    def __init__(
        self, spatial_dims: int, num_modalities: int, channels: int, num_classes: int, with_decoder: bool
    ) -> None:
        super().__init__()
        block = partial(ConvBlock, spatial_dims, order="post")
        inner = max(channels // 4, 1)
        self.fuse = FusionConv(spatial_dims, num_modalities, channels, inner)
        self.embed = nn.Sequential(block(inner, inner, 3), block(inner, channels, 1))
        self.hidden = block(channels * (2 if with_decoder else 1), PROBABILITY_CHANNELS, 1)
        self.head = convolution(spatial_dims, PROBABILITY_CHANNELS, num_classes)

    def forward(self, routing: Routing, projected: Sequence[Tensor | None], decoder: Tensor | None) -> Tensor:
        embedded = self.embed(activate(self.fuse(routing, projected)))
        if decoder is not None:
            embedded = torch.cat([decoder, embedded], dim=1)
        return self.head(self.hidden(embedded))


class RegionFusion(nn.Module):
    """Fuse the modalities class by class, weighted by what each shows inside the class's region.

    For class k with probabilities q_k: v = mean(y_m q_k) / mean(q_k) over space for each modality map y_m, the weights
    w_km are a two-layer perceptron of (v, mean q_k) ending in a sigmoid, and the fused map is q_k * sum_m w_km y_m.
    """

    def __init__(self, spatial_dims: int, num_modalities: int, channels: int, num_classes: int) -> None:
        super().__init__()
        block = partial(ConvBlock, spatial_dims, order="post")
        half = max(channels // 2, 1)
        statistics = num_modalities * channels + 1
        # One perceptron per class, stacked along the first axis.
        self.hidden_weight = nn.Parameter(torch.empty(num_classes, ATTENTION_CHANNELS, statistics))
        self.hidden_bias = nn.Parameter(torch.empty(num_classes, ATTENTION_CHANNELS))
        self.weight_weight = nn.Parameter(torch.empty(num_classes, num_modalities, ATTENTION_CHANNELS))
        self.weight_bias = nn.Parameter(torch.empty(num_classes, num_modalities))
        for weight, bias in ((self.hidden_weight, self.hidden_bias), (self.weight_weight, self.weight_bias)):
            fan_in = weight.shape[-1]
            nn.init.normal_(weight, std=(2 / fan_in) ** 0.5)
            nn.init.uniform_(bias, -(fan_in**-0.5), fan_in**-0.5)
        self.region = nn.Sequential(
            block(num_classes * channels, channels, 1), block(channels, channels, 3), block(channels, half, 1)
        )
        self.shortcut_fuse = FusionConv(spatial_dims, num_modalities, channels, channels)
        self.shortcut = nn.Sequential(block(channels, channels, 3), block(channels, half, 1))

    def weights(self, routing: Routing, maps: Sequence[Tensor | None], probability: Tensor) -> Tensor:
        """w (D, K, M) in (0, 1) from maps (n_m, C, *spatial) and probabilities (D, K, *spatial)."""
        size = probability.flatten(2)
        area = size.mean(dim=2, keepdim=True) + 1e-7  # (D, K, 1)
        channels = next(x for x in maps if x is not None).shape[1]
        zero = size.new_zeros(1, size.shape[1], channels)
        averages = []
        for d in range(len(routing)):
            q = size[routing.span(d)]
            means = [
                q @ routing.read(maps, d, m).flatten(2).transpose(1, 2) / q.shape[2] if routing.takes(d, m) else zero
                for m in range(len(maps))
            ]
            averages.append(torch.cat(means, dim=2) / area[routing.span(d)])
        statistics = torch.cat([torch.cat(averages), area], dim=2)  # (D, K, MC + 1)
        hidden = F.leaky_relu(torch.einsum("dks,kas->dka", statistics, self.hidden_weight) + self.hidden_bias, SLOPE)
        return torch.sigmoid(torch.einsum("dka,kma->dkm", hidden, self.weight_weight) + self.weight_bias)

    def forward(
        self, routing: Routing, maps: Sequence[Tensor | None], projected: Sequence[Tensor | None], probability: Tensor
    ) -> Tensor:
        weights = self.weights(routing, maps, probability)
        first: Any = self.region[0].conv
        # The first 1x1 convolution comes before the products with q_k, which commute: one small matrix times the maps,
        # in place of K M products of maps.
        kernel = first.weight.flatten(1).unflatten(1, (weights.shape[1], -1))  # (C, K, C)
        mixed = []
        for d, modalities in enumerate(routing.present):
            rows = routing.span(d)
            matrix = torch.einsum("okc,nkm->nkomc", kernel, weights[rows, :, list(modalities)]).flatten(3)
            mixed.append(mix_regions([routing.read(maps, d, m) for m in modalities], probability[rows], matrix))
        region = self.region[1:](activate(add_before_norm(torch.cat(mixed), first.bias)))
        shortcut = self.shortcut(activate(self.shortcut_fuse(routing, projected)))
        return torch.cat([region, shortcut], dim=1)


class RFNet(MultiModalBackbone):
    """RFNet with M modality encoders and a region-aware fusing decoder.

    Spatial sizes must be multiples of ``2 ** (levels - 1)``, at least twice that.

    Args:
        width: channels of the finest level; 8 in PASSION, 16 in the RFNet paper.
        levels: resolutions, each with twice the channels of the one above.

    Deep supervision: the probability maps, before the fusion of their level, at x1, x1/2, x1/4, ...

    Raises:
        ValueError: a width that is not even and positive, or fewer than 2 levels.
    """

    def __init__(
        self, num_modalities: int = 4, num_classes: int = 4, spatial_dims: int = 3, width: int = 8, levels: int = 4
    ) -> None:
        super().__init__(num_modalities, num_classes, spatial_dims)
        if width < 2 or width % 2 or levels < 2:
            raise ValueError(f"width is {width} and levels {levels}; give an even width and 2 or more levels")
        channels = self.encoder_channels = tuple(width * 2**i for i in range(levels))
        self.stride = 2 ** (levels - 1)
        block = partial(ConvBlock, spatial_dims, order="post")
        self.encoders = nn.ModuleList(ConvEncoder(spatial_dims, channels, "post") for _ in range(num_modalities))
        self.probability = nn.ModuleList(
            ProbabilityMaps(spatial_dims, num_modalities, c, num_classes, with_decoder=i < levels - 1)
            for i, c in enumerate(channels)
        )
        self.fusion = nn.ModuleList(RegionFusion(spatial_dims, num_modalities, c, num_classes) for c in channels)
        self.up = nn.ModuleList(block(2 * c, c, 3) for c in channels[:-1])
        self.merge = nn.ModuleList(nn.Sequential(block(2 * c, c, 3), block(c, c, 1)) for c in channels[:-1])
        self.head = convolution(spatial_dims, width, num_classes)
        initialize(self)

    def encode_modality(self, modality: int, image: Tensor) -> EncodedModality:
        pyramid = self.encoders[modality](image)
        return EncodedModality(
            pyramid,
            tuple(p.fuse.project(modality, x) for p, x in zip(self.probability, pyramid, strict=True)),
            tuple(f.shortcut_fuse.project(modality, x) for f, x in zip(self.fusion, pyramid, strict=True)),
        )

    def decode(self, features: Features, mask: Tensor, samples: Tensor | Sequence[int] | None = None) -> Decoded:
        routing = features.route(mask, samples)
        deep: list[Tensor] = []
        x: Tensor | None = None
        for level in reversed(range(len(self.fusion))):
            pyramid, probability, shortcut = (
                [None if maps is None else maps[field][level] for maps in features.maps] for field in range(3)
            )
            up = None if x is None else self.up[level](upsample(x))
            logits = self.probability[level](routing, probability, up)
            deep.append(logits)
            x = self.fusion[level](routing, pyramid, shortcut, logits.detach().softmax(dim=1))
            if up is not None:
                x = self.merge[level](torch.cat([x, up], dim=1))
        assert x is not None
        return Decoded((self.head(x), *reversed(deep)), x)
