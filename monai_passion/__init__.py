"""Segmentation with missing MRI sequences: PASSION and its backbones for MONAI. Research use only."""

__version__ = "0.1.0"
NOTICE = "Research use only, not a medical device."
