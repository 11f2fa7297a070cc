import csv

import nibabel as nib
import numpy as np
import pytest

from monai_passion.data.donors import ATLAS_CENTER, ATLAS_SIZE, load_donors, read_cube_donors
from monai_passion.data.presence import Presence
from monai_passion.errors import InputError

MODALITIES = ("flair", "t1c", "t1", "t2")
SPACING = np.array([2.0, 2.0, 1.5])
FIRST = np.array([20, 40, 30])
"""Voxel where the tumor's cube begins."""


@pytest.fixture
def folders(tmp_path):
    """Three patients with a tumor of 12 voxels an edge and cubes of 8; one patient is of another list."""
    cubes, labels = tmp_path / "cubes", tmp_path / "labels"
    labels.mkdir()
    rows = []
    for k, split in enumerate(["train", "train", "val"]):
        patient = f"P{k}"
        label = np.zeros((80, 90, 70), np.uint8)
        label[tuple(slice(a, a + 12) for a in FIRST)] = 2
        label[tuple(slice(a, a + 4) for a in FIRST)] = 4
        nib.save(nib.Nifti1Image(label, np.diag([*SPACING, 1])), labels / f"{patient}_seg.nii.gz")
        case = f"{patient}_L1"
        (cubes / case).mkdir(parents=True)
        affine = np.diag([*SPACING, 1])
        affine[:3, 3] = FIRST * SPACING
        for m, name in enumerate(["flair", "t1ce", "t1", "t2"]):
            cube = np.full((8, 8, 8), m + 1.0, np.float32)
            cube[0, 0, 0] = -5  # at the corner to the right, front and bottom, in LPS the first voxel
            nib.save(nib.Nifti1Image(cube, affine), cubes / case / f"{case}_{name}.nii.gz")
        rows.append({"case": case, "patient": patient, "split": split})
    with (cubes / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["case", "patient", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return cubes, labels


def test_only_patients_of_the_training_list_who_are_not_excluded_are_donors(folders):
    assert [d.patient for d in read_cube_donors(*folders, MODALITIES)] == ["P0", "P1"]
    assert [d.patient for d in read_cube_donors(*folders, MODALITIES, exclude=["P1"])] == ["P0"]


def test_a_cube_lies_where_its_offset_says_in_axes_to_the_right_and_front(folders):
    donor = read_cube_donors(*folders, MODALITIES)[0]
    assert donor.image.shape[0] == len(MODALITIES)
    (corner,) = np.argwhere(donor.image[0] == -5)
    enhancing = np.argwhere(donor.label == 3)
    assert (corner == [*enhancing.max(axis=0)[:2], enhancing.min(axis=0)[2]]).all()
    middle = (FIRST + 6) * SPACING
    expected = (middle - ATLAS_CENTER) / ATLAS_SIZE * [-1, -1, 1]
    assert donor.place == pytest.approx(expected, abs=0.01)


def test_what_no_cube_holds_is_unknown_but_labeled(folders):
    donor = read_cube_donors(*folders, MODALITIES)[0]
    tumor = donor.label > 0
    assert np.count_nonzero(tumor) == 12**3
    assert np.count_nonzero(tumor & (donor.known > 0)) == 8**3
    assert not donor.image[:, donor.known == 0].any()
    assert donor.statistics[0, 1] == pytest.approx([1, 2, 3, 4], abs=0.1)


def test_of_a_donor_in_the_presence_table_only_what_it_leaves_is_read(folders):
    cubes, labels = folders
    (cubes / "P0_L1" / "P0_L1_t1ce.nii.gz").unlink()
    presence = Presence(("P0",), MODALITIES, np.array([[True, False, True, True]]))
    one, other = read_cube_donors(cubes, labels, MODALITIES, presence=presence)
    assert one.available.tolist() == [True, False, True, True]
    assert not one.image[1].any()
    assert one.image[[0, 2, 3]].any(axis=(1, 2, 3)).all()
    assert other.available.all()


def test_missing_files_are_named(folders):
    cubes, labels = folders
    (labels / "P0_seg.nii.gz").unlink()
    with pytest.raises(InputError, match="P0_seg"):
        read_cube_donors(cubes, labels, MODALITIES)
    with pytest.raises(InputError, match=r"index\.csv"):
        read_cube_donors(labels, labels, MODALITIES)


def test_without_any_tumor_there_is_an_error():
    with pytest.raises(InputError, match="no training patient has a tumor"):
        load_donors([], dict, MODALITIES)


def test_an_index_without_the_columns_that_donors_need_is_named(folders):
    (folders[0] / "index.csv").write_text("case,valid_voxels\nP0_L0,512\n")
    with pytest.raises(InputError, match=r"index\.csv has no column patient, split"):
        read_cube_donors(*folders, MODALITIES)
