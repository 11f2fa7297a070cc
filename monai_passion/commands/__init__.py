"""The commands: each a typed, documented function, for Python as ``monai_passion.predict`` and for `monai_passion.cli`.

A new one is a function in a module of its name here, and its name in `COMMANDS`. Its types say how the command line
reads it, its docstring is the help. It prints for people, returns values for programs, and raises a
`monai_passion.errors.PassionError` for what a user can correct. It imports heavy packages only when it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

__all__ = ["COMMANDS", "find_module", "load_command"]

COMMANDS = {
    "demo": "commands.demo",
    "predict": "commands.predict",
    "train": "commands.train",
    "evaluate": "commands.evaluate",
    "compare": "commands.compare",
    "phantom": "commands.phantom",
    "datalist": "commands.datalist",
    "verify": "commands.verify",
    "presence": "commands.presence",
    "composite": "commands.composite",
    "score": "commands.score",
    "report": "commands.report",
    "experiments": "commands.experiments",
    "info": "commands.info",
    "convert": "commands.convert",
    "bundles": "commands.bundles",
    "task": "commands.task",
}
"""Command -> its module. That has the function, or, for a group as ``bundles make``, those in its ``__all__``."""


def find_module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"monai_passion.{COMMANDS[name]}")


def load_command(name: str) -> Callable[..., Any] | Mapping[str, Callable[..., Any]]:
    """A command; for a group, name -> command."""
    module = find_module(name)
    if name in module.__all__:
        return getattr(module, name)  # type: ignore[no-any-return]
    return {part: getattr(module, part) for part in module.__all__}
