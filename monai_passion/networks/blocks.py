"""Building blocks that the published backbones share.

`IN` below is instance normalisation without affine parameters or running statistics, `LReLU` has slope 0.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from monai_passion.networks.masking import Routing

__all__ = ["ConvBlock", "ConvEncoder", "FusionConv", "SeparateDecoder", "convolution", "initialise", "upsample"]

SLOPE = 0.2


def convolution(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    padding_mode: str = "zeros",
    groups: int = 1,
) -> nn.Module:
    """A biased convolution that keeps the size at stride 1."""
    conv: nn.Module = Conv[Conv.CONV, spatial_dims](
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        padding_mode=padding_mode if kernel_size > 1 else "zeros",
        groups=groups,
    )
    return conv


def activate(x: Tensor) -> Tensor:
    """IN, then LReLU."""
    return F.leaky_relu(F.instance_norm(x), SLOPE)


def upsample(x: Tensor, factor: int = 2) -> Tensor:
    """Bi- or trilinear, corners aligned."""
    if factor == 1:
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, scale_factor=factor, mode=mode, align_corners=True)


def initialise(network: nn.Module) -> None:
    """He initialisation of every convolution's weight (fan-in, gain sqrt 2), as the published networks."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, FusionConv)):
            nn.init.kaiming_normal_(module.weight)


class ConvBlock(nn.Module):
    """``order="post"``: conv, IN, LReLU. ``order="pre"``: IN, LReLU, conv. ``order="bare"``: conv."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        order: str,
        stride: int = 1,
        padding_mode: str = "reflect",
    ) -> None:
        super().__init__()
        self.order = order
        self.conv = convolution(spatial_dims, in_channels, out_channels, kernel_size, stride, padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "pre":
            x = activate(x)
        x = self.conv(x)
        return activate(x) if self.order == "post" else x


class ConvEncoder(nn.Module):
    """One modality's encoder: per level a = conv1(x) (stride 2 but in the first), then a + conv3(conv2(a)).

    (n, 1, *spatial) -> levels (n, channels[i], *spatial / 2**i), finest first.
    """

    def __init__(self, spatial_dims: int, channels: Sequence[int], order: str) -> None:
        super().__init__()
        block = partial(ConvBlock, spatial_dims, order=order)
        levels = []
        for i, width in enumerate(channels):
            if i == 0:
                first = ConvBlock(spatial_dims, 1, width, 3, order="post" if order == "post" else "bare")
            else:
                first = block(channels[i - 1], width, 3, stride=2)
            levels.append(nn.ModuleList([first, block(width, width, 3), block(width, width, 3)]))
        self.levels = nn.ModuleList(levels)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pyramid = []
        for level in self.levels:
            a = level[0](x)
            x = a + level[2](level[1](a))
            pyramid.append(x)
        return tuple(pyramid)


class FusionConv(nn.Module):
    """A 1x1 convolution over the channel-wise concatenation of M modality maps, absent ones zero.

    It is linear, so it splits into one projection per modality, computed once in `encode` (`project`), and a sum over
    those that take part, in every `decode` (`forward`): neither zeros nor concatenations are stored.
    """

    def __init__(self, spatial_dims: int, num_modalities: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        conv = convolution(spatial_dims, num_modalities * in_channels, out_channels)
        self.in_channels = in_channels
        self.weight = nn.Parameter(conv.weight.detach())
        self.bias = nn.Parameter(conv.bias.detach())

    def project(self, modality: int, x: Tensor) -> Tensor:
        """(n, in_channels, *spatial) -> (n, out_channels, *spatial), without the bias."""
        start = modality * self.in_channels
        conv = F.conv3d if x.ndim == 5 else F.conv2d
        return conv(x, self.weight[:, start : start + self.in_channels])

    def forward(self, routing: Routing, projected: Sequence[Tensor | None]) -> Tensor:
        """Projections per modality -> (D, out_channels, *spatial)."""
        return routing.sum(projected) + self.bias.reshape(1, -1, *(1,) * (self.weight.ndim - 2))


class SeparateDecoder(nn.Module):
    """Uni-modal decoder of the published networks, shared by all modalities and used in training only.

    It reads one modality's raw encoder levels and never sees the fusion: L_reg of Eq. 1-2.

    Levels (n, C_l, *spatial / 2**l), finest first -> logits (n, K, *spatial).
    """

    def __init__(self, spatial_dims: int, channels: Sequence[int], num_classes: int, order: str) -> None:
        super().__init__()
        block = partial(ConvBlock, spatial_dims, order=order)
        steps = pairwise(channels)
        self.levels = nn.ModuleList(
            nn.ModuleList([block(deep, wide, 3), block(2 * wide, wide, 3), block(wide, wide, 1)])
            for wide, deep in steps
        )
        self.head = convolution(spatial_dims, channels[0], num_classes)
        initialise(self)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        x = pyramid[-1]
        for (up, merge, out), skip in zip(reversed(self.levels), reversed(pyramid[:-1]), strict=True):
            x = out(merge(torch.cat([up(upsample(x)), skip], dim=1)))
        return self.head(x)
