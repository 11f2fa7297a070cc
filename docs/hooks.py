"""What pages of the site are filled with when it is built: the help of every command, the settings of the bundles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai_passion.cli.help import help_text
from monai_passion.commands import COMMANDS, load_command
from monai_passion.system.resources import resource_folder

CONFIGS = ("train", "evaluate", "inference")


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Called by MkDocs for each page."""
    for marker, lines in (("<!-- commands -->", _commands), ("<!-- settings -->", _settings)):
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(lines()))
    return markdown


def _commands() -> Iterator[str]:
    for name in COMMANDS:
        command = load_command(name)
        parts = command.items() if isinstance(command, Mapping) else [("", command)]
        for part, function in parts:
            path = ["monai-passion", name, *([part] if part else [])]
            yield f"## {' '.join(path[1:])}\n\n```text\n{help_text(path, function)}\n```\n"


def _settings() -> Iterator[str]:
    bundle = resource_folder("bundles") / "brats_mri_segmentation_rfnet_passion" / "configs"
    for config in CONFIGS:
        yield f"## {config}.json\n\n| Key | Default |\n|---|---|"
        for key, value in json.loads(Path(bundle / f"{config}.json").read_text(encoding="utf-8")).items():
            plain = not isinstance(value, dict) and "_target_" not in json.dumps(value)
            if plain and not (isinstance(value, str) and value.startswith(("$", "@", "%"))):
                yield f"| `{key}` | `{json.dumps(value)}` |"
        yield ""
