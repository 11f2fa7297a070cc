"""Training objectives: one pure function per equation, and modules that weigh them."""

from monai_passion.losses.base import LossTerms, MultiModalLoss
from monai_passion.losses.baseline import BackboneLoss
from monai_passion.losses.modulation import GradientModulationLoss
from monai_passion.losses.passion import PassionLoss
from monai_passion.losses.passion_released import PassionReleasedLoss
from monai_passion.losses.pmr import PMRLoss
from monai_passion.losses.redcore import RelativeAdvantageLoss
from monai_passion.losses.teacher import TeacherDistillationLoss
from monai_passion.losses.unimodal import SubsetStudentsLoss, UnimodalDistillationLoss

__all__ = [
    "BackboneLoss",
    "GradientModulationLoss",
    "LossTerms",
    "MultiModalLoss",
    "PMRLoss",
    "PassionLoss",
    "PassionReleasedLoss",
    "RelativeAdvantageLoss",
    "SubsetStudentsLoss",
    "TeacherDistillationLoss",
    "UnimodalDistillationLoss",
]
