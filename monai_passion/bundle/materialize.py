"""Bundles from fragments: ``configs/`` is the source, ``bundles/<name>/`` what it makes.

A bundle comes from a row of ``configs/bundles.json`` (name, task, network, method), or from a user's task file. Each of
its configurations merges the keys of the task and a list of fragments, left to right by MONAI's own rules; the result
is one flat file that needs no other.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_passion.bundle.trust import KNOWN, RUN, is_plain, program_digest
from monai_passion.errors import InputError, PassionError, UsageError
from monai_passion.system.files import json_text, write_text
from monai_passion.system.output import check_folder
from monai_passion.system.resources import resource_folder
from monai_passion.tasks import Task, load_task, task_names

__all__ = ["FRAGMENTS", "bundle_files", "drift", "make_bundle", "manifest", "materialize", "network_names"]

FRAGMENTS = {
    "train": [
        "common/base",
        "networks/{network}",
        "common/{images}",
        "common/train",
        "common/{images}_train",
        "methods/{method}",
    ],
    "evaluate": ["common/base", "networks/{network}", "common/{images}", "common/evaluate"],
    "inference": ["common/base", "networks/{network}", "common/{images}", "common/inference"],
}
"""Configuration -> its fragments; ``images`` are "volumes", or "slices" where the network has two dimensions. A task of
this package may add a fragment of the same name from its own folder."""

OVERRIDES = ["multi_gpu_train"]
"""Configurations that go on top of another at run time, the same in all bundles."""

SETTINGS: dict[int, dict[str, Any]] = {
    2: {"pixel_size": None, "crop_size": [256, 256], "roi_size": [256, 256]},
    3: {"spacing": [-1, -1, -1], "crop_size": [80, 80, 80], "roi_size": [80, 80, 80]},
}
"""Spatial dimensions -> default settings of a training; -1 keeps the spacing of the files."""


def manifest(configs: Path) -> list[dict[str, Any]]:
    """The rows of ``bundles.json``."""
    rows: list[dict[str, Any]] = json.loads((configs / "bundles.json").read_text(encoding="utf-8"))
    return rows


def network_names(configs: Path) -> list[str]:
    """The networks that a bundle can have."""
    return list(_json(configs / "networks" / "metadata.json"))


def task_keys(task: Task) -> dict[str, Any]:
    """The keys that a task puts at the top of a configuration."""
    return {
        "task": task.to_json(),
        "modalities": list(task.modality_names),
        "regions": {name: list(classes) for name, classes in task.region_classes.items()},
        "num_classes": task.num_classes,
        "label_values": list(task.label_values),
        "spatial_dims": task.spatial_dims,
        **SETTINGS[task.spatial_dims],
        **task.settings,
    }


def bundle_files(row: dict[str, Any], configs: Path) -> Iterator[tuple[str, str]]:
    """(path within the bundle, text) of every file of a bundle.

    Args:
        row: name, task (a name or a file), network, method, version and changelog.
        configs: the folder of the fragments.

    Raises:
        UsageError: an unknown task or network.
        PassionError: a fragment is missing, or an entry in ``networks/metadata.json``.
    """
    task = _load_task(row["task"], configs)
    about = configs / "networks" / "metadata.json"
    if row["network"] not in _json(about):
        raise PassionError(f"{about} has no entry '{row['network']}'; add its title, stride, text and references")
    for name in FRAGMENTS:
        yield f"configs/{name}.json", json_text(_config(row, task, name, configs))
    for name in OVERRIDES:
        yield f"configs/{name}.json", (configs / "common" / f"{name}.json").read_text()
    yield "configs/metadata.json", json_text(_metadata(row, task, configs))
    yield "configs/logging.conf", (configs / "common" / "logging.conf").read_text()
    yield "docs/README.md", _readme(row, task, configs)
    yield "docs/data_license.txt", _part(task, "data_license.txt", configs)
    yield "LICENSE", _license(configs).read_text()


def make_bundle(task: Task, network: str, output: Path, method: str = "passion", configs: Path | None = None) -> None:
    """Write a bundle for a task into a new or empty folder, whose name becomes the bundle's.

    Raises:
        UsageError: an unknown network or method, a folder that is not empty, or a name that MONAI does not take.
        InputError: the task file has text that MONAI's parser would act on.
    """
    configs = configs or resource_folder("configs")
    methods = sorted(path.stem for path in configs.glob("methods/*.json"))
    for kind, name, known in (("network", network, network_names(configs)), ("method", method, methods)):
        if name not in known:
            raise UsageError(f"unknown {kind} '{name}'; known are {', '.join(known)}")
    if not re.fullmatch(r"[A-Za-z][\w-]*", output.resolve().name):
        raise UsageError(
            f"{output.resolve().name} cannot be the name of a bundle; begin with a letter of a to z, "
            "then letters, digits, _ and -"
        )
    check_folder(output)
    if output.is_dir() and any(output.iterdir()):
        raise UsageError(f"--output {output} is not empty; give a new folder")
    if not is_plain(task.to_json()):
        raise InputError(f"{task.source or task.name}: $, @ and % have a meaning in bundles; leave them out")
    row = {
        "name": output.resolve().name,
        "task": task,
        "network": network,
        "method": method,
        "version": "0.1.0",
        "changelog": {"0.1.0": "first version"},
    }
    for path, text in dict(bundle_files(row, configs)).items():
        write_text(output / path, text)


def materialize(configs: Path, bundles: Path) -> list[Path]:
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
    """The files that differ from those that the fragments make."""
    return list(_changes(configs, bundles))


def _changes(configs: Path, bundles: Path) -> dict[Path, str | None]:
    """File -> what must be in it, None where it must not be."""
    made = {row["name"]: dict(bundle_files(row, configs)) for row in manifest(configs)}
    wanted = {bundles / name / path: text for name, files in made.items() for path, text in files.items()}
    known = configs.parent / "monai_passion" / "bundle" / KNOWN.name
    if known.is_file():  # in the project itself, what these run is what `predict`, `train` and `evaluate` trust
        wanted[known] = json_text(_programs(configs))
    stale = {path for folder in ("configs", "docs") for path in bundles.glob(f"*/{folder}/*")} - wanted.keys()
    differing = {path: text for path, text in wanted.items() if not path.is_file() or path.read_text() != text}
    return {**differing, **dict.fromkeys(sorted(stale))}


def _programs(configs: Path) -> dict[str, str]:
    """Task or dimensions, network, what is run -> digest: users' tasks have plain values only, so they share one."""
    programs = {}
    tasks = [load_task(name) for name in task_names()]
    anyones = [replace(task, name=f"{task.spatial_dims}-D") for task in tasks]
    methods = sorted(path.stem for path in configs.glob("methods/*.json"))
    for task, network in product((*tasks, *anyones), network_names(configs)):
        for name, method in [*((name, "") for name in RUN if name != "train"), *(("train", m) for m in methods)]:
            config = _config({"name": "any", "network": network, "method": method}, task, name, configs)
            programs[" ".join(filter(None, (task.name, network, name, method)))] = program_digest(config)
    return programs


