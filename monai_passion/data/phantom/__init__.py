"""Digital phantoms: synthetic patients from MR physics, to try the tools on and to test them with.

Research use only. Numbers measured on phantoms are never comparable with numbers measured on patients.
"""

from monai_passion.data.phantom.brain import brain_case
from monai_passion.data.phantom.cohort import PHANTOM_LAYOUTS, write_cohort
from monai_passion.data.phantom.common import PhantomCase
from monai_passion.data.phantom.heart import heart_case

__all__ = ["PHANTOM_LAYOUTS", "PhantomCase", "brain_case", "heart_case", "write_cohort"]
