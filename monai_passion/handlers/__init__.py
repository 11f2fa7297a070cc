"""Ignite handlers for training with missing modalities."""

from monai_passion.handlers.curves import CurvesHandler, ScoresHandler
from monai_passion.handlers.preference import PreferenceHandler
from monai_passion.handlers.progress import ProgressHandler

__all__ = ["CurvesHandler", "PreferenceHandler", "ProgressHandler", "ScoresHandler"]
