import pytest

from tests.data.layouts import BRATS_FILES, MYOPS_FILES, touch, write_image


@pytest.fixture
def brats(tmp_path):
    """20 patients in the BraTS2020 layout; files are empty, as nothing here may read them."""
    folder = tmp_path / "brats"
    for n in range(20):
        for name in BRATS_FILES.values():
            touch(folder / f"P{n:02d}" / f"P{n:02d}_{name}.nii.gz")
    return folder


@pytest.fixture
def myops(tmp_path):
    folder = tmp_path / "myops"
    for n in range(5):
        for name in MYOPS_FILES.values():
            write_image(folder / f"m_{n}" / f"m_{n}_{name}.nii.gz", (4, 4, 2 + n))
    return folder
