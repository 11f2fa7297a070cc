import pytest

from tests.data.layouts import BRATS_FILES, write_image


@pytest.fixture
def brats(tmp_path):
    """Ten patients, of whom every third lacks T1c."""
    for n in range(10):
        for name in BRATS_FILES.values():
            if name != "t1ce" or n % 3:
                write_image(tmp_path / "brats" / f"P{n}" / f"P{n}_{name}.nii.gz")
    return tmp_path / "brats"
