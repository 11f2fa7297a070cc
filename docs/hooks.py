"""What pages of the site are filled with when it is built: the help of every command, the settings, the notebooks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from monai_passion.cli.help import help_text
from monai_passion.commands import COMMANDS, load_command
from monai_passion.system.resources import resource_folder

CONFIGS = ("train", "evaluate", "inference")
BUNDLE = "brats_mri_segmentation_rfnet_passion"
MEANINGS = Path(__file__).parent / "reference" / "settings.json"
"""Key -> what it means: the one place."""
PLACES = ("device", "ckpt_dir", "output_dir", "weights", "ramp_epochs")
"""Settings whose default is an expression."""
FRAGMENTS = ("methods/*.json", "missing/*.json", "networks/*.json", "tasks/*/fast.json", "tasks/*/coarse.json")


def on_files(files: Any, config: Any, **kwargs: Any) -> Any:
    """Called by MkDocs for the files of the site: each notebook becomes a page, too."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = notebook.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, page, content="\n\n".join(_notebook(Path(notebook.abs_src_path)))))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Called by MkDocs for each page."""
    for marker, lines in (("<!-- commands -->", _commands), ("<!-- settings -->", _settings)):
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(lines()))
    return markdown


def settings_of(fragment: Path) -> dict[str, Any]:
    """The keys that a configuration file has at its top, without changes of parts of others (``#``, ``+``)."""
    content: dict[str, Any] = json.loads(fragment.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if "#" not in key and not key.startswith("+")}


def fragments() -> list[Path]:
    """The files of `FRAGMENTS`; ``metadata.json`` has no settings."""
    paths = (path for pattern in FRAGMENTS for path in resource_folder("configs").glob(pattern))
    return sorted(path for path in paths if path.name != "metadata.json")


def _notebook(path: Path) -> Iterator[str]:
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        if number == 0:
            yield f"[Download this notebook]({path.name})"


def _commands() -> Iterator[str]:
    for name in COMMANDS:
        command = load_command(name)
        parts = command.items() if isinstance(command, Mapping) else [("", command)]
        for part, function in parts:
            path = ["monai-passion", name, *([part] if part else [])]
            yield f"## {' '.join(path[1:])}\n\n```text\n{help_text(path, function)}\n```\n"


def _settings() -> Iterator[str]:
    meanings = json.loads(MEANINGS.read_text(encoding="utf-8"))
    known: dict[str, Any] = {}
    for config in CONFIGS:
        content = settings_of(resource_folder("bundles") / BUNDLE / "configs" / f"{config}.json")
        yield f"## {config}.json\n\n| Key | Default | Meaning |\n|---|---|---|"
        new = {key: value for key, value in content.items() if known.get(key, known) != value}
        yield from (
            f"| `{key}` | {_default(value)} | {meanings[key]} |"
            for key, value in new.items()
            if _is_setting(key, value)
        )
        yield '\n??? note "Parts"\n\n    | Key | Meaning |\n    |---|---|'
        yield from (f"    | `{key}` | {meanings[key]} |" for key, value in new.items() if not _is_setting(key, value))
        yield "" if not known else "\nThe other keys are as in train.json.\n"
        known = {**content, **known}
    yield "## Settings of fragments\n\n| Key | Default | File | Meaning |\n|---|---|---|---|"
    folder = resource_folder("configs")
    for path in fragments():
        own = {key: value for key, value in settings_of(path).items() if key not in known and _is_setting(key, value)}
        name = path.relative_to(folder).with_suffix("").as_posix()
        yield from (f"| `{key}` | {_default(value)} | `{name}` | {meanings[key]} |" for key, value in own.items())


def _is_setting(key: str, value: Any) -> bool:
    """Whether a key is for people to set, not a component or an expression."""
    text = json.dumps(value)
    return key in PLACES or not (text.startswith(('"@', '"%')) or "_target_" in text or "$" in text or len(text) > 100)


def _default(value: Any) -> str:
    text = json.dumps(value)
    return "computed" if "$" in text else f"`{text}`"
