"""Transforms that know which modalities a patient has; everything else is MONAI's."""

from monai_passion.transforms.decision import (
    ProbabilitiesToLabels,
    ProbabilitiesToLabelsd,
    largest_expected_dice,
    most_probable_class,
)
from monai_passion.transforms.degrade import Degradation, DegradeModality, DegradeModalityd, RandDegradeModalityd
from monai_passion.transforms.drop import (
    DropModalities,
    EnsureAvailabled,
    RandDropModalities,
    RandDropModalitiesd,
    RandMaskModalitiesd,
)
from monai_passion.transforms.foreground import KeepShownd, is_foreground
from monai_passion.transforms.labels import (
    EnsureLabeld,
    ReplaceDoubtful,
    ReplaceDoubtfuld,
)
from monai_passion.transforms.load import LoadModalities, LoadModalitiesd
from monai_passion.transforms.slices import MiddleOfSlicesd, TakeSliced
from monai_passion.transforms.spacing import Spacingd, interpolate_axes
from monai_passion.transforms.transplant import (
    Placement,
    RandTransplantTumord,
    TransplantTumor,
    TransplantTumord,
    make_healthy,
)

__all__ = [
    "Degradation",
    "DegradeModality",
    "DegradeModalityd",
    "DropModalities",
    "EnsureAvailabled",
    "EnsureLabeld",
    "KeepShownd",
    "LoadModalities",
    "LoadModalitiesd",
    "MiddleOfSlicesd",
    "Placement",
    "ProbabilitiesToLabels",
    "ProbabilitiesToLabelsd",
    "RandDegradeModalityd",
    "RandDropModalities",
    "RandDropModalitiesd",
    "RandMaskModalitiesd",
    "RandTransplantTumord",
    "ReplaceDoubtful",
    "ReplaceDoubtfuld",
    "Spacingd",
    "TakeSliced",
    "TransplantTumor",
    "TransplantTumord",
    "interpolate_axes",
    "is_foreground",
    "largest_expected_dice",
    "make_healthy",
    "most_probable_class",
]
