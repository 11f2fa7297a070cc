"""The meta-step of Reptile (Nichol et al. 2018), which HGA takes over the combinations of modalities."""

from __future__ import annotations

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_passion.errors import UsageError

__all__ = ["MetaStepHandler", "check_plain_steps"]


def check_plain_steps(engine: Engine, method: str, batch_size: int | None = None) -> None:
    """Refuse a training whose iterations are not the optimizer's steps of one process, which a method counts on.

    Args:
        engine: of the training.
        method: its name, for the message.
        batch_size: the only one that it takes.

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


class MetaStepHandler:
    """After every ``every`` steps, goes back to a share of what these steps changed.

    The weights w become ``slow + epsilon (w - slow)``, and those the next slow weights; epsilon grows linearly over the
    epochs from ``first`` to 1. What one combination gains at another's expense is damped, what all agree on stays. Its
    slow weights are state, for `CheckpointHandler`.

    Args:
        network: what is trained.
        every: steps of a cycle, one per combination.
        epochs: of the training.
        first: epsilon of the first epoch, in (0, 1].

    Raises:
        UsageError: (when the training starts) see `check_plain_steps`.
    """

    def __init__(self, network: nn.Module, every: int, epochs: int, first: float = 0.1) -> None:
        self.network = network
        self.every = every
        self.epochs = epochs
        self.first = first
        self.slow = [p.detach().clone() for p in network.parameters()]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, check_plain_steps, "hga", batch_size=1)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        epsilon = self.first + (1 - self.first) * (engine.state.epoch - 1) / self.epochs
        for parameter, slow in zip(self.network.parameters(), self.slow, strict=True):
            slow.lerp_(parameter, epsilon)
            parameter.copy_(slow)

    def state_dict(self) -> dict[str, Tensor]:
        return {str(index): slow for index, slow in enumerate(self.slow)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for index, slow in enumerate(self.slow):
            slow.copy_(state[str(index)])
