"""Building blocks that the published backbones share.

`IN` below is instance normalization without affine parameters or running statistics, `LReLU` has slope 0.2: `activate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks import MLPBlock
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from monai_passion.networks.cpu.activation import activate
from monai_passion.networks.cpu.convolution import Conv3d
from monai_passion.networks.cpu.pointwise import pointwise
from monai_passion.networks.routing import Routing, is_tracing

__all__ = [
    "ConvBlock",
    "ConvEncoder",
    "FusionConv",
    "SeparateDecoder",
    "TransformerBlock",
    "add_before_norm",
    "convolution",
    "initialize",
    "map_to_tokens",
    "resize_tokens",
    "token_grid",
    "tokens_to_map",
    "upsample",
]


def convolution(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    padding_mode: str = "zeros",
    groups: int = 1,
    before_norm: bool = False,
) -> nn.Module:
    """A biased convolution that keeps the size at stride 1; ``before_norm`` as `add_before_norm`."""
    plain, normalized = (Conv3d, _Conv3dBeforeNorm) if spatial_dims == 3 else (nn.Conv2d, _Conv2dBeforeNorm)
    kind: Any = normalized if before_norm else plain
    conv: nn.Module = kind(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        padding_mode=padding_mode if kernel_size > 1 else "zeros",
        groups=groups,
    )
    return conv


class _NormalizedAway(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.like = torch.empty_like(bias, device="meta")
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], torch.zeros_like(ctx.like, device=grads[0].device)


def add_before_norm(x: Tensor, bias: Tensor) -> Tensor:
    """(n, C, *spatial) plus (C,), for instance normalization, which removes a constant per channel again.

    So nothing is added. The bias, which published weights have, gets its true gradient: 0.
    """
    if not torch.is_grad_enabled() or is_tracing():
        return x
    return _NormalizedAway.apply(x, bias)  # type: ignore[no-any-return, no-untyped-call]


class _BeforeNorm:
    def forward(self: Any, input: Tensor) -> Tensor:
        return add_before_norm(self._conv_forward(input, self.weight, None), self.bias)


class _Conv2dBeforeNorm(_BeforeNorm, nn.Conv2d):
    pass


class _Conv3dBeforeNorm(_BeforeNorm, Conv3d):
    pass


def upsample(x: Tensor) -> Tensor:
    """Twice the size along each axis, bi- or trilinear, corners aligned."""
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    with torch.autocast("cpu", enabled=False):  # which would make single precision of half there, to no use
        return F.interpolate(x, scale_factor=2, mode=mode, align_corners=True)


def initialize(network: nn.Module) -> None:
    """He initialization of every convolution's weight (fan-in, gain sqrt 2), as in the published networks."""
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
        self.conv = convolution(
            spatial_dims, in_channels, out_channels, kernel_size, stride, padding_mode, before_norm=order == "post"
        )

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
        return pointwise(x, self.weight[:, start : start + self.in_channels])

    def forward(self, routing: Routing, projected: Sequence[Tensor | None], weights: Tensor | None = None) -> Tensor:
        """Per modality -> (D, out_channels, *spatial), to be normalized; ``weights`` as in `Routing.sum`."""
        return add_before_norm(routing.sum(projected, weights), self.bias)


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
        initialize(self)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        x = pyramid[-1]
        for (up, merge, out), skip in zip(reversed(self.levels), reversed(pyramid[:-1]), strict=True):
            x = out(merge(torch.cat([up(upsample(x)), skip], dim=1)))
        return self.head(x)


def token_grid(roi_size: int | Sequence[int], stride: int, spatial_dims: int) -> tuple[int, ...]:
    """Tokens per axis of an image of ``roi_size`` voxels.

    Raises:
        ValueError: ``stride`` does not divide ``roi_size``, or an axis has only one token.
    """
    sizes: tuple[int, ...] = ensure_tuple_rep(roi_size, spatial_dims)
    if any(size % stride or size < 2 * stride for size in sizes):
        raise ValueError(f"roi_size is {sizes}; it must be a multiple of {stride}, twice that or more")
    return tuple(size // stride for size in sizes)


def map_to_tokens(x: Tensor) -> Tensor:
    """(n, C, *grid) -> (n, P, C), the last axis fastest."""
    return x.flatten(2).transpose(1, 2)


def tokens_to_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """(n, P, C) -> (n, C, *grid)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))


def resize_tokens(tokens: Tensor, built: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Learned tokens (n, P, C) for the grid ``built``, interpolated linearly for another grid."""
    if tuple(built) == tuple(grid):
        return tokens
    mode = "bilinear" if len(grid) == 2 else "trilinear"
    return map_to_tokens(F.interpolate(tokens_to_map(tokens, built), size=tuple(grid), mode=mode))


class TransformerBlock(nn.Module):
    """Multi-head attention and a perceptron, each after a layer norm and around a skip.

    MONAI's ``TransformerBlock`` does not fit: it has an unused layer norm, drops attention weights at inference too
    with ``use_flash_attention``, and cannot attend to keys from elsewhere.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads is {heads}, which must divide the {channels} channels of a token")
        self.heads = heads
        self.dropout = dropout
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLPBlock(channels, mlp, dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (n, P, C) -> queries, keys and values, (n, heads, P, C / heads) each."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(C / heads)) v, where a bool ``mask`` is set."""
        return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=self.dropout if self.training else 0.0)

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def update(self, x: Tensor, attended: Tensor) -> Tensor:
        """The tokens (n, P, C), updated by the result of attention, (n, heads, P, C / heads)."""
        attended = self.proj(attended.transpose(1, 2).flatten(2))
        x = x + self.drop(self.drop(attended))  # twice, as published
        return x + self.mlp(self.norm2(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.update(x, self.attend(*self.project(x)))
