"""The meta-step of Reptile (Nichol et al. 2018), which HGA takes over the combinations of modalities."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_passion.handlers.steps import check_plain_steps

__all__ = ["MetaStepHandler"]


class MetaStepHandler:
    """After every ``every`` steps, keeps only a share of the change that they made.

    The weights w become ``slow + epsilon (w - slow)``, which are the next slow weights. epsilon grows linearly over the
    epochs from ``first`` towards 1, which it would reach in the epoch after the last. This damps what one combination
    gains at another's expense, and keeps what all agree on. The slow weights are state for `CheckpointHandler`.

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
