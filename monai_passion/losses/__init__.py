"""Training objectives. One pure function an equation, and modules that weigh them."""

from monai_passion.losses.passion import BackboneLoss, LossTerms, MultiModalLoss, PassionLoss, PassionReleasedLoss

__all__ = ["BackboneLoss", "LossTerms", "MultiModalLoss", "PassionLoss", "PassionReleasedLoss"]
