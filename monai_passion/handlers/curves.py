"""The course of a training per epoch: ``curves.csv`` for tables and figures, TensorBoard for watching."""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from monai_passion.losses import LossTerms, MultiModalLoss

__all__ = ["COLUMNS", "CurvesHandler"]

logger = logging.getLogger(__name__)

COLUMNS = ("epoch", "name", "modality", "value")
"""Columns of ``curves.csv``; ``modality`` is empty for values that belong to none."""

Row = tuple[int, str, str, float]


class _Curves:
    """Appends rows to ``curves.csv``; after a resume, rows of epochs that are done again are dropped first.

    Of the processes of a distributed training only the first writes. What a full disk does not take is written with
    the next rows.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self.path = Path(log_dir) / "curves.csv"
        self.waiting: list[Row] = []

    def start(self, epoch: int) -> None:
        if idist.get_rank() > 0:
            return
        rows: list[list[str]] = []
        if self.path.is_file():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and row[0].isdigit()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".csv.part")
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(row for row in rows if int(row[0]) <= epoch)
        temporary.replace(self.path)

    def append(self, rows: Sequence[Row]) -> None:
        if idist.get_rank() > 0:
            return
        self.waiting += rows
        size = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with self.path.open("a", newline="") as file:
                writer = csv.writer(file)
                if not size:  # moved away in the meantime
                    writer.writerow(COLUMNS)
                writer.writerows((epoch, name, m, f"{value:.6g}") for epoch, name, m, value in self.waiting)
        except OSError as error:
            if self.path.is_file():
                os.truncate(self.path, size)
            logger.warning("%s gets its rows later (%s)", self.path, error.strerror or error)
        else:
            self.waiting.clear()


class CurvesHandler:
    """Logs every unweighted loss term, beta and the relative preference, per modality; and the validation's scores.

    Iterations go to TensorBoard under ``iteration/``. Epoch means go to TensorBoard, to ``curves.csv`` and into
    ``engine.state.metrics``, where MONAI's ``MLFlowHandler`` (``--tracking mlflow``) and others find them. All are
    means over samples, independent of batches. A term of one modality is averaged over the samples with that modality
    (distillation terms: with that and another one). In a distributed training, epoch means cover all processes,
    iterations only the first. Goes after `PreferenceHandler` and MONAI's ``ValidationHandler``.

    Args:
        loss: the training objective.
        modalities: names in channel order.
        log_dir: folder of ``curves.csv`` and of the TensorBoard files.
        evaluator: its metrics are scores of the epoch in which it ran.
    """

    def __init__(
        self,
        loss: MultiModalLoss,
        modalities: Sequence[str],
        log_dir: str | os.PathLike[str],
        evaluator: Engine | None = None,
    ) -> None:
        self.loss = loss
        self.evaluator = evaluator
        self.modalities = tuple(modalities)
        self.curves = _Curves(log_dir)
        self.log_dir = Path(log_dir)
        self.writer: SummaryWriter | None = None
        self.sums: dict[tuple[str, str], tuple[float, float]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)
        engine.add_event_handler(Events.COMPLETED | Events.TERMINATE, self.close)

    def start(self, engine: Engine) -> None:
        self.curves.start(engine.state.epoch)
        if idist.get_rank() == 0:
            with self._guarded():
                self.writer = SummaryWriter(str(self.log_dir), purge_step=engine.state.iteration or None)
        self.sums.clear()

    def iteration(self, engine: Engine) -> None:
        if self.loss.terms is None:
            return
        output = engine.state.output[0] if isinstance(engine.state.output, list) else engine.state.output
        total = float(output["loss"])
        if not math.isfinite(total):  # a step that `NonFiniteHandler` skipped
            return
        samples = float(len(self.loss.terms.segmentation))
        observed = [("loss/total", "", total, samples), *term_means(self.loss.terms, self.modalities)]
        for name, modality, value, count in observed:
            before = self.sums.get((name, modality), (0.0, 0.0))
            self.sums[name, modality] = (before[0] + value * count, before[1] + count)
            self._watch(f"iteration/{_tag(name, modality)}", value, engine.state.iteration)

    def epoch(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        rows: list[Row] = [
            (epoch, *key, total / count) for key, (total, count) in sum_over_processes(self.sums).items()
        ]
        self.sums.clear()
        for name, values in (("beta", self.loss.beta), ("relative_preference", engine.state.preference)):
            rows += [(epoch, name, m, float(v)) for m, v in zip(self.modalities, values, strict=True)]
        engine.state.metrics.update({_tag(name, modality): value for _, name, modality, value in rows})
        rows.append((epoch, "learning_rate", "", engine.optimizer.param_groups[0]["lr"]))  # type: ignore[attr-defined]
        if self.evaluator is not None and self.evaluator.state.epoch == epoch:  # as MONAI's ValidationHandler sets it
            rows += [(epoch, name, "", float(value)) for name, value in self.evaluator.state.metrics.items()]
        self.curves.append(rows)
        for _, name, modality, value in rows:
            self._watch(f"epoch/{_tag(name, modality)}", value, epoch)
        if self.writer is not None:
            with self._guarded():
                self.writer.flush()

    def close(self, engine: Engine) -> None:
        if self.writer is not None:
            with self._guarded():
                self.writer.close()
            self.writer = None

    def _watch(self, tag: str, value: float, step: int) -> None:
        if self.writer is not None:
            with self._guarded():
                self.writer.add_scalar(tag, value, step)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """TensorBoard's files are for watching: where they cannot be written, the training goes on without."""
        try:
            yield
        except OSError as error:
            self.writer = None
            logger.warning("TensorBoard shows nothing from here on (%s)", error.strerror or error)


def _tag(name: str, modality: str) -> str:
    return f"{name}/{modality}" if modality else name


def sum_over_processes(sums: dict[tuple[str, str], tuple[float, float]]) -> dict[tuple[str, str], tuple[float, float]]:
    """(name, modality) -> (sum, count), added over all processes of a distributed training."""
    if idist.get_world_size() == 1:
        return sums
    parts: list[Any] = [None] * idist.get_world_size()
    torch.distributed.all_gather_object(parts, sums)
    keys = dict.fromkeys(key for part in parts for key in part)
    pairs = {key: [part.get(key, (0.0, 0.0)) for part in parts] for key in keys}
    return {key: (sum(total for total, _ in found), sum(n for _, n in found)) for key, found in pairs.items()}


def term_means(terms: LossTerms, modalities: Sequence[str]) -> Iterator[tuple[str, str, float, float]]:
    """(name, modality, mean, number of samples) of every term that a batch has."""
    yield "loss/segmentation", "", float(terms.segmentation.mean()), float(len(terms.segmentation))
    for name, values in terms.modal.items():
        measured = terms.measured.get(name, terms.available)
        for m, modality in enumerate(modalities):
            taking_part = values[:, m][measured[:, m]]
            if len(taking_part) and bool(torch.any(values)):
                yield f"loss/{name}", modality, float(taking_part.mean()), float(len(taking_part))
