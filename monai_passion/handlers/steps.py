"""Requirements of methods that count the optimizer's steps."""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_passion.errors import UsageError

__all__ = ["PlainStepsHandler", "check_plain_steps"]


def check_plain_steps(engine: Engine, method: str, batch_size: int | None = None) -> None:
    """Refuse a training whose iterations are not optimizer steps of a single process, for a method that needs that.

    Args:
        engine: of the training.
        method: its name, for the message.
        batch_size: the only batch size that the method takes.

    Raises:
        UsageError: ``accumulate`` is above 1, there are several processes, or the batch is of another size.
    """
    processes, loader = idist.get_world_size(), getattr(engine, "data_loader", None)
    if (accumulate := getattr(engine, "accumulation_steps", 1)) > 1:
        raise UsageError(f"{method} takes a step after every batch, and accumulate is {accumulate}; leave it at 1")
    if processes > 1:
        raise UsageError(f"{method} trains in one process, and there are {processes}; start one, without torchrun")
    if batch_size and (given := getattr(loader, "batch_size", batch_size)) != batch_size:
        raise UsageError(f"{method} takes batches of {batch_size}, and batch_size is {given}; set it to {batch_size}")


class PlainStepsHandler:
    """Refuses such a training at its start, for a method whose objective needs the whole batch in one process.

    Args:
        method: its name, for the message.

    Raises:
        UsageError: (when the training starts) see `check_plain_steps`.
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, check_plain_steps, self.method)
