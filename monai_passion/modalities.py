"""Names of the MRI modalities, their order, and the combinations of them that a patient may have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import combinations as choose

from monai_passion.errors import UsageError

__all__ = [
    "ALIASES",
    "BRATS_MRI",
    "MYOPS_CMR",
    "all_masks",
    "combination_mask",
    "combination_name",
    "combinations",
    "parse_combination",
    "resolve",
]

BRATS_MRI = ("flair", "t1c", "t1", "t2")
"""Brain tumour MRI, in the channel order of the published networks."""
MYOPS_CMR = ("bssfp", "lge", "t2")
"""Cardiac MR, in the channel order of the published networks."""

ALIASES = {
    "flair": ("fla", "flr", "t2f", "t2flair", "t2_flair", "t2-flair", "t2w_flair"),
    "t1c": ("t1ce", "t1gd", "t1_gd", "t1post", "t1_post", "t1w_ce", "t1_ce", "t1wce", "t1km", "ce_t1w"),
    "t1": ("t1n", "t1w", "t1pre", "t1_pre", "t1native"),
    "t2": ("t2w", "t2_tse"),
    "bssfp": ("c0", "cine"),
    "lge": ("de", "ge"),
}
"""Other names in use: BraTS releases, MSD, MyoPS, common scanner exports."""


def resolve(name: str, modalities: Sequence[str]) -> str:
    """The modality that ``name`` means, whatever its case or alias.

    Raises:
        UsageError: none of ``modalities`` goes by that name; the message suggests the nearest.
    """
    key = name.strip().lower()
    known = {alias: m for m in modalities for alias in (m, *ALIASES.get(m, ()))}
    if key in known:
        return known[key]
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean '{known[nearest[0]]}'?" if nearest else ""
    raise UsageError(f"unknown modality '{name}'; known are {', '.join(modalities)}{hint}")


def combinations(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """All 2^M - 1 non-empty subsets, fewest modalities first, each in channel order."""
    return [subset for size in range(1, len(modalities) + 1) for subset in choose(modalities, size)]


def all_masks(modalities: Sequence[str]) -> list[tuple[bool, ...]]:
    """`combinations` as masks of one bool a modality, in the same order."""
    return [combination_mask(combination, modalities) for combination in combinations(modalities)]


def combination_mask(combination: Iterable[str], modalities: Sequence[str]) -> tuple[bool, ...]:
    """One bool a modality, in channel order."""
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
