"""Bundles from fragments: ``configs/`` is the source, ``bundles/<name>/`` what it makes.

A bundle is a row of ``configs/bundles.json`` (name, task, network, method). Each of its configurations is a list of
fragments, merged left to right by MONAI's own rules; the result is one flat file that needs no other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

__all__ = ["CONFIGS", "bundle_files", "drift", "materialise"]

CONFIGS = {
    "train": [
        "common/base",
        "tasks/{task}/task",
        "networks/{network}",
        "tasks/{task}/labelled",
        "tasks/{task}/train",
        "common/train",
        "methods/{method}",
    ],
    "evaluate": ["common/base", "tasks/{task}/task", "networks/{network}", "tasks/{task}/labelled", "common/evaluate"],
    "inference": [
        "common/base",
        "tasks/{task}/task",
        "networks/{network}",
        "tasks/{task}/inference",
        "common/inference",
    ],
}
"""Configuration -> its fragments."""


def manifest(configs: Path) -> list[dict[str, Any]]:
    """The rows of ``bundles.json``."""
    rows: list[dict[str, Any]] = json.loads((configs / "bundles.json").read_text())
    return rows


def bundle_files(row: dict[str, Any], configs: Path) -> Iterator[tuple[str, str]]:
    """(path within the bundle, text) of every file of a bundle."""
    for name, fragments in CONFIGS.items():
        files = [configs / f"{fragment.format(**row)}.json" for fragment in fragments]
        merged = ConfigParser.load_config_files([str(f) for f in files if f.is_file()])
        yield f"configs/{name}.json", _text(_knobs_first({"bundle_name": row["name"], **merged}))
    yield "configs/metadata.json", _text(_metadata(row, configs))
    yield "configs/logging.conf", (configs / "common" / "logging.conf").read_text()
    yield "docs/README.md", _readme(row, configs)
    yield "docs/data_license.txt", (configs / "tasks" / row["task"] / "data_license.txt").read_text()
    yield "LICENSE", (configs.parent / "LICENSE").read_text()


def materialise(configs: Path, bundles: Path) -> list[Path]:
    """Write every bundle; return the files that changed. Files that no fragment makes are removed, models are kept."""
    changed = []
    for row in manifest(configs):
        folder = bundles / row["name"]
        for relative, text in bundle_files(row, configs):
            path = folder / relative
            if not path.is_file() or path.read_text() != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                changed.append(path)
    return changed


def drift(configs: Path, bundles: Path) -> list[Path]:
    """Committed files that differ from what the fragments make."""
    return [
        bundles / row["name"] / relative
        for row in manifest(configs)
        for relative, text in bundle_files(row, configs)
        if not (path := bundles / row["name"] / relative).is_file() or path.read_text() != text
    ]


def _knobs_first(content: dict[str, Any]) -> dict[str, Any]:
    """Plain values, which people turn, before what is built from them."""

    def built(value: Any) -> bool:
        nested = isinstance(value, dict) and "_target_" in json.dumps(value)
        listed = isinstance(value, list) and any(built(v) for v in value)
        return nested or listed or (isinstance(value, str) and value.startswith(("$", "@", "%")))

    return dict(sorted(content.items(), key=lambda pair: built(pair[1])))


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _metadata(row: dict[str, Any], configs: Path) -> dict[str, Any]:
    task = json.loads((configs / "tasks" / row["task"] / "metadata.json").read_text())
    network = json.loads((configs / "networks" / "metadata.json").read_text())[row["network"]]
    common = json.loads((configs / "common" / "metadata.json").read_text())
    facts = {**common, **task}
    words = {"network": network["title"]}
    facts["name"] = facts["name"].format(**words)
    facts["description"] = facts["description"].format(**words)
    facts["references"] = [*common["references"], *network["references"], *task["references"]]
    return {"schema": facts.pop("schema"), "version": row["version"], "changelog": row["changelog"], **facts}


def _readme(row: dict[str, Any], configs: Path) -> str:
    network = json.loads((configs / "networks" / "metadata.json").read_text())[row["network"]]
    parts = [configs / "tasks" / row["task"] / "README.md", configs / "common" / "README.md"]
    text = "\n".join(part.read_text() for part in parts)
    for key, value in {**row, "network_title": network["title"], "network_text": network["text"]}.items():
        text = text.replace("{" + key + "}", str(value))
    return text
