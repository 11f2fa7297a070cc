"""Sample every combination of modalities equally often, even if it is rare in the data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from monai_passion.modalities import all_masks, combination_name

__all__ = ["CombinationSampler", "combination_items"]


def combination_items(items: Sequence[Mapping[str, Any]], modalities: Sequence[str]) -> list[dict[str, Any]]:
    """Each item once per combination of its modalities, stored under ``combination``, with the others left out.

    An item with more modalities than a combination stands in for it, since modalities can always be left out.
    """
    expanded = []
    for mask in all_masks(modalities):
        kept = [m for m, keep in zip(modalities, mask, strict=True) if keep]
        for item in items:
            if all(item["image"][m] is not None for m in kept):
                image = {m: path if m in kept else None for m, path in item["image"].items()}
                expanded.append({**item, "image": image, "combination": combination_name(mask, modalities)})
    return expanded


class CombinationSampler(Sampler[int]):
    """Indices of `combination_items`: cycles in which each combination comes once, in random order.

    No item of a combination is repeated before each has come once. Random numbers are torch's, so `EpochSeedHandler`
    seeds them per epoch.

    Args:
        items: of `combination_items`.
        length: of an epoch, which is rounded to whole cycles.
    """

    def __init__(self, items: Sequence[Mapping[str, Any]], length: int) -> None:
        groups: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(item["combination"], []).append(index)
        self.groups = list(groups.values())
        self.cycles = max(1, round(length / len(self.groups)))

    def __len__(self) -> int:
        return self.cycles * len(self.groups)

    def __iter__(self) -> Iterator[int]:
        queues: list[list[int]] = [[] for _ in self.groups]
        for _ in range(self.cycles):
            for g in torch.randperm(len(self.groups)).tolist():
                if not queues[g]:
                    queues[g] = [self.groups[g][i] for i in torch.randperm(len(self.groups[g])).tolist()]
                yield queues[g].pop()
