"""Routing of the modalities of each sample into the decodes.

Encoders run only on what is there, so the encoded maps of modality ``m`` hold one row per sample that *has* ``m``.
`Features` keeps those rows; `Routing` says, for every decode, which rows it may read.

While a network is traced or exported, control flow must not depend on data, nor on the size of the batch. Then every
modality keeps a row for every sample, one decode stands for the whole batch, and modalities that a row must not see are
multiplied by zero. The numbers are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Features", "Routing", "is_tracing"]


def is_tracing() -> bool:
    """True while TorchScript, ``torch.export`` or the ONNX exporter records the graph."""
    onnx = sys.modules.get("torch.onnx")  # loading it takes a second, and who exports has loaded it
    return torch.jit.is_tracing() or torch.compiler.is_exporting() or (onnx is not None and onnx.is_in_onnx_export())


class Features(NamedTuple):
    """Result of `encode`: the encoded maps of every modality, opaque to all but the backbone that made them."""

    maps: tuple[Any, ...]
    """Per modality: the backbone's own structure of tensors of shape (n_m, ...), or None if no sample has it."""
    rows: tuple[tuple[int, ...], ...]
    """``rows[m][b]``: the row of sample ``b`` in ``maps[m]``, -1 where the sample lacks the modality."""
    available: Tensor
    """(B, M) bool: what was encoded."""
    traced: bool
    """Whether every modality was encoded for every sample, see the module's text."""

    def route(self, mask: Tensor, samples: Tensor | Sequence[int] | None = None) -> Routing:
        """Plan D decodes: row ``d`` of ``mask`` (D, M) bool fuses its modalities of sample ``samples[d]``.

        Raises:
            ValueError: a row is empty, asks for a modality that was not encoded, or the shapes disagree; while tracing,
                ``samples`` are given.
        """
        num_samples, num_modalities = self.available.shape
        if mask.ndim != 2 or mask.shape[1] != num_modalities:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}; give (decodes, {num_modalities}), one column per modality"
            )
        if self.traced:
            if samples is not None:
                raise ValueError("a traced network decodes every sample once; leave out `samples`")
            return Routing((0,), (tuple(range(num_modalities)),), self.rows, mask & self.available)
        if samples is None:
            if mask.shape[0] != num_samples:
                raise ValueError(f"mask has {mask.shape[0]} rows for {num_samples} samples; say which with `samples`")
            samples = range(num_samples)
        elif isinstance(samples, Tensor):
            samples = samples.tolist()
        samples = tuple(int(s) for s in samples)
        if len(samples) != mask.shape[0]:
            raise ValueError(f"samples has {len(samples)} entries for {mask.shape[0]} rows of mask")
        present = []
        for sample, row in zip(samples, mask.tolist(), strict=True):
            modalities = tuple(m for m, kept in enumerate(row) if kept)
            if not modalities:
                raise ValueError("mask has a row without any modality; every decode needs at least one")
            absent = [m for m in modalities if self.rows[m][sample] < 0]
            if absent:
                raise ValueError(
                    f"mask asks for modalities {absent} of sample {sample}, which were not available to encode"
                )
            present.append(modalities)
        return Routing(samples, tuple(present), self.rows, None)


def _weigh(value: Tensor, weights: Tensor) -> Tensor:
    """(n, C, *spatial) times (n, 1, *coarse), up-sampled by repetition."""
    sizes, coarse, blocks = value.shape[2:], weights.shape[2:], value.movedim(1, -1)
    divisible = not any(size % few for size, few in zip(sizes, coarse, strict=True))
    if is_tracing() or not divisible or not blocks.is_contiguous():
        return value * F.interpolate(weights, sizes)
    # With the channels last, the voxels of each weight as axes of their own: no map of weights is made, and what the
    # innermost loop multiplies by one number is contiguous.
    for axis in range(len(coarse), 0, -1):
        blocks = blocks.unflatten(axis, (coarse[axis - 1], -1))
    product = blocks.flatten(-2) * weights[:, 0].reshape(-1, *(n for few in coarse for n in (few, 1)))
    return product.reshape(len(product), *sizes, -1).movedim(-1, 1)


@dataclass(frozen=True)
class Routing:
    """The modalities that take part in D decodes; see `Features.route`."""

    samples: tuple[int, ...]
    present: tuple[tuple[int, ...], ...]
    """Per decode, its modalities, ascending (all of them while tracing)."""
    rows: tuple[tuple[int, ...], ...]
    gate: Tensor | None
    """(B, M) bool while tracing: the modalities that really take part."""

    def __len__(self) -> int:
        return len(self.samples)

    def span(self, decode: int) -> slice:
        """The rows of a decode in tensors with a row per decode: one, or while tracing those of the whole batch."""
        return slice(None) if self.gate is not None else slice(decode, decode + 1)

    def takes(self, decode: int, modality: int) -> bool:
        """Whether a decode reads a modality. With ``in`` torch.compile would reuse its graph for other masks."""
        return any(m == modality for m in self.present[decode])

    def read(self, maps: Sequence[Tensor | None], decode: int, modality: int) -> Tensor:
        """The map of one modality for the rows of one decode; exactly zero where the gate is shut."""
        values = maps[modality]
        assert values is not None
        if self.gate is not None:
            return values * self.gate[:, modality].reshape(-1, *(1,) * (values.ndim - 1))
        row = self.rows[modality][self.samples[decode]]
        assert row >= 0
        # A lone row is handed on as it is: no slice in the graph, no zero-filled gradient behind it.
        return values if values.shape[0] == 1 else values[row : row + 1]

    def sum(self, maps: Sequence[Tensor | None], weights: Tensor | None = None) -> Tensor:
        """Per decode the sum over its modalities: (n_m, C, *spatial) each -> (D, C, *spatial).

        Args:
            weights: (D, M, *coarse) multiplies each map, up-sampled to its size by repetition.
        """

        def term(decode: int, modality: int) -> Tensor:
            value = self.read(maps, decode, modality)
            if weights is None:
                return value
            return _weigh(value, weights[self.span(decode), modality : modality + 1])

        totals = []
        for decode, modalities in enumerate(self.present):
            total = term(decode, modalities[0])
            for m in modalities[1:]:
                total = total + term(decode, m)
            totals.append(total)
        return torch.cat(totals) if len(totals) > 1 else totals[0]

    def decodes(self, modality: int) -> list[int]:
        """The decodes that one modality takes part in (all of them while tracing)."""
        return [decode for decode in range(len(self)) if self.takes(decode, modality)]

    def gather(self, maps: Sequence[Tensor | None], modality: int) -> Tensor:
        """The maps of one modality, a row for each of its `decodes`."""
        return torch.cat([self.read(maps, decode, modality) for decode in self.decodes(modality)])

    def stack(self, maps: Sequence[Tensor | None]) -> Tensor:
        """Per decode all modalities side by side, absent ones exactly zero: (n_m, ...) each -> (D, M, ...)."""
        like = next(values for values in maps if values is not None)
        zero = like.new_zeros((1, *like.shape[1:]))
        rows = [
            torch.stack([self.read(maps, d, m) if self.takes(d, m) else zero for m in range(len(maps))], dim=1)
            for d in range(len(self))
        ]
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def mask(self, like: Tensor) -> Tensor:
        """(D, M) bool on the device of ``like``: the modalities that really take part."""
        if self.gate is not None:
            return self.gate
        mask = torch.zeros(len(self), len(self.rows), dtype=torch.bool)
        for decode, modalities in enumerate(self.present):
            mask[decode, list(modalities)] = True
        return mask.to(like.device)
