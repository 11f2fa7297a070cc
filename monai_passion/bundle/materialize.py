"""Bundles from fragments: ``configs/`` is the source, ``bundles/<name>/`` what it makes.

A bundle is a row of ``configs/bundles.json`` (name, task, network, method). Each of its configurations is a list of
fragments, merged left to right by MONAI's own rules; the result is one flat file that needs no other.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_passion.bundle.trust import KNOWN, program_digest
from monai_passion.system.files import write_text

__all__ = ["CONFIGS", "bundle_files", "drift", "materialise"]

CONFIGS = {
    "train": [
        "common/base",
        "tasks/{task}/knobs",
        "networks/{network}",
        "tasks/{task}/labelled",
        "tasks/{task}/train",
        "common/train",
        "methods/{method}",
    ],
    "evaluate": ["common/base", "tasks/{task}/knobs", "networks/{network}", "tasks/{task}/labelled", "common/evaluate"],
    "inference": [
        "common/base",
        "tasks/{task}/knobs",
        "networks/{network}",
        "tasks/{task}/inference",
        "common/inference",
    ],
}
"""Configuration -> its fragments."""

OVERRIDES = ["multi_gpu_train"]
"""Configurations that go on top of another at run time, the same in all bundles."""


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
    for name in OVERRIDES:
        yield f"configs/{name}.json", (configs / "common" / f"{name}.json").read_text()
    yield "configs/metadata.json", _text(_metadata(row, configs))
    yield "configs/logging.conf", (configs / "common" / "logging.conf").read_text()
    yield "docs/README.md", _readme(row, configs)
    yield "docs/data_license.txt", (configs / "tasks" / row["task"] / "data_license.txt").read_text()
    yield "LICENSE", (configs.parent / "LICENSE").read_text()


def materialise(configs: Path, bundles: Path) -> list[Path]:
    """Write every bundle; return the files that changed.

    Configurations and documents that no fragment makes are removed; models and results are kept.
    """
    changed = _changes(configs, bundles)
    for path, text in changed.items():
        if text is None:
            path.unlink()
        else:
            write_text(path, text)
    return list(changed)


def drift(configs: Path, bundles: Path) -> list[Path]:
    """Files that differ from what the fragments make."""
    return list(_changes(configs, bundles))


def _changes(configs: Path, bundles: Path) -> dict[Path, str | None]:
    """File -> what must be in it, None where it must not be."""
    made = {row["name"]: dict(bundle_files(row, configs)) for row in manifest(configs)}
    wanted = {bundles / name / path: text for name, files in made.items() for path, text in files.items()}
    known = configs.parent / "monai_passion" / "bundle" / KNOWN.name
    if known.is_file():  # in the project itself, what these run is what `predict` trusts
        programs = {name: program_digest(json.loads(files["configs/inference.json"])) for name, files in made.items()}
        wanted[known] = _text(programs)
    stale = {path for folder in ("configs", "docs") for path in bundles.glob(f"*/{folder}/*")} - wanted.keys()
    differing = {path: text for path, text in wanted.items() if not path.is_file() or path.read_text() != text}
    return {**differing, **dict.fromkeys(sorted(stale))}


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
    folder = configs / "tasks" / row["task"]
    task, shared = _json(folder / "metadata.json"), _json(configs / "common" / "metadata.json")
    network = _json(configs / "networks" / "metadata.json")[row["network"]]
    facts = {**shared, **task}
    for key in ("name", "description"):
        facts[key] = facts[key].format(network=network["title"])
    # For MONAI, which puts in n = 1, 2, ...: every network takes multiples of its stride from the second on.
    shape = [f"{network['stride']}*(n+1)"] * _json(folder / "knobs.json")["spatial_dims"]
    for ends in facts["network_data_format"].values():
        for values in ends.values():
            values["spatial_shape"] = shape
    facts["references"] = [*shared["references"], *network["references"], *task["references"]]
    return {"schema": facts.pop("schema"), "version": row["version"], "changelog": row["changelog"], **facts}


def _readme(row: dict[str, Any], configs: Path) -> str:
    folder = configs / "tasks" / row["task"]
    network, task = _json(configs / "networks" / "metadata.json")[row["network"]], _json(folder / "knobs.json")
    metadata = _metadata(row, configs)
    words = {
        **row,
        "network_title": network["title"],
        "network_text": textwrap.fill(network["text"], 120),
        "missing_rates": "{" + ", ".join(f"'{m}': 0.5" for m in task["modalities"]) + "}",
        "some_files": " ".join(f"--{m} {m.upper()}.nii.gz" for m in task["modalities"][::2]),
        "limits": (folder / "limits.md").read_text().strip(),
        "anatomy": _json(folder / "task.json")["anatomy"],
        "roi_size": " x ".join(map(str, task["roi_size"])),
        "stride": network["stride"],
        **{key: metadata[key] for key in ("authors", "image_classes", "pred_classes")},
        **{key: metadata[key] for key in ("monai_version", "pytorch_version", "numpy_version")},
        "references": "\n".join(f"- {reference}" for reference in metadata["references"]),
    }
    text = "\n".join(part.read_text() for part in (folder / "README.md", configs / "common" / "README.md"))
    for key, value in words.items():
        text = text.replace("{" + key + "}", str(value))
    return text


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
