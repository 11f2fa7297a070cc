"""The modalities that each patient has: drawn from missing rates before training, or read from a table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monai_passion.data.seeds import check_seed
from monai_passion.data.tables import read_table
from monai_passion.errors import InputError, UsageError
from monai_passion.modalities import combination_mask, combinations, resolve
from monai_passion.system.files import write_text
from monai_passion.tasks import load_task, task_names

__all__ = [
    "Presence",
    "draw_presence",
    "named_rates",
    "parse_missing_rates",
    "plain_case_name",
    "read_presence",
    "write_presence",
]

Rates = Sequence[float] | Mapping[str, float]


class Presence(NamedTuple):
    """Which case has which modality (C in the paper)."""

    cases: tuple[str, ...]
    modalities: tuple[str, ...]
    table: NDArray[np.bool_]
    """(N, M); no row is all False."""


def plain_case_name(name: str) -> str:
    """A case's name as on disk, without the grade (``HG_`` or ``LG_``) that the published lists put before it."""
    return re.sub(r"^(HG|LG)_", "", name.strip())


def parse_missing_rates(rates: Rates, modalities: Sequence[str]) -> tuple[float, ...]:
    """One missing rate per modality, in channel order, from a list in that order or from name -> rate.

    Raises:
        UsageError: not one number in [0, 1) for each modality.
    """
    names = f"{len(modalities)} modalities {tuple(modalities)}"
    if isinstance(rates, Mapping):
        named = {resolve(name, modalities): rate for name, rate in rates.items()}
        if absent := [m for m in modalities if m not in named]:
            raise UsageError(f"missing_rates has no rate for {', '.join(absent)}; give one rate in [0, 1) per modality")
        rates = [named[m] for m in modalities]
    if isinstance(rates, str) or not isinstance(rates, Sequence) or len(rates) != len(modalities):
        found = len(rates) if isinstance(rates, Sequence) and not isinstance(rates, str) else repr(rates)
        raise UsageError(f"missing_rates has {found} values for {names}; give one rate in [0, 1) per modality")
    for name, rate in zip(modalities, rates, strict=True):
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise UsageError(f"missing rate {rate!r} of {name} is not in [0, 1); give one rate in [0, 1) per modality")
    return tuple(float(rate) for rate in rates)


def named_rates(rates: Any, modalities: Sequence[str]) -> dict[str, Any]:
    """Modality -> rate, or group -> modality -> rate, however they were written.

    Raises:
        UsageError: see `parse_missing_rates`.
    """
    if isinstance(rates, Mapping) and not all(isinstance(rate, int | float) for rate in rates.values()):
        return {group: named_rates(own, modalities) for group, own in rates.items()}
    return dict(zip(modalities, parse_missing_rates(rates, modalities), strict=True))


