"""How well does it segment, with which modalities, and how sure is that."""

from monai_passion.evaluation.combinations import CombinationScores

__all__ = ["CombinationScores"]
