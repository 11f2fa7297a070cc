"""What an evaluation or an inference leaves: names of files, ``run.json``, the ``summary.json`` beside the weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_passion.bundle.run import ARGUMENTS, command_line
from monai_passion.data.datalists import describe_data, load_datalist
from monai_passion.errors import PassionError
from monai_passion.evaluation.summary import read_metrics
from monai_passion.networks.weights import load_weights
from monai_passion.system.files import sha256, write_text
from monai_passion.tasks import TaskLike, load_task

__all__ = ["describe_run", "keep_summary", "result_name"]

logger = logging.getLogger(__name__)


def result_name(meta: Mapping[str, Any], saver: Any) -> dict[str, Any]:
    """What `monai.transforms.SaveImage` calls a result: by the case, or by the file where there is no case."""
    case = meta.get("case")
    return {"subject": f"{case}.nii.gz" if case else meta["filename_or_obj"], "idx": None}


def describe_run(
    output_dir: str,
    ckpt_dir: str,
    weights: str,
    label: str | None,
    split: str,
    task: TaskLike,
    dataset_dir: str,
    items: Sequence[dict[str, Any]],
) -> None:
    """Put beside the scores what a report needs: ``run.json`` (what was evaluated) and the training's ``curves.csv``.

    ``label`` names the run in tables; by default the method that the weights were trained with. ``items`` are those
    scored; data that cannot be told from them and their folder stay unnamed.
    """
    _, trained = load_weights(weights)
    task, data = load_task(task), describe_data(Path(dataset_dir), {split: items})
    facts = {
        "label": label or trained.get("method") or "",
        "data": "" if data == "other" else data,
        "split": split,
        "weights_sha256": sha256(weights),
        "command": _training_command(Path(ckpt_dir)),
        "titles": {m: task.titles[m] for m in task.printed},
        "classes": {label.title: label.color for label in task.classes[1:]},
        **trained,
    }
    write_text(Path(output_dir) / "run.json", json.dumps(facts, indent=2) + "\n")
    curves = Path(ckpt_dir) / "curves.csv"
    if curves.is_file() and curves.resolve().parent != Path(output_dir).resolve():
        write_text(Path(output_dir) / "curves.csv", curves.read_text())


def _training_command(ckpt_dir: Path) -> str:
    """The line that trained what is in a folder, where it was kept there or, as of a grid, one above."""
    for path in (ckpt_dir / ARGUMENTS, ckpt_dir.parent / ARGUMENTS):
        if path.is_file():
            given = json.loads(path.read_text(encoding="utf-8"))
            files = [Path(name) for name in given.pop("config_file", [])]
            return command_line(given.pop("run_id", "training"), files, given) if files else ""
    return ""


def keep_summary(output_dir: str, weights: str, split: str, roi_size: Sequence[int] | None = None) -> None:
    """Put the ``summary.json`` of an evaluation beside the weights that it scored, for `predict` to tell from it.

    Nothing is kept for training patients (by split, or by name in the datalist beside the weights), for weights that
    came with this package, or where a summary of the same weights is there with more patients or with combinations that
    this one lacks. A failure to write is a warning. How it was measured is kept with it (``roi_size`` and the most
    probable class), for `predict` to say if it decides otherwise.
    """
    path, package = Path(weights).resolve(), Path(__file__).resolve().parents[2]
    summary = Path(output_dir) / "summary.json"
    if split == "training" or path.is_relative_to(package) or not summary.is_file():
        return
    own = {} if roi_size is None else {"roi_size": [int(size) for size in roi_size]}
    how = {"decision": "most_probable", "mirror_axes": [], "ensemble": [], **own}
    facts = {"weights_sha256": sha256(path), "split": split, **how, **json.loads(summary.read_text(encoding="utf-8"))}
    beside = path.with_name("summary.json")
    try:
        if again := _trained_on(path) & _scored(Path(output_dir)):
            names = ", ".join(sorted(again)[:5]) + ", ..." * (len(again) > 5)
            logger.warning("predict will not tell these results of the weights: %s may be of their training", names)
            return
        older = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        if older.get("weights_sha256") == facts["weights_sha256"]:
            more = "patients" if _patients_in(older) > _patients_in(facts) else ""
            more = more or ("combinations" if _combinations_in(older) - _combinations_in(facts) else "")
            if more:
                logger.warning("%s is of more %s, and stays what predict tells of these weights", beside, more)
                return
        write_text(beside, json.dumps(facts, indent=2) + "\n")
    except (OSError, ValueError, PassionError) as error:
        logger.warning("predict will not tell these results of the weights: %s", error)


def _trained_on(weights: Path) -> set[str]:
    stored = weights.with_name("datalist.json")
    return {str(item["patient"]) for item in load_datalist(stored)["training"]} if stored.is_file() else set()


def _scored(folder: Path) -> set[str]:
    """The patients of an evaluation."""
    metrics = folder / "metrics.csv"
    return set(read_metrics(metrics)["patient"].astype(str)) if metrics.is_file() else set()


def _patients_in(summary: Mapping[str, Any]) -> int:
    return max((int(row.get("n") or 0) for row in summary.get("results", ())), default=0)


def _combinations_in(summary: Mapping[str, Any]) -> set[str]:
    return {row["combination"] for row in summary.get("results", ())}
