"""JSON files against their schemas, which are shipped: an error is one line with the place in the file."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib import resources
from typing import Any

from monai_passion.errors import InputError

__all__ = ["check_schema", "fault"]

LONGEST = 160
"""Letters of what a message quotes."""


def check_schema(content: Any, name: str, source: object) -> None:
    """Refuse content that does not fit ``schemas/<name>.schema.json``.

    Args:
        content: parsed JSON.
        name: ``"task"``, ``"datalist"``, ``"grid"``, ``"run"``, ``"report"``, ``"settings"`` or ``"train_args"``.
        source: the file, for the message.

    Raises:
        InputError: with the place of the most telling fault, as ``modalities[1].name``.
    """
    if said := fault(content, name):
        raise InputError(f"{source}: {said}; correct the file")


def fault(content: Any, name: str) -> str | None:
    """The most telling fault of ``content`` by ``schemas/<name>.schema.json``, with its place."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator(name).iter_errors(content))
    if error is None:
        return None
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    said = error.message if len(error.message) <= LONGEST else f"... {error.message[-LONGEST:]}"
    return f"{place + ': ' if place else ''}{said}"


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    # The standard takes 2.0 for an integer, and Python's JSON NaN for a number, which is in any range.
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": lambda _, value: _is_number(value, int), "number": lambda _, value: _is_number(value, int | float)}
    )
    folder = resources.files("monai_passion") / "schemas"
    schema = json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8"))
    return extend(Draft202012Validator, type_checker=types)(schema)


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
