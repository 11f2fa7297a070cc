"""One network, decoded from all the modalities a patient has (the teacher) and from each alone (the students)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monai_passion.networks.backbone import Decoded, MultiModalBackbone
from monai_passion.networks.blocks import SeparateDecoder
from monai_passion.networks.routing import Features

__all__ = ["SelfDistillationNet", "SelfDistillationOutput"]


class SelfDistillationOutput(NamedTuple):
    """The inputs of a training step's losses. B samples, M modalities, K classes."""

    fused: Decoded
    """Decodes of every modality in ``mask``: B rows."""
    unimodal: Decoded | None
    """Decodes of one modality alone, one row per pair; None if no pair was decoded."""
    pairs: tuple[tuple[int, int], ...]
    """(sample, modality) of each row of ``unimodal``, samples ascending."""
    separate: Tensor | None
    """Logits (P, K, *spatial) of the separate decoder, one row for every entry of ``separate_pairs``."""
    separate_pairs: tuple[tuple[int, int], ...]
    available: Tensor
    """(B, M) bool: the encoded modalities, which the losses may train."""
    image: Tensor
    """(B, M, *spatial), the encoded image."""
    subsets: Decoded | None = None
    """Decodes of random subsets of the modalities: one row per entry of ``subset_samples``."""
    subset_samples: tuple[int, ...] = ()
    subset_masks: Tensor | None = None
    """(rows, M) bool: the modalities of each row of ``subsets``."""


