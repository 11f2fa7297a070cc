"""Settings of a run of a bundle, as ``KEY=VALUE``: what a value means, and whether the configuration knows the key."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

from monai_passion.errors import UsageError, did_you_mean
from monai_passion.system.files import read_json
from monai_passion.system.schemas import fault

__all__ = ["as_text", "check_ranges", "check_settings", "from_text", "read_config", "read_value"]

WORDS = {"true": True, "false": False, "none": None, "null": None}


def read_value(text: Any) -> Any:
    """JSON where it is JSON, such as 2, [1, 2] or null; true, false and none in any case; else the text."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return WORDS.get(text.lower(), text)


def as_text(text: str) -> str:
    """What a configuration takes as this very text: MONAI runs what begins with ``$`` or ``@``, and changes ``#``."""
    if text[:1] in ("$", "@", "%") or "#" in text:
        quoted = json.dumps(text, ensure_ascii=False)
        return "$" + "".join(rf"\x{ord(c):02x}" if c in "#@$%" else c for c in quoted)
    return text


def from_text(value: str) -> str:
    """The reverse of `as_text`."""
    return str(ast.literal_eval(value[1:])) if value.startswith("$") else value


def read_config(files: Sequence[Path]) -> dict[str, Any]:
    """The merged content of configuration files; later keys replace earlier ones, as in MONAI.

    Raises:
        InputError: a file that is missing or not JSON.
    """
    merged: dict[str, Any] = {}
    for path in files:
        merged |= read_json(path, "correct the path or the file")
    return merged


def check_settings(settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Check the settings of a run before it starts.

    Args:
        settings: key, ``#`` before each key or index within, as ``loss#beta`` -> value.
        config: from `read_config`.

    Raises:
        UsageError: a key that the configuration does not have, with the nearest one; text in place of a number or of
            true or false; a value out of range.
    """
    for name, value in settings.items():
        place: Any = config
        for depth, key in enumerate(parts := name.replace("::", "#").split("#")):
            known = _parts(place)
            if key not in known:
                known = {**_arguments(place), **known}
            if key not in known:
                within = f"{'#'.join(parts[:depth])} has no '{key}'" if depth else f"unknown setting '{key}'"
                raise UsageError(f"{within}{did_you_mean(key, known)}")
            place = known[key]
        is_number = isinstance(place, int | float) and not isinstance(place, bool)
        if is_number and isinstance(value, str) and value[:1] not in ("$", "@"):
            raise UsageError(f"the setting {name} is '{value}', not a number such as {place}")
        if isinstance(place, bool) and isinstance(value, str) and value[:1] not in ("$", "@"):
            raise UsageError(f"the setting {name} is '{value}'; give true or false")
    check_ranges({**config, **settings})


def check_ranges(settings: Mapping[str, Any]) -> None:
    """Check the values that ``schemas/settings.schema.json`` knows; expressions are left alone.

    Raises:
        UsageError: one that is out of range.
    """
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    plain = {name: v for name, v in plain.items() if not (isinstance(v, str) and v[:1] in ("$", "@", "%"))}
    if said := fault(plain, "settings"):
        raise UsageError(f"the setting {said}")
    modalities, rates = plain.get("modalities"), plain.get("degraded_rates")
    if isinstance(modalities, list) and isinstance(rates, list) and len(rates) != len(modalities):
        raise UsageError(
            f"degraded_rates has {len(rates)} values; give one for each of {', '.join(map(str, modalities))}"
        )
    classes, values = plain.get("num_classes"), plain.get("label_values")
    if classes is not None and isinstance(values, list) and len(values) != classes:
        raise UsageError(
            f"num_classes is {classes} and label_values has {len(values)}; leave both as the task has them"
        )
    task = plain.get("task")
    own = [label["value"] for label in task["classes"]] if isinstance(task, Mapping) and "classes" in task else values
    if values != own:
        raise UsageError(
            f"label_values is {values} where the task has {own}; leave it, and say by labels what files mean"
        )


def _parts(place: Any) -> dict[str, Any]:
    """What is within a part of a configuration, by key or index."""
    if isinstance(place, list):
        return {str(k): value for k, value in enumerate(place)}
    return place if isinstance(place, dict) else {}


def _arguments(place: Any) -> dict[str, Any]:
    """The arguments of the component that a part of a configuration makes, with their defaults."""
    target = place.get("_target_", "") if isinstance(place, dict) else ""
    component = locate(target) if "." in target else None
    if not callable(component):
        return {}
    return {name: argument.default for name, argument in inspect.signature(component).parameters.items()}
