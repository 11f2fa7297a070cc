"""The command line ``monai-passion``: fire over the functions of `monai_passion.commands`.

Fire alone guesses types, runs a command before it notices a mistyped flag, and pages its help. Here every word is first
checked against the function's signature. Fire then gets ``--name=["word", ...]`` and converts the words by the types of
the signature alone, so that text stays text.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import logging
import os
import re
import signal
import stat
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from monai_passion import __version__
from monai_passion.cli.help import help_text
from monai_passion.cli.words import Command, Flag, convert, flags_of, read_words
from monai_passion.commands import COMMANDS, load_command
from monai_passion.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    PassionError,
    ResourceError,
    UsageError,
    did_you_mean,
    is_out_of_memory,
    no_room,
)
from monai_passion.system.memory import keep_freed_memory

__all__ = ["main"]

PROGRAM = "monai-passion"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `monai_passion.errors` for what each means."""
    if argv is None:
        sys.stdout, sys.stderr = _outliving(sys.stdout), _outliving(sys.stderr)
    words = list(sys.argv[1:] if argv is None else argv)
    words, fire_flags = _split(words)
    debug = "--debug" in words
    signal.signal(signal.SIGTERM, _terminate)
    keep_freed_memory()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        _run([word for word in words if word != "--debug"], fire_flags)
        return 0
    except PassionError as error:
        if debug:
            raise
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; nothing half-written was left", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            raise
        if (full := no_room(error)) is not None:
            print(f"{PROGRAM}: error: {full}", file=sys.stderr)
            return ResourceError.exit_code
        if is_out_of_memory(error):
            print(f"{PROGRAM}: error: not enough memory; close other programs or use smaller images", file=sys.stderr)
            return ResourceError.exit_code
        print(f"{PROGRAM}: internal error: {type(error).__name__}: {error}; run again with --debug", file=sys.stderr)
        return 1


class _Pipe(io.FileIO):
    """A pipe that may lose its reader, as by ``| head``: what a command writes to the disk goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def _outliving(stream: typing.TextIO) -> typing.TextIO:
    """The same stream where it is no pipe, else one that outlives its reader."""
    try:
        if not stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            return stream
    except (AttributeError, OSError, ValueError):  # none, closed, or a notebook's
        return stream
    raw = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=bool(stream.line_buffering))


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """What is ours, and after a last ``--`` what is fire's, as in ``monai-passion -- --completion``."""
    if "--" not in words:
        return words, []
    end = len(words) - 1 - words[::-1].index("--")
    return words[:end], words[end:]


def _run(words: list[str], fire_flags: list[str]) -> None:
    if "--completion" in fire_flags:
        print(_completion(fire_flags[-1] if fire_flags[-1] == "fish" else "bash"))
        return
    if words[:1] == ["--version"]:
        print(f"monai_passion {__version__}")
        return
    wants_help = not words or bool({"-h", "--help"} & {*words, *fire_flags})
    path, command = _find(words, wants_help)
    if wants_help or not callable(command):
        print(help_text(path, command))
        if not wants_help:
            raise UsageError(f"{' '.join(path)} wants one of {', '.join(command)}")  # type: ignore[arg-type]
        return
    given = read_words(command, words[len(path) - 1 :], " ".join(path))

    import fire

    tokens = [f"--{name}={json.dumps(texts)}" for name, texts in given.items()]
    fire.Fire(_for_fire(command, _bundle_in(given)), command=[*tokens, *fire_flags], name=PROGRAM, serialize=_silent)


def _silent(result: object) -> None:
    """Commands print what they have to say; what they return is for Python."""


def _find(words: Sequence[str], wants_help: bool) -> tuple[list[str], Command | Mapping[str, Any]]:
    """The words that name the command, and it; a group of commands where the words end there."""
    path: list[str] = [PROGRAM]
    found: Any = dict.fromkeys(COMMANDS)
    while isinstance(found, Mapping) and len(path) <= len(words):
        word = words[len(path) - 1]
        if word in ("-h", "--help"):
            break
        if word not in found:
            what = "argument" if word.startswith("-") else "command"
            raise UsageError(f"unknown {what} {word}{did_you_mean(word, found)}; see {' '.join(path)} --help")
        found = load_command(word) if found[word] is None else found[word]
        path.append(word)
    if len(path) == 1:
        found = {name: load_command(name) for name in COMMANDS}
    return path, found


def _bundle_in(given: Mapping[str, Sequence[str]]) -> str | None:
    return given["bundle"][0] if "bundle" in given else None


def _for_fire(command: Command, bundle: str | None = None) -> Command:
    """The same function with its modalities as named parameters, each of which fire converts by its type."""
    from fire import decorators

    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    flags = flags_of(command, bundle)
    keyword = inspect.Parameter.KEYWORD_ONLY
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(flag.name, keyword, default=flag.default) for flag in flags]
    )
    readers = {flag.name: functools.partial(_read, flag) for flag in flags}
    return typing.cast(Command, decorators.SetParseFns(**readers)(call))


def _read(flag: Flag, text: str) -> Any:
    return convert(flag.kind, json.loads(text), flag.shown)


def _completion(shell: str) -> str:
    """Fire's script, which completes names of files where it knows no flag."""
    from fire import completion

    def tree(found: Any) -> Any:
        return {name: tree(part) for name, part in found.items()} if isinstance(found, Mapping) else _for_fire(found)

    script = completion.Script(PROGRAM, {name: tree(load_command(name)) for name in COMMANDS}, shell=shell)
    script = re.sub(r"--[a-z0-9_]+", lambda flag: flag[0].replace("_", "-"), script)
    return script.replace("complete -F", "complete -o default -F")
