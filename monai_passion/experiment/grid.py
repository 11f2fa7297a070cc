"""A grid of experiments: a small JSON -> its cells, each the training and evaluation of one bundle.

Keys of the JSON, all but ``axes`` optional:

=============  ========================================================================================================
title          what it is, in words
table          number of the paper's table whose layout the report takes
extends        name of a grid beside it, whose keys this one replaces
bundle         folder below ``bundles/``
configs        fragments below ``configs/``, without ``.json``, merged in this order after the bundle's own
overrides      single values, as MONAI's command line takes them: ``{"epochs": 24, "loss#beta": false}``
axes           axis -> choice -> what it adds; a cell is one choice of every axis. A choice is a fragment, a list of
               them, or an object with ``bundle``, ``configs``, ``overrides`` and ``presence`` (a table's file name)
exclude        list of ``{axis: choice or choices}``; cells that match one of them are left out
seeds          default ``[0]``
=============  ========================================================================================================

The axes ``setting``, ``backbone`` and ``method`` are those of the paper's tables. Fragments below ``methods/`` and
``missing/`` say how to train; an evaluation goes without them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from monai_passion.errors import InputError, UsageError, did_you_mean
from monai_passion.system.files import PathLike, read_json
from monai_passion.system.resources import resource_folder
from monai_passion.system.schemas import check_schema

__all__ = ["TRAINING_ONLY", "Cell", "expand", "find_grid", "load_grid"]

TRAINING_ONLY = ("methods/", "missing/")
"""Fragments that do not affect the evaluation; neither do those that change keys of ``train``."""


class Cell(NamedTuple):
    """One run.

    Attributes:
        name: its folder.
        position: of this choice in the grid, from 0.
        label: its method in a report: the choices of all axes that have more than one. Seeds share it.
        row: axis -> choice.
        bundle, configs, overrides, presence: see the module.
        seed: of everything random.
    """

    name: str
    position: int
    label: str
    row: dict[str, str]
    bundle: str
    configs: tuple[str, ...]
    overrides: dict[str, Any]
    presence: str | None
    seed: int


def find_grid(grid: PathLike) -> Path:
    """A grid by the path of its file, or by the name of one that comes with the package, such as ``table3``.

    Raises:
        UsageError: it is neither.
    """
    path, shipped = Path(grid), resource_folder("configs") / "experiments"
    if path.is_file():
        return path
    own = shipped / f"{path.stem}.json"
    if str(grid) in (path.stem, f"configs/experiments/{own.name}") and own.is_file():
        return own
    known = sorted(one.stem for one in shipped.glob("*.json"))
    raise UsageError(
        f"no grid {grid}; give the path of one, or one of {', '.join(known)}{did_you_mean(path.stem, known)}"
    )


def load_grid(path: Path) -> dict[str, Any]:
    """Read a grid; keys that it lacks come from the grid that it extends.

    Raises:
        InputError: it is not a JSON object, has unknown keys, or extends itself.
    """
    return _load_grid(path, ())


def _load_grid(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    if path in extended_by:
        raise InputError(
            f"{path} extends itself ({' -> '.join(p.stem for p in (*extended_by, path))}); correct one of them"
        )
    grid: dict[str, Any] = read_json(path, f"correct it, or give a grid such as {path.parent}/table3.json")
    check_schema(grid, "grid", path)
    if "extends" in grid:
        return {**_load_grid(path.with_name(f"{grid.pop('extends')}.json"), (*extended_by, path)), **grid}
    return grid


def expand(grid: Mapping[str, Any], source: str = "the grid") -> list[Cell]:
    """All cells of a grid, the seeds of one choice together, in the order of the axes.

    Args:
        grid: of `load_grid`.
        source: names it in errors.

    Raises:
        InputError: no axes, no bundle, two cells with the same name, or no cell.
    """
    axes = grid.get("axes")
    if not axes:
        raise InputError(f"{source} has no axes; add some, such as {{'method': {{'PMR': 'methods/pmr'}}}}")
    excluded = [_condition(c, axes, source) for c in grid.get("exclude", [])]
    cells = []
    for position, names in enumerate(product(*axes.values())):
        row = dict(zip(axes, names, strict=True))
        if any(all(row[axis] in choices for axis, choices in c.items()) for c in excluded):
            continue
        bundle, presence = grid.get("bundle"), None
        configs, overrides = list(grid.get("configs", [])), dict(grid.get("overrides", {}))
        for axis, name in row.items():
            choice = _choice(axes[axis][name])
            bundle, presence = choice.get("bundle", bundle), choice.get("presence", presence)
            configs += choice.get("configs", [])
            overrides |= choice.get("overrides", {})
        if not bundle:
            raise InputError(f"{source}: no bundle for {', '.join(names)}; add the key bundle")
        label = " ".join(name for axis, name in row.items() if len(axes[axis]) > 1) or names[-1]
        for seed in grid.get("seeds", [0]):
            folder = "-".join([*map(_slug, names), f"seed{seed}"])
            cells.append(Cell(folder, position, label, row, bundle, tuple(configs), overrides, presence, seed))
    if not cells:
        raise InputError(f"{source}: exclude leaves no cell; take one out of it")
    twice = {cell.name for cell in cells if sum(other.name == cell.name for other in cells) > 1}
    if twice:
        raise InputError(f"{source}: two cells would share the folder {min(twice)}; rename one of their choices")
    return cells


def _choice(value: Any) -> dict[str, Any]:
    """A choice, however it is written, as an object with a list of fragments."""
    choice: dict[str, Any] = {"configs": value} if isinstance(value, str | list) else value
    configs = choice.get("configs", [])
    return {**choice, "configs": [configs] if isinstance(configs, str) else configs}


def _condition(value: Mapping[str, Any], axes: Mapping[str, Any], source: str) -> dict[str, list[str]]:
    condition = {axis: [names] if isinstance(names, str) else list(names) for axis, names in value.items()}
    for axis, names in condition.items():
        if axis not in axes or (unknown := [name for name in names if name not in axes[axis]]):
            what = f"axis {axis}" if axis not in axes else f"{axis} {unknown[0]}"
            raise InputError(f"{source}: exclude names an unknown {what}; correct it")
    return condition


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    if not slug:
        raise UsageError(f"the choice '{name}' has no letters or digits to name a folder with; rename it")
    return slug
