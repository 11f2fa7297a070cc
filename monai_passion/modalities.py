"""Names of the MRI modalities, their order, and the combinations of them that a patient may have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations as choose

from monai_passion.errors import UsageError
from monai_passion.tasks import find_alias, known_aliases

__all__ = [
    "all_masks",
    "combination_mask",
    "combination_name",
    "combinations",
    "parse_combination",
    "resolve",
]


def resolve(name: str, modalities: Sequence[str]) -> str:
    """The modality that ``name`` means, as a name or alias in any case.

    Raises:
        UsageError: none of ``modalities`` has that name; the message suggests the nearest.
    """
    known = {alias: m for m in modalities for alias in (m, *known_aliases().get(m, ()))}
    return find_alias(name, known, f"known are {', '.join(modalities)}")


def combinations(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """All 2^M - 1 non-empty subsets, fewest modalities first, each in channel order."""
    return [subset for size in range(1, len(modalities) + 1) for subset in choose(modalities, size)]


def all_masks(modalities: Sequence[str]) -> list[tuple[bool, ...]]:
    """`combinations` as masks of one bool per modality, in the same order."""
    return [combination_mask(combination, modalities) for combination in combinations(modalities)]


def combination_mask(combination: Iterable[str], modalities: Sequence[str]) -> tuple[bool, ...]:
    """One bool per modality, in channel order."""
    chosen = {resolve(name, modalities) for name in combination}
    return tuple(m in chosen for m in modalities)


def combination_name(mask: Iterable[bool], modalities: Sequence[str]) -> str:
    """``"flair+t1"`` for the modalities whose flag is set."""
    return "+".join(m for m, kept in zip(modalities, mask, strict=True) if kept)


def parse_combination(text: str, modalities: Sequence[str]) -> tuple[str, ...]:
    """``"T1+flair"`` -> ``("flair", "t1")``: aliases resolved, channel order.

    Raises:
        UsageError: an unknown, repeated or missing name.
    """
    names = [resolve(part, modalities) for part in text.split("+") if part.strip()]
    if not names or len(set(names)) != len(names):
        raise UsageError(
            f"'{text}' is not a combination; join different modalities by '+', as in '{modalities[0]}+{modalities[-1]}'"
        )
    return tuple(m for m in modalities if m in names)
