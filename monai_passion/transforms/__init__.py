"""Transforms that know which modalities a patient has; everything else is MONAI's."""

from monai_passion.transforms.loading import LoadModalities, LoadModalitiesd

__all__ = ["LoadModalities", "LoadModalitiesd"]
