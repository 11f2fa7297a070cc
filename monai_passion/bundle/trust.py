"""A bundle's configuration is a program: only those of this package run unasked.

``_target_`` names any callable and ``$`` runs any expression, so a list of harmless targets would not suffice: MONAI's
own can read, write and start things. Here a configuration must be one that `monai_passion.bundle.materialize` made.
Only plain values, which cannot form a program, may differ: numbers anywhere, and text in the settings at its top level.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_passion.errors import UsageError

__all__ = ["KNOWN", "RUN", "check_trusted", "is_plain", "program_digest"]

KNOWN = Path(__file__).with_name("known_bundles.json")
"""Bundle and configuration -> `program_digest`; written by ``make bundles``."""
RUN = ("inference", "train", "evaluate")
"""The configurations that commands run."""


def check_trusted(*bundles: Path, config: str = "inference") -> None:
    """Refuse bundles that would run another program than this package's own.

    Args:
        bundles: their folders.
        config: which of `RUN` is about to run.

    Raises:
        UsageError: a bundle is not one of this package, or was changed.
    """
    for path in (bundle / "configs" / f"{config}.json" for bundle in bundles):
        try:
            known = program_digest(json.loads(path.read_text(encoding="utf-8"))) in _known()
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path} cannot be read ({error}); is the bundle complete?") from error
        if not known:
            raise UsageError(
                f"{path} is not a bundle of this version, or was changed, and a configuration can run any program; "
                "read it, and if you trust where it comes from, add --trust"
            )


def program_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of what a configuration runs: all of it without numbers and without the plain values at its top level."""
    program = {key: None if is_plain(value) else _without_numbers(value) for key, value in config.items()}
    return hashlib.sha256(json.dumps(program, sort_keys=True).encode()).hexdigest()


def is_plain(value: Any) -> bool:
    """Whether MONAI's parser can only take ``value`` as it stands: no reference, expression, macro or component."""
    if isinstance(value, str):
        return not re.search("[$@%]", value)
    if isinstance(value, Mapping):
        return all(re.fullmatch(r"[A-Za-z][\w +-]*", str(key)) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float)


def _without_numbers(value: Any) -> Any:
    """Numbers, and lists of nothing else, become None."""
    if isinstance(value, dict):
        return {key: _without_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [_without_numbers(item) for item in value]
        return items if any(item is not None for item in items) else None
    return value if isinstance(value, str) else None


@functools.cache
def _known() -> frozenset[str]:
    return frozenset(json.loads(KNOWN.read_text(encoding="utf-8")).values())
