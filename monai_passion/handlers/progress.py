"""A line an epoch, or every few seconds where epochs are long, so that nobody waits before a silent terminal."""

from __future__ import annotations

import sys
import time

from ignite.engine import Engine, Events

__all__ = ["ProgressHandler"]


class ProgressHandler:
    """Prints what an engine is doing: epoch, iteration, loss, seconds left.

    Args:
        every: seconds between two lines within an epoch.
        name: put before each line.
    """

    def __init__(self, every: float = 15.0, name: str = "") -> None:
        self.every = every
        self.name = f"{name} " if name else ""
        self.last = self.began = 0.0
        self.first_iteration = 0
        self.loss_sum, self.loss_count = 0.0, 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)

    def start(self, engine: Engine) -> None:
        self.began = self.last = time.monotonic()
        self.first_iteration = engine.state.iteration

    def iteration(self, engine: Engine) -> None:
        output = engine.state.output
        output = output[0] if isinstance(output, list) and output else output
        if isinstance(output, dict) and "loss" in output:
            self.loss_sum += float(output["loss"])
            self.loss_count += 1
        if time.monotonic() - self.last >= self.every:
            self.line(engine)

    def epoch(self, engine: Engine) -> None:
        self.line(engine)
        self.loss_sum, self.loss_count = 0.0, 0

    def line(self, engine: Engine) -> None:
        state, now = engine.state, time.monotonic()
        length = state.epoch_length or 1
        total = length * (state.max_epochs or 1)
        done = state.iteration - self.first_iteration
        left = (now - self.began) / max(done, 1) * (total - state.iteration)
        parts = [f"epoch {state.epoch}/{state.max_epochs}"] if (state.max_epochs or 1) > 1 else []
        parts.append(f"{(state.iteration - 1) % length + 1}/{length}")
        if self.loss_count:
            parts.append(f"loss {self.loss_sum / self.loss_count:.4f}")
        # Names with a slash are the details that `CurvesHandler` logs.
        metrics = {k: v for k, v in state.metrics.items() if isinstance(v, float) and "/" not in k}
        parts += [f"{k} {v:.4f}" for k, v in metrics.items()]
        parts.append(f"{now - self.began:.0f} s, about {max(left, 0):.0f} s left")
        print(self.name + ", ".join(parts), file=sys.stderr, flush=True)
        self.last = now
