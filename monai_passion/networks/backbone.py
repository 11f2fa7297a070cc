"""The contract between PASSION and a network: encode each modality once, decode any subset of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn

from monai_passion.networks.cpu.layout import split_rows
from monai_passion.networks.routing import Features, is_tracing

__all__ = ["Decoded", "MultiModalBackbone", "strides_of", "suits"]


def strides_of(network: nn.Module, spatial_dims: int) -> tuple[int, ...]:
    """What each spatial size must be a multiple of, per axis; 1 for a network that does not say."""
    stride = getattr(network, "stride", 1)
    return stride if isinstance(stride, tuple) else (stride,) * spatial_dims


def suits(size: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a network with these strides takes images of this size; -1 stands for any valid size.

    The least size is twice the stride: a single voxel at the coarsest level could be neither normalized nor reflected.
    """
    return all(n == -1 or (n % step == 0 and n >= 2 * step) for n, step in zip(size, strides, strict=True))


class Decoded(NamedTuple):
    """Result of one call of `decode`, D rows."""

    logits: tuple[Tensor, ...]
    """``logits[0]`` is the segmentation, (D, K, *spatial). The others are the deep-supervision outputs, finest first,
    (D, K, *spatial / s) with s a power of two (RFNet and M2FTrans have one more at full resolution)."""
    features: Tensor
    """The last decoder map, before the head of ``logits[0]``: (D, C, *spatial)."""

    def split(self, sizes: Sequence[int]) -> tuple[Decoded, ...]:
        """Split into parts with these numbers of rows."""
        if len(sizes) == 1:
            return (self,)
        parts = zip(*(split_rows(x, sizes) for x in (*self.logits, self.features)), strict=True)
        return tuple(Decoded(tuple(logits), features) for *logits, features in parts)


class MultiModalBackbone(nn.Module, ABC):
    """A segmentation network with one encoder per modality and a decoder that fuses any subset of them.

    A subclass says how one modality is encoded (`encode_modality`) and how D masks are decoded (`decode`), and sets

    * ``encoder_channels``: channels of ``encode_modality(...).pyramid``, finest level first;
    * ``stride``: every spatial size must be a multiple of it, at least twice that.

    Args:
        num_modalities: M >= 2, the input channels; channel m always belongs to modality m.
        num_classes: K >= 2, the output channels, background included.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: an argument is out of range.
    """

    encoder_channels: tuple[int, ...]
    stride: int | tuple[int, ...]
    block_order: str = "post"
    """How `SeparateDecoder` orders its blocks for this network: "post" (conv, norm, activation) or "pre"."""

    def __init__(self, num_modalities: int, num_classes: int, spatial_dims: int = 3) -> None:
        super().__init__()
        for name, value in (("num_modalities", num_modalities), ("num_classes", num_classes)):
            if value < 2:
                raise ValueError(f"{name} is {value}; it must be at least 2")
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {spatial_dims}; it must be 2 or 3")
        self.num_modalities = num_modalities
        self.num_classes = num_classes
        self.spatial_dims = spatial_dims

    @abstractmethod
    def encode_modality(self, modality: int, image: Tensor) -> Any:
        """Everything that depends on one modality alone: (n, 1, *spatial) -> a NamedTuple of tensors of n rows.

        Its field ``pyramid`` holds the encoder's levels, finest first.
        """

    @abstractmethod
    def decode(self, features: Features, mask: Tensor, samples: Tensor | Sequence[int] | None = None) -> Decoded:
        """Fuse and decode D subsets: row d of ``mask`` (D, M) bool, a subset of the modalities of ``samples[d]``.

        ``samples`` defaults to one decode per sample, in order.

        Raises:
            ValueError: an empty row, or a modality that was not encoded.
        """

    def modality_parameters(self, modality: int) -> Iterator[nn.Parameter]:
        """The parameters that only ``modality`` uses (its encoder)."""
        prefixes = tuple(f"{name}.{modality}." for name in self.per_modality)
        return (p for name, p in self.named_parameters() if name.startswith(prefixes))

    per_modality: tuple[str, ...] = ("encoders",)
    """Names of the ``ModuleList`` attributes that hold one module per modality."""

    def encode(self, image: Tensor, available: Tensor) -> Features:
        """Encode every available modality: image (B, M, *spatial), available (B, M) bool.

        An absent modality is not read, so the content of its channel has no influence, and its encoder gets no
        gradient.

        Raises:
            ValueError: wrong number of channels or dimensions, a size that does not suit ``stride``, a sample
                without any modality.
        """
        available = self._check(image, available)
        batch = image.shape[0]
        # MONAI's MetaTensor costs a dispatch per operation and carries nothing that a network needs.
        image = image.as_tensor() if isinstance(image, MetaTensor) else image
        if is_tracing():
            image = torch.where(
                available.reshape(*available.shape, *(1,) * self.spatial_dims), image, image.new_zeros(())
            )
            maps = tuple(self.encode_modality(m, image[:, m : m + 1]) for m in range(self.num_modalities))
            return Features(maps, ((0,),) * self.num_modalities, available, traced=True)
        encoded: list[Any] = []
        rows: list[tuple[int, ...]] = []
        for m, has in enumerate(available.T.tolist()):
            samples = [b for b in range(batch) if has[b]]
            rows.append(tuple(samples.index(b) if has[b] else -1 for b in range(batch)))
            channel = image[:, m : m + 1] if len(samples) == batch else image[samples, m : m + 1]
            encoded.append(self.encode_modality(m, channel) if samples else None)
        return Features(tuple(encoded), tuple(rows), available, traced=False)

    def forward(self, image: Tensor, available: Tensor | None = None) -> Tensor:
        """The segmentation logits (B, K, *spatial) from the available modalities; ``None`` means all."""
        if available is None:
            available = torch.ones(image.shape[0], self.num_modalities, dtype=torch.bool, device=image.device)
        features = self.encode(image, available)
        return self.decode(features, features.available).logits[0]

    def _check(self, image: Tensor, available: Tensor) -> Tensor:
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.num_modalities:
            sizes = ", ".join("HWD"[: self.spatial_dims])
            raise ValueError(
                f"image has shape {tuple(image.shape)}; this network takes (batch, {self.num_modalities}, {sizes}), "
                "one channel per modality, with any values in the channels of absent ones"
            )
        strides = strides_of(self, self.spatial_dims)
        if not suits(image.shape[2:], strides):
            raise ValueError(
                f"image has spatial size {tuple(image.shape[2:])}; {type(self).__name__} needs multiples of {strides}, "
                "at least twice that: pad or crop it, or choose such a roi_size"
            )
        if not isinstance(available, Tensor):
            available = torch.as_tensor(available)
        available = available.as_tensor() if isinstance(available, MetaTensor) else available
        available = available.to(image.device)
        if available.shape != image.shape[:2]:
            raise ValueError(
                f"available has shape {tuple(available.shape)}; give (batch, modalities) = {tuple(image.shape[:2])}"
            )
        available = available.bool()
        if not is_tracing() and not bool(available.any(dim=1).all()):
            raise ValueError("a sample has no available modality; every sample needs at least one")
        return available
