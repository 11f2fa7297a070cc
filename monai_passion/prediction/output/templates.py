"""HTML from the templates in ``prediction/viewer``: text is escaped, and a page needs no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_passion import NOTICE, __version__
from monai_passion.system.templates import template

__all__ = ["VIEWER", "render"]

VIEWER = Path(__file__).parents[1] / "viewer"


def render(name: str, **values: Any) -> str:
    """The template ``name`` with ``values``, ``style``, ``notice`` and ``version`` filled in."""
    from markupsafe import Markup

    style = Markup((VIEWER / "style.css").read_text(encoding="utf-8"))  # noqa: S704
    text: str = template(VIEWER, name).render(style=style, notice=NOTICE, version=__version__, **values)
    return text