def draw_presence(
    num_samples: int,
    missing_rates: Rates | Mapping[str, Rates],
    seed: int = 0,
    *,
    groups: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    have: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """A presence matrix whose combinations are as frequent as independent missing rates make them.

    The expected number of cases with a combination S is N times the product of (1 - rate) over the modalities in S and
    of the rate over the others, divided by the probability of having any modality. These numbers are rounded by largest
    remainder, then changed as little as needed for every modality to occur. A permutation drawn from the seed assigns
    the combinations to cases. So chance decides which patients lack a modality, not how many.

    Args:
        num_samples: N.
        missing_rates: one rate in [0, 1) per modality; or group -> rates, for cohorts whose sites or grades differ.
        seed: of the permutation.
        groups: the group of each case, where ``missing_rates`` has groups.
        modalities: their names; by default those of ``missing_rates``, else numbers.
        have: (N, M) bool, the existing files of each case, at least one; by default all. If the draw leaves a case with
            none of its files, it is drawn again among the combinations of its files, so that missing files follow the
            rates given that one is left.

    Returns:
        (N, M) bool, within ``have``; no row is all False, nor is the column of a modality that some case has.

    Raises:
        UsageError: invalid rates, groups without rates, or rates under which a modality occurs in fewer than
            half a case of N.
    """
    if num_samples < 1:
        raise UsageError(f"{num_samples} cases to draw a presence matrix for; give at least one")
    by_group: Mapping[str, Any] = {"": missing_rates}
    members = {"": np.arange(num_samples)}
    if isinstance(missing_rates, Mapping) and not all(isinstance(r, int | float) for r in missing_rates.values()):
        by_group = missing_rates
        names = np.asarray(groups if groups is not None else [""] * num_samples, dtype=object)
        if len(names) != num_samples:
            raise UsageError(f"{len(names)} groups for {num_samples} cases; give one group per case")
        if unknown := sorted({str(name) for name in names} - set(by_group)):
            raise UsageError(
                f"missing_rates has no rates for the group(s) {', '.join(map(repr, unknown))}, only for "
                f"{', '.join(map(repr, by_group))}; give rates for every group"
            )
        members = {str(group): np.flatnonzero(names == group) for group in dict.fromkeys(names)}

    modalities = _modalities(modalities, next(iter(by_group.values())))
    masks = np.array([combination_mask(c, modalities) for c in combinations(modalities)])
    have = np.ones((num_samples, len(modalities)), dtype=bool) if have is None else have
    rates = np.array([parse_missing_rates(by_group[group], modalities) for group in members])
    chance = np.where(masks, 1 - rates[:, None], rates[:, None]).prod(axis=-1)
    sizes = np.array([len(rows) for rows in members.values()])
    expected = sizes[:, None] * chance / chance.sum(axis=1, keepdims=True)
    counts = _round(expected)
    for m, name in enumerate(modalities):
        likely = float(expected.sum(axis=0) @ masks[:, m])
        if have[:, m].any() and (likely < 0.5 or not _include(counts, expected, masks, m)):
            raise UsageError(
                f"missing_rates leave {name} to {likely:.2g} of {num_samples} cases (rate {rates[:, m].min():g}); "
                f"lower its rate or take more cases"
            )
    check_seed(seed)
    rng = np.random.default_rng(seed)
    table = np.zeros((num_samples, len(modalities)), dtype=bool)
    for rows, count in zip(members.values(), counts, strict=True):
        table[rows] = rng.permutation(np.repeat(masks, count, axis=0))
    if have.all():
        return table
    table &= have
    for rows, chances in zip(members.values(), chance, strict=True):
        for case in rows[~table[rows].any(axis=1)]:
            within = chances * ~(masks & ~have[case]).any(axis=1)
            # Where the rates allow nothing of what a case has, as it lacks a modality of rate 0, it keeps all.
            table[case] = rng.choice(masks, p=within / within.sum()) if within.any() else have[case]
    for lost in np.flatnonzero(have.any(axis=0) & ~table.any(axis=0)):
        table[rng.choice(np.flatnonzero(have[:, lost])), lost] = True
    return table


def _modalities(modalities: Sequence[str] | None, rates: Rates) -> Sequence[str]:
    if modalities is not None:
        return modalities
    if isinstance(rates, Mapping):
        return tuple(rates)
    if not isinstance(rates, Sequence) or isinstance(rates, str) or not rates:
        raise UsageError(f"missing_rates is {rates!r}; give one rate in [0, 1) per modality")
    return [f"modality{m}" for m in range(len(rates))]


def _round(expected: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers with the sum of each row kept, by largest remainder; of equal ones the likelier goes first."""
    counts = np.floor(expected + 1e-9).astype(np.int64)
    for row, share in zip(counts, expected, strict=True):
        remainder = np.round(share - row, 9)
        row[np.lexsort((-share, -remainder))[: round(share.sum()) - row.sum()]] += 1
    return counts


def _include(counts: NDArray[np.int64], expected: NDArray[np.float64], masks: NDArray[np.bool_], m: int) -> bool:
    """See to it that modality m occurs: where it does not, move one case to a combination with it, where that changes
    the counts' distance from the expected ones least and takes no other modality away. False where none can be moved.
    """
    cases = counts.sum(axis=0) @ masks
    if cases[m]:
        return True
    best: tuple[float, int, int, int] | None = None
    for group, (count, share) in enumerate(zip(counts, expected, strict=True)):
        for a, b in permutations(range(len(masks)), 2):
            spared = (cases == 0) | (cases - masks[a] + masks[b].astype(int) > 0)
            if count[a] and masks[b, m] and share[b] and spared.all():
                harm = (count[b] - share[b]) - (count[a] - share[a])  # half the change of the squared distance
                best = min(best or (np.inf, 0, 0, 0), (round(float(harm), 9), group, a, b))
    if best is not None:
        _, group, a, b = best
        counts[group, a] -= 1
        counts[group, b] += 1
    return best is not None


def write_presence(path: str | os.PathLike[str], presence: Presence) -> None:
    """A CSV file with the columns ``case`` and one per modality, of 0 and 1."""
    table = pd.DataFrame(presence.table.astype(int), columns=list(presence.modalities))
    table.insert(0, "case", list(presence.cases))
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_presence(path: str | os.PathLike[str], modalities: Sequence[str] | None = None) -> Presence:
    """A table of `write_presence`, or one as published with the paper.

    The published ones have the columns ``data_name`` and ``mask``, a list in the order flair, t1c, t1, t2 or bssfp,
    lge, t2; their names lose the ``HG_`` or ``LG_`` before them.

    Args:
        path: a CSV file.
        modalities: the order of the columns that is wanted; by default that of the file.

    Raises:
        InputError: not such a table, a case twice or without any modality, or other modalities than asked for.
    """
    path = Path(path)
    frame = read_table(path)
    frame = frame.rename(columns={name: name.lower() for name in frame.columns if name.lower() == "case"})
    if {"data_name", "mask"} <= set(frame.columns):
        cases, found, rows = _published(path, frame)
    elif "case" in frame.columns and len(frame.columns) > 1:
        columns = [name for name in frame.columns if name != "case"]
        try:
            found = tuple(resolve(name, modalities or _order_of(columns)) for name in columns)
        except UsageError as error:
            raise InputError(f"{path}: {error}") from error
        cases, rows = [name.strip() for name in frame["case"]], frame[columns].to_numpy().tolist()
    else:
        raise InputError(f"{path} has the columns {', '.join(frame.columns)}; expected case and one per modality")
    for case, row in zip(cases, rows, strict=True):
        if not set(row) <= {"0", "1"} or "1" not in row:
            raise InputError(f"{path}: {case} has {', '.join(row)}; give 0 or 1 per modality, and at least one 1")
    if len(set(cases)) != len(cases) or not cases:
        twice = next((case for case in cases if cases.count(case) > 1), None)
        raise InputError(f"{path} names {twice} twice; keep one row per case" if twice else f"{path} has no rows")
    table = np.array(rows) == "1"
    if modalities is not None:
        if set(found) != set(modalities) or len(found) != len(modalities):
            raise InputError(f"{path} is about {', '.join(found)}; expected {', '.join(modalities)}")
        table, found = table[:, [found.index(m) for m in modalities]], tuple(modalities)
    return Presence(tuple(cases), found, table)


def _order_of(columns: Sequence[str]) -> Sequence[str]:
    """The modalities of the task of this package that has all the columns, by any of their names; else the columns."""
    for order in _orders():
        try:
            if len({resolve(name, order) for name in columns}) == len(columns):
                return order
        except UsageError:
            continue
    return [name.strip().lower() for name in columns]


def _published(path: Path, frame: pd.DataFrame) -> tuple[list[str], tuple[str, ...], list[list[str]]]:
    rows = [["1" if flag == "True" else "0" for flag in re.findall("True|False", mask)] for mask in frame["mask"]]
    order = {len(known): known for known in _orders()}.get(len(rows[0]) if rows else 0)
    if order is None or {len(row) for row in rows} != {len(order)}:
        raise InputError(f"{path}: its masks are not lists of 4 (brain) or 3 (heart) values True or False")
    return [plain_case_name(name) for name in frame["data_name"]], order, rows


def _orders() -> list[tuple[str, ...]]:
    """The channel orders of this package's tasks, which the published tables have."""
    return [load_task(name).modality_names for name in task_names()]
