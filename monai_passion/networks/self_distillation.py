"""One network, decoded from all the modalities a patient has (the teacher) and from each alone (the students)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monai_passion.networks.backbone import Decoded, MultiModalBackbone
from monai_passion.networks.blocks import SeparateDecoder
from monai_passion.networks.routing import Features

__all__ = ["SelfDistillationNet", "SelfDistillationOutput"]


class SelfDistillationOutput(NamedTuple):
    """What a training step's losses see. B samples, M modalities, K classes."""

    fused: Decoded
    """Decodes of every modality in ``mask``: B rows."""
    unimodal: Decoded | None
    """Decodes of one modality alone: one row a pair. None when no pair was decoded."""
    pairs: tuple[tuple[int, int], ...]
    """(sample, modality) of each row of ``unimodal``, samples ascending."""
    separate: Tensor | None
    """Logits (P, K, *spatial) of the separate decoder, one row for every entry of ``separate_pairs``."""
    separate_pairs: tuple[tuple[int, int], ...]
    available: Tensor
    """(B, M) bool: what was encoded, and so what the losses may teach."""
    teacher: Tensor | None = None
    """Logits (F, K, *spatial) of a separate teacher, one row for every entry of ``teacher_samples``."""
    teacher_samples: tuple[int, ...] = ()
    """The samples with every modality."""


class SelfDistillationNet(nn.Module):
    """Encode once, decode many times: the wrapper that every training method of this package shares (Sec. 3.2).

    Evaluation and inference use ``backbone`` alone, and checkpoints for them hold nothing else.

    Args:
        backbone: the network.
        unimodal: decode each available modality alone too. "train": with gradients, as self-distillation needs;
            "monitor": without, so that the relative preference of other methods can be watched; "off".
        separate: attach the training-only uni-modal decoder of the published networks (L_reg of Eq. 1-2).
        skip_single: do not decode the one modality of a single-modality sample a second time: it equals the fused
            decode, so its distance and its distillation terms are zero.
        sequential: decode one row at a time: the same numbers, less memory at once, more time.
        checkpointing: as ``sequential``, and keep nothing of a decode but its outputs; the backward pass repeats it.
            The least memory, for a third more time.
        teacher: another network, trained with every modality, which predicts the samples that have them all. It is
            neither trained nor part of this module's parameters and state.
    """

    def __init__(
        self,
        backbone: MultiModalBackbone,
        unimodal: str = "train",
        separate: bool = False,
        skip_single: bool = True,
        sequential: bool = False,
        checkpointing: bool = False,
        teacher: MultiModalBackbone | None = None,
    ) -> None:
        super().__init__()
        if unimodal not in ("train", "monitor", "off"):
            raise ValueError(f"unimodal is '{unimodal}'; give 'train', 'monitor' or 'off'")
        self.backbone = backbone
        self.unimodal = unimodal
        self.skip_single = skip_single
        self.sequential = sequential or checkpointing
        self.checkpointing = checkpointing
        self._teacher = (teacher,)  # a tuple hides it from nn.Module
        self.separate: SeparateDecoder | None = None
        if separate:
            self.separate = SeparateDecoder(
                backbone.spatial_dims, backbone.encoder_channels, backbone.num_classes, backbone.block_order
            )

    def forward(self, image: Tensor, available: Tensor, mask: Tensor | None = None) -> SelfDistillationOutput:
        """
        Args:
            image: (B, M, *spatial).
            available: (B, M) bool, what is encoded.
            mask: (B, M) bool, what is fused, a subset of ``available``, which is the default. They differ when absent
                modalities are simulated while their encoders go on learning (PDT).

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
        samples = [b for b, _ in pairs]
        unimodal: Decoded | None = None
        if pairs and self.unimodal == "train":
            everything = self._decode(features, torch.cat([mask, alone]), [*range(len(mask)), *samples])
            fused = everything.rows(slice(0, len(mask)))
            unimodal = everything.rows(slice(len(mask), None))
        else:
            fused = self._decode(features, mask, range(len(mask)))
            if pairs:
                with torch.no_grad():
                    unimodal = self._decode(features, alone, samples)
        separate, separate_pairs = self._separate(features)
        teacher, full = self._ask_teacher(image, available)
        return SelfDistillationOutput(fused, unimodal, tuple(pairs), separate, separate_pairs, available, teacher, full)

    def _decode(self, features: Features, mask: Tensor, samples: Sequence[int]) -> Decoded:
        decode = self.backbone.decode
        if self.checkpointing and torch.is_grad_enabled():
            decode = partial(checkpoint, decode, use_reentrant=False)
        if not self.sequential:
            return decode(features, mask, samples)
        rows = [decode(features, mask[d : d + 1], [sample]) for d, sample in enumerate(samples)]
        logits = tuple(torch.cat(level) for level in zip(*(row.logits for row in rows), strict=True))
        return Decoded(logits, torch.cat([row.features for row in rows]))

    @torch.no_grad()
    def _ask_teacher(self, image: Tensor, available: Tensor) -> tuple[Tensor | None, tuple[int, ...]]:
        """What the separate teacher says of the samples with every modality."""
        (teacher,) = self._teacher
        full = tuple(b for b, row in enumerate(available.tolist()) if all(row))
        if teacher is None or not full:
            return None, ()
        return teacher.to(image.device).eval()(image[list(full)], available[list(full)]), full

    def _separate(self, features: Features) -> tuple[Tensor | None, tuple[tuple[int, int], ...]]:
        """Every encoded modality of every sample through the separate decoder, as one batch."""
        if self.separate is None:
            return None, ()
        encoded = [(m, maps) for m, maps in enumerate(features.maps) if maps is not None]
        pairs = tuple((b, m) for m, _ in encoded for b, row in enumerate(features.rows[m]) if row >= 0)
        pyramids = [maps.pyramid for _, maps in encoded]
        return self.separate([torch.cat(level) for level in zip(*pyramids, strict=True)]), pairs
