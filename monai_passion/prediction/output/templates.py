"""HTML from the templates in ``prediction/viewer``: text is escaped, and a page needs no other file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from monai_passion import NOTICE, __version__

__all__ = ["VIEWER", "render"]

VIEWER = Path(__file__).parents[1] / "viewer"


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(VIEWER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(name: str, **values: Any) -> str:
    """The template ``name`` with ``values``, ``style``, ``notice`` and ``version`` filled in."""
    from markupsafe import Markup

    style = Markup((VIEWER / "style.css").read_text(encoding="utf-8"))  # noqa: S704
    text: str = _environment().get_template(name).render(style=style, notice=NOTICE, version=__version__, **values)
    return text
