"""Folders of patients in the layouts of the public data sets."""

import zlib

import nibabel as nib
import numpy as np

BRATS_FILES = {"flair": "flair", "t1c": "t1ce", "t1": "t1", "t2": "t2", "label": "seg"}
MYOPS_FILES = {"bssfp": "C0", "lge": "LGE", "t2": "T2", "label": "gd"}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def touch_all(folder, *names):
    """Empty files below a folder, which is returned."""
    for name in names:
        touch(folder / name)
    return folder


def write_image(path, shape=(4, 4, 3)):
    """An image of one value, another for each path; or, by its name, a label map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.full(shape, zlib.crc32(str(path).encode()) % (2**31 - 1) + 1, np.int32)
    for name, values in (("_seg.", (0, 1, 2, 4)), ("_gd.", (0, 200, 500, 600))):
        if name in path.name:
            data[:] = 0
            data.flat[:4] = values
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
