"""Handlers for MONAI's trainers; `_target_` in a bundle names them by this path."""

from monai_passion.handlers.absent import AbsentGradientsHandler
from monai_passion.handlers.checkpoint import (
    CheckpointHandler,
    newest_checkpoint,
    read_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from monai_passion.handlers.curves import CurvesHandler
from monai_passion.handlers.meta import MetaStepHandler
from monai_passion.handlers.modulation import GradientModulationHandler
from monai_passion.handlers.nonfinite import NonFiniteHandler
from monai_passion.handlers.preference import PreferenceHandler
from monai_passion.handlers.progress import ProgressHandler
from monai_passion.handlers.seeds import EpochSeedHandler
from monai_passion.handlers.signals import SignalHandler
from monai_passion.handlers.steps import PlainStepsHandler
from monai_passion.system.locks import RunLock

__all__ = [
    "AbsentGradientsHandler",
    "CheckpointHandler",
    "CurvesHandler",
    "EpochSeedHandler",
    "GradientModulationHandler",
    "MetaStepHandler",
    "NonFiniteHandler",
    "PlainStepsHandler",
    "PreferenceHandler",
    "ProgressHandler",
    "RunLock",
    "SignalHandler",
    "newest_checkpoint",
    "read_checkpoint",
    "verify_checkpoint",
    "write_checkpoint",
]
