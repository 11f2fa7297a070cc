"""One line per epoch, and progress within an epoch."""

from __future__ import annotations

import logging
import math
import time

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from monai_passion.system.logs import PROGRESS
from monai_passion.system.status import StatusLine, time_text

__all__ = ["ProgressHandler"]

logger = logging.getLogger(PROGRESS)


class ProgressHandler:
    """Prints the results of each epoch: loss, scores, time left. Of several processes, the first prints.

    Within an epoch, a terminal shows one changing line. Elsewhere, an engine with a single epoch prints a line now and
    then, and a training none.

    Args:
        evaluator: its scores belong to the epoch in which it ran; its handler comes before this one.
        every: seconds between two lines within the only epoch.
    """

    def __init__(self, evaluator: Engine | None = None, every: float = 15.0) -> None:
        self.evaluator, self.every = evaluator, every
        self.status = StatusLine()
        self.began = 0.0
        self.first_iteration = 0
        self.loss_sum, self.loss_count = 0.0, 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self.validated)

    def start(self, engine: Engine) -> None:
        self.began = time.monotonic()
        self.first_iteration = engine.state.iteration
        several = (engine.state.max_epochs or 1) > 1
        self.status = StatusLine(None if several else self.every, silent=idist.get_rank() > 0)

    def iteration(self, engine: Engine) -> None:
        output = engine.state.output
        output = output[0] if isinstance(output, list) and output else output
        if isinstance(output, dict) and "loss" in output:
            samples, loss = len(output["image"]) if "image" in output else 1, float(output["loss"])
            if math.isfinite(loss):  # else `NonFiniteHandler` skipped the step
                self.loss_sum += samples * loss
                self.loss_count += samples
        length = engine.state.epoch_length or 1
        done = f"{(engine.state.iteration - 1) % length + 1}/{length}"
        self.status.passing(", ".join([*self.parts(engine, done), self.left(engine)]))

    def validated(self, engine: Engine) -> None:
        self.status.passing(f"validation {engine.state.iteration}/{engine.state.epoch_length}")

    def epoch(self, engine: Engine) -> None:
        sums = torch.tensor([self.loss_sum, self.loss_count], dtype=torch.float64)
        self.loss_sum, self.loss_count = idist.all_reduce(sums).tolist()
        parts = self.parts(engine)
        for source in (engine, self.evaluator):
            if source is not None and source.state.epoch == engine.state.epoch:
                # Names with a slash are the details that `CurvesHandler` logs.
                metrics = {k: v for k, v in source.state.metrics.items() if isinstance(v, float) and "/" not in k}
                parts += [f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items()]
        line = ", ".join([*parts, self.left(engine)])
        self.status.say(line)
        logger.info(line)
        self.loss_sum, self.loss_count = 0.0, 0.0

    def parts(self, engine: Engine, done: str = "") -> list[str]:
        several = (engine.state.max_epochs or 1) > 1
        parts = [f"epoch {engine.state.epoch}/{engine.state.max_epochs}"] if several else []
        parts += [done] if done else []
        return parts + ([f"loss {self.loss_sum / self.loss_count:.4f}"] if self.loss_count else [])

    def left(self, engine: Engine) -> str:
        """The time that has passed, and the time left at this speed."""
        state, passed = engine.state, time.monotonic() - self.began
        total = (state.epoch_length or 1) * (state.max_epochs or 1)
        left = passed / max(state.iteration - self.first_iteration, 1) * max(total - state.iteration, 0)
        return f"{time_text(passed)}, about {time_text(left)} left" if left else time_text(passed)