class SelfDistillationNet(nn.Module):
    """Encode once, decode many times: the wrapper that every training method of this package shares (Sec. 3.2).

    Evaluation and inference use ``backbone`` alone, and checkpoints for them hold nothing else.

    Args:
        backbone: the network.
        unimodal: decode each available modality alone too. "train": with gradients, as self-distillation needs;
            "monitor": without gradients, so that the relative preference of other methods can be measured; "off".
        separate: attach the training-only uni-modal decoder of the published networks (L_reg of Eq. 1-2).
        skip_single: do not decode the one modality of a single-modality sample a second time: it equals the fused
            decode, so its distance and its distillation terms are zero.
        sequential: decode one row at a time: the same numbers, less memory at once, more time.
        checkpointing: as ``sequential``, and keep only the outputs of a decode; the backward pass repeats it. Needs the
            least memory, and a third more time.
        random_subsets: number of random subsets of a sample's modalities to decode too, each of two or more but not all
            of them, drawn anew in each call; samples with fewer than three modalities have none. Gradients as for
            ``unimodal``.

    Raises:
        ValueError: another word for ``unimodal``.
    """

    def __init__(
        self,
        backbone: MultiModalBackbone,
        unimodal: str = "train",
        separate: bool = False,
        skip_single: bool = True,
        sequential: bool = False,
        checkpointing: bool = False,
        random_subsets: int = 0,
    ) -> None:
        super().__init__()
        if unimodal not in ("train", "monitor", "off"):
            raise ValueError(f"unimodal is '{unimodal}'; give 'train', 'monitor' or 'off'")
        self.backbone = backbone
        self.unimodal = unimodal
        self.skip_single = skip_single
        self.sequential = sequential or checkpointing
        self.checkpointing = checkpointing
        self.random_subsets = random_subsets
        self.separate: SeparateDecoder | None = None
        if separate:
            self.separate = SeparateDecoder(
                backbone.spatial_dims, backbone.encoder_channels, backbone.num_classes, backbone.block_order
            )

    def forward(self, image: Tensor, available: Tensor, mask: Tensor | None = None) -> SelfDistillationOutput:
        """Decode the fused modalities, each modality alone and random subsets, as far as requested.

        Args:
            image: (B, M, *spatial).
            available: (B, M) bool, the modalities to encode.
            mask: (B, M) bool, the modalities to fuse, a subset of ``available``, which is the default. They differ if
                absent modalities are simulated while their encoders still learn (PDT).

        Raises:
            ValueError: as `MultiModalBackbone.encode` and `MultiModalBackbone.decode`.
        """
        features = self.backbone.encode(image, available)
        available = features.available
        mask = available if mask is None else torch.as_tensor(mask, device=image.device).bool()
        pairs: list[tuple[int, int]] = []
        if self.unimodal != "off":
            for b, row in enumerate(available.tolist()):
                if sum(row) > 1 or not self.skip_single:
                    pairs += [(b, m) for m, there in enumerate(row) if there]
        alone = torch.zeros(len(pairs), mask.shape[1], dtype=torch.bool, device=mask.device)
        for row, (_, m) in enumerate(pairs):
            alone[row, m] = True
        subset_samples, subset_masks = self._draw_subsets(available)
        samples, masks = [*(b for b, _ in pairs), *subset_samples], torch.cat([alone, subset_masks])
        others: Decoded | None = None
        if samples and self.unimodal == "train":
            everything = self._decode(features, torch.cat([mask, masks]), [*range(len(mask)), *samples])
            fused, others = everything.split([len(mask), len(masks)])
        else:
            fused = self._decode(features, mask, range(len(mask)))
            if samples:
                with torch.no_grad():
                    others = self._decode(features, masks, samples)
        sizes = [size for size in (len(pairs), len(subset_samples)) if size]
        parts = iter(others.split(sizes) if others else ())
        separate, separate_pairs = self._separate(features)
        return SelfDistillationOutput(
            fused=fused,
            unimodal=next(parts) if pairs else None,
            pairs=tuple(pairs),
            separate=separate,
            separate_pairs=separate_pairs,
            available=available,
            image=image,
            subsets=next(parts) if subset_samples else None,
            subset_samples=subset_samples,
            subset_masks=subset_masks if subset_samples else None,
        )

    def _draw_subsets(self, available: Tensor) -> tuple[tuple[int, ...], Tensor]:
        """(sample of each row, modalities of each row), every such subset of a sample equally likely."""
        samples: list[int] = []
        chosen: list[list[bool]] = []
        if self.random_subsets and self.unimodal != "off":
            for b, row in enumerate(available.tolist()):
                has = [m for m, there in enumerate(row) if there]
                subsets = [s for size in range(2, len(has)) for s in combinations(has, size)]
                for _ in range(self.random_subsets if subsets else 0):
                    subset = subsets[int(torch.randint(len(subsets), ()))]
                    samples.append(b)
                    chosen.append([m in subset for m in range(len(row))])
        masks = torch.tensor(chosen, dtype=torch.bool, device=available.device).reshape(-1, available.shape[1])
        return tuple(samples), masks

    def _decode(self, features: Features, mask: Tensor, samples: Sequence[int]) -> Decoded:
        decode = self.backbone.decode
        if self.checkpointing and torch.is_grad_enabled():
            decode = partial(checkpoint, decode, use_reentrant=False)
        if not self.sequential:
            return decode(features, mask, samples)
        rows = [decode(features, mask[d : d + 1], [sample]) for d, sample in enumerate(samples)]
        logits = tuple(torch.cat(level) for level in zip(*(row.logits for row in rows), strict=True))
        return Decoded(logits, torch.cat([row.features for row in rows]))

    def _separate(self, features: Features) -> tuple[Tensor | None, tuple[tuple[int, int], ...]]:
        """Every encoded modality of every sample through the separate decoder, as one batch."""
        if self.separate is None:
            return None, ()
        encoded = [(m, maps) for m, maps in enumerate(features.maps) if maps is not None]
        pairs = tuple((b, m) for m, _ in encoded for b, row in enumerate(features.rows[m]) if row >= 0)
        pyramids = [maps.pyramid for _, maps in encoded]
        return self.separate([torch.cat(level) for level in zip(*pyramids, strict=True)]), pairs
