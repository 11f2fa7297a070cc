"""Checks of the arguments of ``python -m monai.bundle run``: unknown settings and mangled paths.

MONAI silently adds an unknown setting to the configuration, and fire, which reads its command line, turns text that
looks like a Python value into one: ``2024`` into a number, ``a,b`` into a tuple, ``a#1`` into ``a``.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from monai_passion.bundle.settings import as_text, check_ranges
from monai_passion.errors import UsageError, did_you_mean
from monai_passion.system.devices import usable_device

__all__ = ["check_arguments", "setting_flag"]

PATHS = ("dataset_dir", "datalist", "presence", "ckpt_dir", "output_dir", "weights", "teacher_weights", "cache_dir")
"""Settings whose text must stay text."""


def check_arguments(argv: Sequence[str]) -> None:
    """Refuse a mistyped setting or a path that would be misread; arguments of other programs are left alone.

    Args:
        argv: as ``sys.argv``.

    Raises:
        UsageError: an unknown setting (the message names the nearest), one out of range, a path that must be written
            otherwise, or a device that the machine does not have.
    """
    words = argv[1:]
    if not _is_monais(argv) or words[:1] != ["run"]:
        return
    from monai.bundle import ConfigParser, run

    typed = list(_typed(words))
    given = dict(typed)
    own = set(inspect.signature(run).parameters)
    filed = _arguments_file(_value(given.get("args_file")))
    files = _value(given.get("config_file")) or filed.get("config_file")
    if files is None:
        return
    known = ConfigParser.load_config_files([files] if isinstance(files, str) else list(files))
    parser = ConfigParser(known)
    for name in {**filed, **given}:
        outer = name.rpartition("#")[0]
        if name in own or name in known or (outer and outer in parser):
            continue
        first = name.split("#")[0]
        hint = did_you_mean(first, [*known, *own]) if first not in known else ""
        raise UsageError(f"no configuration has a setting '{name}'{hint or '; see the top of the configuration file'}")
    for name, text in typed:
        if name in PATHS and text is not None:
            _check_path(name, text)
    check_ranges({**known, **filed, **{name: _value(text) for name, text in typed if text is not None}})
    if isinstance(device := given.get("device", filed.get("device")), str) and not device.startswith("$"):
        usable_device(device)


def _arguments_file(path: Any) -> dict[str, Any]:
    """What ``--args_file`` holds; nothing where there is none, or MONAI will say what is wrong with it."""
    from monai.bundle import ConfigParser

    try:
        return dict(ConfigParser.load_config_file(path)) if isinstance(path, str) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _is_monais(argv: Sequence[str]) -> bool:
    return bool(argv) and argv[0].replace("\\", "/").endswith("monai/bundle/__main__.py")


def setting_flag(name: str, text: str) -> str:
    """How to give the running program a setting: a flag of MONAI's command, or ``--set`` of ``monai-passion``."""
    value = text if text.isidentifier() else f"'{text}'"
    return f"--{name} {value}" if _is_monais(sys.argv) else f"--set {name}={value}"


def _check_path(name: str, text: str) -> None:
    if text.startswith(('$"', "$'")):  # an expression that is text
        return
    if "#" in text:
        raise UsageError(f"--{name} {text}: MONAI changes # in text; give --{name} {shlex.quote(as_text(text))}")
    if text[:1] in ("@", "$", "%"):
        raise UsageError(f"--{name} {text}: MONAI takes {text[0]} for the start of an expression; give ./{text}")
    read = _value(text)
    if name == "datalist" and isinstance(read, list | tuple) and text.startswith(("[", "(")):
        return  # `monai_passion.bundle.steps.inference_data` takes a list of items
    if read is not None and not isinstance(read, str):
        raise UsageError(
            f"--{name} {text} is read as {read!r}, not as text; put it in two kinds of quotes: --{name} \"'{text}'\""
        )


def _typed(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Name and text of each flag, as fire takes them."""
    for k, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            name, equals, text = word[2:].partition("=")
            following = words[k + 1] if k + 1 < len(words) and not words[k + 1].startswith("--") else None
            yield name.replace("-", "_"), text if equals else following


def _value(text: str | None) -> Any:
    """What fire makes of a word."""
    from fire.parser import DefaultParseValue

    return None if text is None else DefaultParseValue(text)
