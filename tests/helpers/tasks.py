"""The modalities of this package's tasks, in channel order."""

from monai_passion.tasks import load_task

BRATS_MRI = load_task("brats_mri").modality_names
MYOPS_CMR = load_task("myops_cmr").modality_names
