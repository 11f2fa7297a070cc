"""HTML from Jinja templates: text is escaped, and a value that a template lacks is an error."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["template"]


@cache
def _environment(folder: Path) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(folder)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def template(folder: Path, name: str) -> Any:
    """The template ``name`` in ``folder``: its ``render`` gives a page, its ``module`` has its macros."""
    return _environment(folder).get_template(name)
