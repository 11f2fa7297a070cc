"""The help of the commands, from their docstrings, and fire's script for tab completion."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from monai_passion import NOTICE
from monai_passion.cli.words import SHORT, Command, Flag, flags_of, is_many

__all__ = ["help_text"]

GLOBAL = (
    ("--version", "print the version"),
    ("--debug", "show the traceback of an error"),
    ("-- --completion", "print a script for tab completion in bash (in fish: -- --completion fish)"),
)
"""Global flags of the program."""


def help_text(path: Sequence[str], command: Command | Mapping[str, Any]) -> str:
    """The text of ``--help``: for a command its summary and examples first, for a group its commands."""
    called = " ".join(path)
    if isinstance(command, Mapping):
        rows = [row for name, part in command.items() for row in _summaries(name, part)]
        parts = [f"{called}: segmentation of multi-modal MRI with missing sequences"]
        parts += [f"Usage: {called} COMMAND ...", _table("Commands:", rows)]
        if len(path) == 1:
            parts.append(_table("Flags:", GLOBAL))
        return "\n\n".join([*parts, f"{called} COMMAND --help says more. {NOTICE}"])
    from fire import docstrings

    doc = docstrings.parse(inspect.getdoc(command) or "")
    flags = flags_of(command)
    free = [flag for flag in flags if flag.positional]
    named = [flag for flag in flags if not flag.positional]
    usage = [flag.shown if flag.required else f"[{flag.shown}]" for flag in free]
    usage += [f"{flag.text} {_value(flag)}" for flag in named if flag.required]
    usage += ["[FLAGS]"] * any(not flag.required for flag in named)
    parts = [f"{called}: {doc.summary}", doc.description or "", f"Usage: {' '.join([*path, *usage])}"]
    parts.append(_table("Arguments:", [(flag.shown, _choices(flag) + _about(flag)) for flag in free]))
    parts.append(_table("Flags:", [(_typed(flag), _about(flag)) for flag in named if flag.about]))
    return "\n\n".join([*filter(None, parts), NOTICE])


def _summaries(name: str, command: Any) -> list[tuple[str, str]]:
    """The command, or each of a group, with its first sentence."""
    if isinstance(command, Mapping):
        return [row for part in command for row in _summaries(f"{name} {part}", command[part])]
    return [(name, (inspect.getdoc(command) or "").splitlines()[0].rstrip("."))]


def _typed(flag: Flag) -> str:
    short = next((f"{key}, " for key, name in SHORT.items() if name == flag.name), "")
    text = f"--no-{flag.text[2:]}" if flag.default is True else flag.text
    return f"{short}{text} {_value(flag)}".rstrip()


def _value(flag: Flag) -> str:
    """What stands for the value in the help."""
    kind = flag.kind
    if kind is bool:
        return ""
    if get_origin(kind) in (Union, UnionType):
        kind = next((part for part in get_args(kind) if is_many(part)), get_args(kind)[0])
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    if get_origin(kind) is Mapping:
        return "KEY=VALUE ..."
    if get_origin(kind) is Sequence:
        return f"{_value(flag._replace(kind=get_args(kind)[0]))} ..."
    if get_origin(kind) is tuple:
        return " ".join(_value(flag._replace(kind=part)) for part in get_args(kind))
    return {int: "N", float: "X", str: "TEXT"}.get(kind, "PATH")


def _choices(flag: Flag) -> str:
    return f"{_value(flag)}: " if get_origin(flag.kind) is Literal else ""


def _about(flag: Flag) -> str:
    about, default = flag.about.rstrip("."), flag.default
    if default is True:  # the flag is --no-...
        return f"do not {about}"
    if flag.required or default is None or isinstance(default, bool) or default == ():
        return about
    return f"{about} (default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    if not rows:
        return ""
    width = min(max(len(left) for left, _ in rows), 28)
    lines = [title]
    for left, right in rows:
        text = textwrap.wrap(right, max(shutil.get_terminal_size((100, 24)).columns - width - 4, 40)) or [""]
        if len(left) > width:
            lines.append(f"  {left}")
            left = ""
        lines.append(f"  {left:<{width}}  {text[0]}".rstrip())
        lines += [f"  {'':<{width}}  {line}" for line in text[1:]]
    return "\n".join(lines)
