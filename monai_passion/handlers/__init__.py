"""Handlers for MONAI's trainers; `_target_` in a bundle names them by this path."""

from monai_passion.handlers.checkpoint import (
    CheckpointHandler,
    newest_checkpoint,
    read_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from monai_passion.handlers.determinism import EpochSeedHandler
from monai_passion.handlers.guard import NonFiniteGuard
from monai_passion.handlers.signals import RunLock, SignalHandler

__all__ = [
    "CheckpointHandler",
    "EpochSeedHandler",
    "NonFiniteGuard",
    "RunLock",
    "SignalHandler",
    "newest_checkpoint",
    "read_checkpoint",
    "verify_checkpoint",
    "write_checkpoint",
]
