"""Training objectives. One pure function an equation, and modules that weigh them."""

from monai_passion.losses.baselines import GradientModulationLoss, PMRLoss, TeacherDistillationLoss
from monai_passion.losses.passion import BackboneLoss, LossTerms, MultiModalLoss, PassionLoss, PassionReleasedLoss

__all__ = [
    "BackboneLoss",
    "GradientModulationLoss",
    "LossTerms",
    "MultiModalLoss",
    "PMRLoss",
    "PassionLoss",
    "PassionReleasedLoss",
    "TeacherDistillationLoss",
]
