"""Scores of segmentations per combination of modalities, with their uncertainty."""

from monai_passion.evaluation.combinations import CombinationScores

__all__ = ["CombinationScores"]
