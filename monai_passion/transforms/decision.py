"""Probabilities -> the one class of each voxel, by one of two rules."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform, Transform
from monai.utils import convert_to_dst_type
from torch import Tensor

from monai_passion.errors import UsageError, WeightsError

__all__ = [
    "DECISIONS",
    "NOT_NUMBERS",
    "ProbabilitiesToLabels",
    "ProbabilitiesToLabelsd",
    "largest_expected_dice",
    "most_probable_class",
]

NOT_NUMBERS = "the network's probabilities are not numbers; were its weights damaged, or did their training diverge?"

STEP = 0.001
"""Step of probabilities in the search for the best threshold."""


def most_probable_class(probability: Tensor) -> Tensor:
    """(K, *spatial) -> int16 classes (*spatial); of equal ones, the first.

    Same as ``probability.argmax(0)``, which torch computes a voxel at a time (`make bench`).
    """
    plain = torch.as_tensor(probability).as_subclass(Tensor)
    best, classes = plain[0], torch.zeros(plain.shape[1:], dtype=torch.int16, device=plain.device)
    for k, candidate in enumerate(plain[1:], 1):
        classes.masked_fill_(candidate > best, k)
        best = torch.maximum(best, candidate)
    return classes


def largest_expected_dice(probability: Tensor, regions: Iterable[Sequence[int]]) -> Tensor:
    """(K, *spatial) -> int16 classes (*spatial); nested regions get the size with the largest expected Dice.

    A voxel is in any region if the probability of that is more than one half. Where regions together fill the one
    around them, as the outermost ones fill the foreground, the most probable one is taken. Within that, each region
    that is a part of another one, such as a tumor's core, gets all voxels with at least a certain probability of it:
    the threshold with the largest expected Dice, each volume replaced by its mean. This threshold is half of that Dice:
    0.5 if a network is sure, and less if it is not, for example without the sequence that shows the region. Missing
    voxels then cost more Dice than some wrong ones (Lipton et al., Optimal thresholding of classifiers to maximize F1
    measure, ECML PKDD 2014; Dai and Li, RankSEG, JMLR 2023). The expectation holds for a region that exists. So
    outermost regions are not enlarged, which would enlarge false findings in a head without a tumor, and inner regions
    that are nowhere the most probable class are left out.

    Args:
        probability: in [0, 1].
        regions: the classes of each; any two are nested or disjoint. Background, 0, is in none; any other class that is
            in none is a region of its own.

    Raises:
        UsageError: two regions overlap but are not nested.
    """
    families = _nested(regions)
    plain = torch.as_tensor(probability).as_subclass(Tensor)
    families |= {frozenset({k}) for k in range(1, len(plain)) if not any(k in family for family in families)}
    classes = torch.zeros_like(plain[0], dtype=torch.int16)
    seen = plain[1:].sum(dim=0) >= STEP  # a small part of the image, which saves time
    voxels = plain[:, seen]
    best = most_probable_class(voxels)
    shown = {k for k in range(1, len(plain)) if bool((best == k).any())}
    shares = {family: voxels[sorted(family)].sum(dim=0) for family in sorted(families, key=sorted)}
    decided = torch.zeros_like(voxels[0], dtype=torch.int16)
    _assign(decided, voxels[1:].sum(dim=0) > 0.5, frozenset(range(1, len(plain))), voxels, shares, shown)
    classes[seen] = decided
    return classes


def _nested(regions: Iterable[Sequence[int]]) -> set[frozenset[int]]:
    families = {frozenset(classes) for classes in regions}
    for one, other in combinations(sorted(families, key=sorted), 2):
        if one & other not in (one, other, frozenset()):
            raise UsageError(
                f"the regions of classes {sorted(one)} and {sorted(other)} overlap, neither within the other: "
                "expected_dice cannot decide between them; give the decision most_probable"
            )
    return families


def _threshold(share: Tensor) -> float:
    """The probability from which on voxels make a region of the largest expected Dice, which is half of that Dice."""
    number = round(1 / STEP)
    seen = share[share >= STEP].double()
    step = (seen * number).long().clamp(max=number)
    counts = step.bincount(minlength=number + 1).flip(0).cumsum(0)
    sums = step.bincount(seen, minlength=number + 1).flip(0).cumsum(0)
    return float((sums / (counts + sums[-1])).max())


def _assign(
    classes: Tensor,
    where: Tensor,
    family: frozenset[int],
    probability: Tensor,
    shares: Mapping[frozenset[int], Tensor],
    shown: AbstractSet[int],
) -> None:
    """Give the voxels ``where``, which are of ``family``, their classes, those of the regions within it first.

    Args:
        shares: region -> its probability.
        shown: the classes that are the most probable one somewhere.
    """
    within = [other for other in shares if other < family]
    largest = [other for other in within if not any(other < another for another in within)]
    rest = sorted(family.difference(*within))
    if rest:
        best = most_probable_class(probability[rest]).long()
        classes[where] = torch.tensor(rest, dtype=classes.dtype, device=classes.device)[best][where]
        largest = [other for other in largest if other & shown]
    if largest:
        stack = torch.stack([shares[other] / (_threshold(shares[other]) if rest else 1) for other in largest])
        chosen = most_probable_class(stack)
        for k, other in enumerate(largest):
            taken = where & (chosen == k) & ((stack[k] >= 1) | (not rest))
            _assign(classes, taken, other, probability, shares, shown)


DECISIONS: dict[str, Callable[[Tensor, Iterable[Sequence[int]]], Tensor]] = {
    "most_probable": lambda probability, regions: most_probable_class(probability),
    "expected_dice": largest_expected_dice,
}


class ProbabilitiesToLabels(Transform):
    """Probabilities (K, *spatial) -> the label map (1, *spatial), with the same transform history.

    Args:
        regions: region -> its classes, as ``{"wt": [1, 2, 3], "tc": [1, 3], "et": [3]}``.
        decision: of ``DECISIONS``; ``"most_probable"`` sees no regions.

    Raises:
        ValueError: no such decision.
        UsageError: regions that `largest_expected_dice` cannot decide between.
        WeightsError: when called, of probabilities that are no numbers.
    """

    def __init__(self, regions: Mapping[str, Sequence[int]], decision: str = "most_probable") -> None:
        if decision not in DECISIONS:
            raise ValueError(f"decision '{decision}' is not one of {', '.join(DECISIONS)}")
        self.regions = tuple(map(tuple, regions.values()))
        self.decide = DECISIONS[decision]
        if self.decide is largest_expected_dice:
            _nested(self.regions)

    def __call__(self, probability: Tensor) -> Tensor:
        if not torch.as_tensor(probability).as_subclass(Tensor).sum().isfinite():
            raise WeightsError(NOT_NUMBERS)
        classes = self.decide(probability, self.regions)[None]
        return convert_to_dst_type(classes, probability, dtype=classes.dtype)[0]


class ProbabilitiesToLabelsd(MapTransform):
    """Dictionary version of `ProbabilitiesToLabels`."""

    def __init__(
        self,
        keys: KeysCollection,
        regions: Mapping[str, Sequence[int]],
        decision: str = "most_probable",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.to_labels = ProbabilitiesToLabels(regions, decision)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.to_labels(item[key])
        return item
