"""beta, updated once per epoch from the relative preference of the modalities (Eq. 12-13)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ignite.engine import Engine, Events

from monai_passion.losses import MultiModalLoss
from monai_passion.system.logs import PROGRESS

__all__ = ["PreferenceHandler"]

logger = logging.getLogger(PROGRESS)


class PreferenceHandler:
    """Closes every epoch of a `MultiModalLoss`; put it before the handlers that log or save.

    ``engine.state.preference`` is then the epoch's mean relative preference, a tensor (M,).

    Args:
        loss: its sums are reduced over all processes of a distributed training, so beta is the same everywhere.
        modalities: names for the log line.
    """

    def __init__(self, loss: MultiModalLoss, modalities: Sequence[str]) -> None:
        self.loss = loss
        self.modalities = tuple(modalities)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        preference = engine.state.preference = self.loss.end_epoch()
        text = ", ".join(
            f"{name} {float(p):+.3f} (beta {float(b):.3f})"
            for name, p, b in zip(self.modalities, preference, self.loss.beta, strict=True)
        )
        logger.info("epoch %d: relative preference %s", engine.state.epoch, text)