def _config(row: dict[str, Any], task: Task, name: str, configs: Path) -> dict[str, Any]:
    images = "slices" if task.spatial_dims == 2 else "volumes"
    words = {"method": "", **row, "images": images}
    files = [configs / f"{fragment.format(**words)}.json" for fragment in FRAGMENTS[name]]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise PassionError(f"the fragment {missing[0]} is missing; restore it, or correct the row in bundles.json")
    own = _folder_of(task, configs) / f"{name}.json"
    merged = ConfigParser.load_config_files([str(file) for file in [*files, *([own] if own.is_file() else [])]])
    return _knobs_first({"bundle_name": row["name"], **task_keys(task), **merged})


def _load_task(task: Task | str, configs: Path) -> Task:
    if isinstance(task, Task):
        return task
    own = configs / "tasks" / task / "task.json"
    return load_task(own if own.is_file() else task)


def _knobs_first(content: dict[str, Any]) -> dict[str, Any]:
    """Plain values, which people turn, before what is built from them; the definition of the task after those."""
    return dict(sorted(content.items(), key=lambda pair: 2 * (not is_plain(pair[1])) + (pair[0] == "task")))


def _metadata(row: dict[str, Any], task: Task, configs: Path) -> dict[str, Any]:
    shared, network = _json(configs / "common" / "metadata.json"), _json(configs / "networks" / "metadata.json")
    own = _folder_of(task, configs) / "metadata.json"
    facts = _json(own) if own.is_file() else {}
    network = network[row["network"]]
    names, title = _listed([m.title for m in task.modalities]), network["title"]
    values = [
        f"{k} {label.title}" + (f" ({label.value} in files)" if label.value != k else "")
        for k, label in enumerate(task.classes)
    ]
    common = {
        "type": "image",
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        # For MONAI, which puts in n = 1, 2, ...: every network takes multiples of its stride from the second on.
        "spatial_shape": [f"{network['stride']}*(n+1)"] * task.spatial_dims,
    }
    return {
        "schema": shared.pop("schema"),
        "version": row["version"],
        "changelog": row["changelog"],
        **{key: value for key, value in shared.items() if key != "references"},
        "name": f"{task.title} segmentation with missing modalities: {title} + PASSION",
        "task": f"{task.title} segmentation from any subset of {names}",
        "description": f"{title} trained with preference-aware self-distillation (PASSION), on patients who lack some "
        f"modalities. It segments from any non-empty subset of {names}. Research use only, not a medical device.",
        "data_type": "nibabel",
        "data_source": facts.get("data_source", "see docs/README.md"),
        "image_classes": f"{len(task.modalities)} channels: {names}; absent ones are zero; z-scored over the non-zero "
        "voxels",
        "label_classes": ", ".join(values),
        "pred_classes": f"{task.num_classes} channels of class probabilities: "
        + ", ".join(label.title for label in task.classes),
        "eval_metrics": {},
        "network_data_format": {
            "inputs": {
                "image": {
                    **common,
                    "format": "magnitude",
                    "modality": facts.get("modality", "n/a"),
                    "num_channels": len(task.modalities),
                    "channel_def": {str(m): modality.title for m, modality in enumerate(task.modalities)},
                }
            },
            "outputs": {
                "pred": {
                    **common,
                    "format": "segmentation",
                    "num_channels": task.num_classes,
                    "channel_def": {str(k): label.name for k, label in enumerate(task.classes)},
                }
            },
        },
        "references": [*shared["references"], *network["references"], *facts.get("references", [])],
    }


