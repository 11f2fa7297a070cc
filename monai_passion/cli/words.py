"""The words of a command line, read by the signature of the command."""

from __future__ import annotations

import inspect
import os
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from monai_passion.errors import UsageError, did_you_mean

__all__ = ["SHORT", "Command", "Flag", "convert", "flags_of", "is_many", "read_words"]

SHORT = {"-o": "output", "-i": "input"}
"""Short flags. If a function has no ``input``, ``-i`` is its first argument."""
MANY = (Sequence, tuple, Mapping)

Command = Callable[..., Any]


class Flag(NamedTuple):
    """A parameter of a command."""

    name: str
    kind: Any
    """Its type, without None."""
    default: Any
    """`inspect.Parameter.empty` if a value must be given."""
    positional: bool
    about: str = ""

    @property
    def text(self) -> str:
        """The flag as it is typed."""
        return "--" + self.name.replace("_", "-")

    @property
    def shown(self) -> str:
        """The name of the flag in the help."""
        return self.name.upper() + "..." * (is_many(self.kind) is Sequence) if self.positional else self.text

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


def flags_of(command: Command, bundle: str | None = None) -> list[Flag]:
    """The parameters of a command; for ``**modalities``, those that ``command.names(bundle)`` knows."""
    from fire import docstrings

    annotations = {name: kind for name, kind in command.__annotations__.items() if name != "return"}
    types = typing.get_type_hints(SimpleNamespace(__annotations__=annotations), command.__globals__)
    about = {arg.name: arg.description or "" for arg in docstrings.parse(inspect.getdoc(command) or "").args or ()}
    flags, extra = [], []
    for p in inspect.signature(command).parameters.values():
        kind = _plain(types[p.name])
        if p.kind is p.VAR_KEYWORD:
            names: Mapping[str, str] = command.names(bundle)  # type: ignore[attr-defined]
            extra = [Flag(name, kind, None, False, text) for name, text in names.items()]
        else:
            flags.append(Flag(p.name, kind, p.default, p.kind is p.POSITIONAL_OR_KEYWORD, about.get(p.name, "")))
    first = [flag for flag in flags if flag.positional or flag.required]
    return [*first, *extra, *(flag for flag in flags if flag not in first)]


def _plain(kind: Any) -> Any:
    """A type without None, and a path that may be given as text as a path."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    parts = [part for part in get_args(kind) if part is not NoneType]
    if any(get_origin(part) is os.PathLike for part in parts):
        return Path
    return Union[tuple(parts)]  # noqa: UP007 (they are known only here)


def is_many(kind: Any) -> Any:
    """`Sequence`, `tuple` or `Mapping`, if a type is one of them or may be; else None."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return next((get_origin(part) for part in get_args(kind) if get_origin(part) in MANY), None)
    return origin if origin in MANY else None


def read_words(command: Command, words: Sequence[str], called: str) -> dict[str, list[str]]:
    """The words that each parameter of a command gets, after all of them are checked.

    Raises:
        UsageError: an unknown flag (the message suggests the nearest), a flag that is given twice or without its value,
            a value of another type, too many arguments, or a missing one.
    """
    flags = {flag.name: flag for flag in flags_of(command, _bundle(words))}
    free = [flag for flag in flags.values() if flag.positional]
    given: dict[str, list[str]] = {}
    left = list(words)
    try:
        while left:
            word = left.pop(0)
            if _is_flag(word):
                text, equals, value = word.partition("=")
                flag = _known(text, flags, free)
                texts = [value] if equals else _take(flag, left)
            elif waiting := [flag for flag in free if flag.name not in given or is_many(flag.kind) is Sequence]:
                flag, texts = waiting[0], [word]
            else:
                raise UsageError(f"unexpected argument {word}")
            if "" in texts:  # as of a variable of the shell that is not set; as a path it would be this folder
                raise UsageError(f"{flag.text} is empty; give a value, or leave it out")
            if flag.name in given and is_many(flag.kind) not in (Sequence, Mapping):
                raise UsageError(f"{flag.text} is given twice ({given[flag.name][0]}, {texts[0]}); choose one")
            given[flag.name] = [*given.get(flag.name, ()), *texts]
        for name, texts in given.items():
            convert(flags[name].kind, texts, flags[name].shown)
        if missing := [flag.shown for flag in flags.values() if flag.required and flag.name not in given]:
            raise UsageError(f"{' and '.join(missing)} must be given")
    except UsageError as error:
        end = "" if str(error).endswith("?") else ";"
        raise UsageError(f"{error}{end} see {called} --help") from error
    return given


