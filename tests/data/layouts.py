"""Folders of patients in the layouts of the public data sets."""

import nibabel as nib
import numpy as np

BRATS_FILES = {"flair": "flair", "t1c": "t1ce", "t1": "t1", "t2": "t2", "label": "seg"}
MYOPS_FILES = {"bssfp": "C0", "lge": "LGE", "t2": "T2", "label": "gd"}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def write_image(path, shape=(4, 4, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones(shape, np.int16), np.eye(4)), path)
