"""Transforms that know which modalities a patient has; everything else is MONAI's."""

from monai_passion.transforms.degrade import Degradation, DegradeModality, DegradeModalityd, RandDegradeModalityd
from monai_passion.transforms.drop import (
    DropModalities,
    DropModalitiesd,
    EnsureAvailabled,
    RandDropModalities,
    RandDropModalitiesd,
    RandMaskModalitiesd,
)
from monai_passion.transforms.foreground import is_foreground
from monai_passion.transforms.labels import LabelsToRegions, LabelsToRegionsd
from monai_passion.transforms.load import LoadModalities, LoadModalitiesd, TakeSliced

__all__ = [
    "Degradation",
    "DegradeModality",
    "DegradeModalityd",
    "DropModalities",
    "DropModalitiesd",
    "EnsureAvailabled",
    "LabelsToRegions",
    "LabelsToRegionsd",
    "LoadModalities",
    "LoadModalitiesd",
    "RandDegradeModalityd",
    "RandDropModalities",
    "RandDropModalitiesd",
    "RandMaskModalitiesd",
    "TakeSliced",
    "is_foreground",
]