def _readme(row: dict[str, Any], task: Task, configs: Path) -> str:
    network, metadata = _json(configs / "networks" / "metadata.json")[row["network"]], _metadata(row, task, configs)
    settings, images = (
        {**SETTINGS[task.spatial_dims], **task.settings},
        "slices" if task.spatial_dims == 2 else "volumes",
    )
    spacing = settings.get("spacing", [-1])
    own = spacing[0] <= 0
    preprocessing = (configs / "common" / f"{images}.md").read_text().strip()
    preprocessing = preprocessing.replace("{spacing}", "the files' own spacing" if own else f"{_times(spacing)} mm")
    data = _folder_of(task, configs) / "data.md"
    files = ",".join([*task.modality_names, "seg"])
    anywhere = (
        f"Any folder with one sub-folder per patient, `<case>/<case>_{{{files}}}.nii.gz`; missing modalities are "
        "simply not there."
    )
    words = {
        "title": task.title,
        "classes": _listed([label.title for label in task.classes[1:]]),
        "modalities": _listed([m.title for m in task.modalities]),
        "network_title": network["title"],
        "network_text": network["text"],
        "data": data.read_text().strip() if data.is_file() else anywhere,
        "modality_table": _table(
            ["Modality", "", "Also called"],
            [[f"`{m.name}`", m.description or m.title, ", ".join(m.aliases)] for m in task.modalities],
        ),
        "label_table": _table(
            ["Value in files", "Class", ""], [[str(c.value), c.name, c.title] for c in task.classes if c.value]
        ),
        "region_table": _table(
            ["Scored region", "", "Values"],
            [[r.name, r.title, ", ".join(str(task.label_values[k]) for k in r.classes)] for r in task.regions],
        ),
        "preprocessing": preprocessing.replace("{crop_size}", _times(settings["crop_size"])),
        "missing_rates": "{" + ", ".join(f"'{m}': 0.5" for m in task.modality_names) + "}",
        "some_files": _files(task),
        "limits": _part(task, "limits.md", configs).strip(),
        "anatomy": task.anatomy,
        "roi_size": _times(settings["roi_size"]),
        "stride": network["stride"],
        **{key: metadata[key] for key in ("authors", "image_classes", "pred_classes")},
        **{key: metadata[key] for key in ("monai_version", "pytorch_version", "numpy_version")},
        "references": "\n\n".join(f"- {reference}" for reference in metadata["references"]),
    }
    text = "\n".join((configs / "common" / name).read_text() for name in ("task.md", "README.md"))
    for key, value in words.items():
        text = text.replace("{" + key + "}", str(value))
    blocks = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    return "".join(block if block.startswith("```") else _filled(block) for block in blocks)


def _files(task: Task) -> str:
    """Some modalities, as `predict` takes them: by flags where the task is of this package."""
    some = {m: f"{m.upper()}.nii.gz" for m in task.modality_names[::2]}
    if task.name in task_names():
        return " ".join(f"--{m} {file}" for m, file in some.items())
    return "--image " + " ".join(f"{m}={file}" for m, file in some.items())


def _filled(text: str) -> str:
    """Paragraphs in lines that editors show whole; headings and tables as they are."""

    def fill(paragraph: re.Match[str]) -> str:
        if paragraph[0].startswith(("#", "|")):
            return paragraph[0]
        indent = "  " if paragraph[0].startswith("- ") else ""
        return textwrap.fill(
            paragraph[0], 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )

    return re.sub(r"[^\n]+(?:\n[^\n]+)*", fill, text)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _listed(words: list[str]) -> str:
    """``"a, b and c"``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _times(sizes: list[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def _folder_of(task: Task, configs: Path) -> Path:
    """Where what a task's file cannot say stands, of a task of this package; it need not be there."""
    folder = configs / "tasks" / task.name
    ours = (folder / "task.json").is_file() and load_task(folder / "task.json") == task
    return folder if ours else configs / "tasks" / "none"


def _part(task: Task, name: str, configs: Path) -> str:
    own = _folder_of(task, configs) / name
    return (own if own.is_file() else configs / "common" / name).read_text()


def _license(configs: Path) -> Path:
    beside = configs.parent / "LICENSE"
    return beside if beside.is_file() else configs / "LICENSE"


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