def _bundle(words: Sequence[str]) -> str | None:
    """What follows ``--bundle``, on which depends what flags there are."""
    text = "\n".join(words)
    found = re.search(r"^--bundle[=\n](.*)$", text, re.MULTILINE)
    return found[1] if found else None


def _is_flag(word: str) -> bool:
    return bool(re.match(r"--?[a-zA-Z]", word))


def _known(text: str, flags: Mapping[str, Flag], free: Sequence[Flag]) -> Flag:
    name = SHORT.get(text, text.removeprefix("--").replace("-", "_"))
    if text == "-i" and "input" not in flags and free:
        name = free[0].name
    if name.startswith("no_") and name[3:] in flags and flags[name[3:]].kind is bool:
        return flags[name[3:]]._replace(kind=_No)
    if name not in flags or (not text.startswith("--") and text not in SHORT):
        raise UsageError(f"unknown argument {text}{did_you_mean(text, [flag.text for flag in flags.values()])}")
    return flags[name]


class _No:
    """The kind of ``--no-page``, which says that ``page`` is False."""


def _take(flag: Flag, left: list[str]) -> list[str]:
    """Remove the words that are the values of a flag from those that follow it."""
    if flag.kind is bool or flag.kind is _No:
        return [str(flag.kind is bool).lower()]
    origin, most = is_many(flag.kind), 1
    if origin is Mapping or (origin in MANY and not (left and "," in left[0])):
        most = len(get_args(flag.kind)) if origin is tuple else len(left)
    taken: list[str] = []
    while left and len(taken) < most and not _is_flag(left[0]):
        if (origin is Mapping and "=" not in left[0]) or (taken and not _fits(flag, left[0])):
            break  # what follows is not a value of this flag
        taken.append(left.pop(0))
    if not taken:
        what = f"KEY=VALUE, not {left[0]}" if origin is Mapping and left else "a value"
        raise UsageError(f"{flag.text} needs {what}")
    return taken


def _fits(flag: Flag, word: str) -> bool:
    """Whether a word can be one more value of a flag that takes several."""
    try:
        convert(flag.kind, [word], flag.text)
    except UsageError:
        return is_many(flag.kind) is tuple
    return True


def convert(kind: Any, texts: Sequence[str], flag: str) -> Any:
    """The value of one type that words mean.

    Raises:
        UsageError: the words are not such a value.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        parts = sorted(inner, key=lambda part: (is_many(part) is None, part is str))
        for part in parts[:-1]:
            try:
                return convert(part, texts, flag)
            except UsageError:
                continue
        return convert(parts[-1], texts, flag)
    if origin is Mapping:
        pairs = [text.partition("=") for text in texts]
        if wrong := [text for text, (key, equals, _) in zip(texts, pairs, strict=True) if not key or not equals]:
            raise UsageError(f"{flag} {wrong[0]}: give KEY=VALUE")
        if len({key for key, _, _ in pairs}) < len(pairs):
            raise UsageError(f"{flag} {' '.join(texts)} has a key twice; choose one")
        return {key: convert(_plain(inner[1]), [value], f"{flag} {key}") for key, _, value in pairs}
    if origin in (Sequence, tuple):
        separator = "[,x]" if inner[0] is int else "," if inner[0] in (str, float) else "$^"
        values = [convert(_plain(inner[0]), [part], flag) for text in texts for part in re.split(separator, text)]
        if origin is tuple and len(values) != len(inner):
            raise UsageError(f"{flag} takes {len(inner)} values, not {len(values)}")
        return values
    (text,) = texts
    if origin is Literal:
        if text not in inner:
            raise UsageError(f"{flag} is {text}; choose {', '.join(inner)}{did_you_mean(text, inner)}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{flag} takes no value, not {text}")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise UsageError(f"{flag} is {text}, not a{'n integer' if kind is int else ' number'}") from None
    return Path(text) if kind is Path else text
