"""A loss or gradient that is NaN or infinite must not reach the weights, and its cases must be named."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import Tensor, nn

from monai_passion.errors import PassionError

__all__ = ["NonFiniteHandler", "case_names"]

logger = logging.getLogger(__name__)


def case_names(batch: Any) -> list[str]:
    """The cases of a collated batch: its ``case``, else the file names of its images, else ``["unknown"]``."""
    names = None
    if isinstance(batch, Mapping):
        names = batch.get("case")
        if names is None:
            names = getattr(batch.get(CommonKeys.IMAGE), "meta", {}).get("filename_or_obj")
    if names is None:
        return ["unknown"]
    return [names] if isinstance(names, str) else [str(name) for name in names]


class NonFiniteHandler:
    """Skips the optimizer's step where the loss or a gradient is NaN or infinite, and stops a training that is lost.

    The buffers of the network and of the loss (batch statistics, running sums) are restored too, so that a skipped
    iteration leaves no trace. If several iterations are accumulated for one step (``accumulation_steps``), the others
    count. Under DistributedDataParallel one rank's NaN skips the step of all. With mixed precision, infinite gradients
    alone are left to the gradient scaler, which lowers its scale.

    Args:
        patience: stop at this many such iterations in a row.

    Raises:
        ValueError: ``patience`` is below 1.
        PassionError: (while training) ``patience`` was reached, or the training ended before it without a step.
    """

    def __init__(self, patience: int = 5) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}; it must be at least 1")
        self.patience = patience
        self._cases: list[str] = []
        self._in_a_row = 0
        self._learned = False
        self._buffers: dict[str, Tensor] = {}
        self._gradients: dict[Tensor, Tensor] = {}

    def attach(self, engine: SupervisedTrainer) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self.remember)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.remember_gradients)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.end)

    def remember(self, engine: SupervisedTrainer) -> None:
        self._buffers = {name: buffer.detach().clone() for name, buffer in _buffers(engine)}

    def remember_gradients(self, engine: SupervisedTrainer) -> None:
        """Keep the gradients of earlier iterations of the same accumulated step."""
        if engine.accumulation_steps == 1 or engine.scaler is not None:
            return
        everything = [p for group in engine.optimizer.param_groups for p in group["params"]]
        self._gradients = {p: p.grad.clone() for p in everything if p.grad is not None}

    def __call__(self, engine: SupervisedTrainer) -> None:
        parameters = [p for group in engine.optimizer.param_groups for p in group["params"] if p.grad is not None]
        loss = float(engine.state.output[CommonKeys.LOSS].detach())
        what = f"the loss is {loss}"
        bad = not math.isfinite(loss)
        if not bad and engine.scaler is None and parameters:
            norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
            what, bad = f"the norm of the gradient is {norm}", not math.isfinite(norm)
        if not idist.all_reduce(float(bad), op="MAX"):
            self._in_a_row, self._cases, self._learned = 0, [], True
            return
        if not bad:
            what = "another process has a loss that is not finite"
        self._in_a_row += 1
        cases = case_names(engine.state.batch)
        self._cases += [case for case in cases if case not in self._cases]
        for parameter in parameters:
            # An optimizer passes over parameters without gradient; a scaler wants to find infinities for itself.
            if engine.scaler is None:
                parameter.grad = self._gradients.get(parameter)
            elif parameter.grad is not None:
                parameter.grad.fill_(math.nan)
        for name, buffer in _buffers(engine):
            buffer.detach().copy_(self._buffers[name])
        logger.warning(f"{what} at iteration {engine.state.iteration}, case {', '.join(cases)}: step skipped")
        if self._in_a_row >= self.patience:
            raise self._lost(f"{self._in_a_row} times in a row")

    def end(self) -> None:
        """Raise an error if a training of fewer steps than ``patience`` could take none of them."""
        if self._in_a_row and not self._learned:
            raise self._lost("at any step")

    def _lost(self, when: str) -> PassionError:
        return PassionError(
            f"the loss or its gradient was not finite {when} (cases {', '.join(self._cases)}): check "
            "these cases, or lower the learning rate; the checkpoints of earlier epochs are kept"
        )


def _buffers(engine: SupervisedTrainer) -> list[tuple[str, Tensor]]:
    parts = {"network": engine.network, "loss": engine.loss_function}
    modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    return [(f"{name}.{key}", buffer) for name, module in modules.items() for key, buffer in module.named_buffers()]
