import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from monai_passion.data import registration
from monai_passion.data.nifti import Volume
from monai_passion.data.patient import read_patient
from monai_passion.data.registration import register, rigid
from monai_passion.errors import InputError
from tests.helpers.tasks import BRATS_MRI

MOTION = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.08, -0.05, 0.06), [3.0, -2.0, 1.5])


@pytest.fixture(scope="module")
def head():
    """Smooth structures in a ball: voxels of 2 x 2 x 3 mm, at an angle in the scanner."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 42, 28)), 2.5)
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in noise.shape), indexing="ij"))
    data = np.where((grid**2).sum(0) < 1, 3 + noise / noise.std(), 0).astype(np.float32)
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.1, 0) @ np.diag([-2.0, 2.0, 3.0]), [40, -40, -40])
    return Volume(data, affine, None, ())


@pytest.fixture(params=["known", pytest.param("itk", marks=pytest.mark.slow)])
def motion_finder(request, monkeypatch):
    """ITK, whose registration takes 20 s to load, or what it would find."""
    if request.param == "known":
        monkeypatch.setattr(registration, "rigid", lambda fixed, moving: MOTION)


def other_contrast(volume):
    return volume._replace(data=np.where(volume.data == 0, 0, np.float32(5) - np.sqrt(abs(volume.data))))


@pytest.mark.slow
def test_a_known_motion_is_found_whatever_the_contrast(head):
    moved = other_contrast(head)._replace(affine=MOTION @ head.affine)
    corners = head.affine @ np.array([[0, 0, 0, 1], [39, 41, 27, 1], [39, 0, 27, 1], [0, 41, 0, 1]]).T
    apart = np.linalg.norm((rigid(head, moved) @ corners - MOTION @ corners)[:3], axis=0)
    assert apart.max() < 1.0  # half a voxel, where the motion itself is up to 9 mm


@pytest.mark.usefixtures("motion_finder")
def test_registering_changes_affines_and_no_voxel_and_says_how_far(head):
    moved = other_contrast(head)._replace(affine=MOTION @ head.affine)
    volumes, distances = register({"t1": head, "t2": moved}, "t1")
    assert volumes["t1"] is head
    assert volumes["t2"].data is moved.data
    assert np.allclose(volumes["t2"].affine, head.affine, atol=0.5)
    assert 2 < distances["t2"] < 10


@pytest.mark.usefixtures("motion_finder")
def test_files_that_do_not_lie_on_each_other_do_so_after_registration(head, tmp_path):
    nib.save(nib.Nifti1Image(head.data, head.affine), tmp_path / "t1.nii.gz")
    nib.save(nib.Nifti1Image(other_contrast(head).data, MOTION @ head.affine), tmp_path / "t2.nii.gz")
    files = {m: tmp_path / f"{m}.nii.gz" for m in ("t1", "t2")}

    def difference(patient):
        return np.abs(patient.used["t2"].data - other_contrast(head).data).mean()

    before, after = (read_patient(files, BRATS_MRI, register=flag) for flag in (False, True))
    assert difference(after) < 0.5 * difference(before)
    assert any("onto t1" in finding.text for finding in after.findings)
    assert np.array_equal(after.reference.affine, before.reference.affine)


@pytest.mark.parametrize(("sides", "said"), [(4, False), (14, True)])
def test_a_sequence_is_said_to_lack_a_part_of_the_head_and_not_of_the_air_around_it(head, tmp_path, sides, said):
    """Cut at both ends of the first axis: 4 of 40 voxels hold air, 14 hold head too."""
    nib.save(nib.Nifti1Image(head.data, head.affine), tmp_path / "t1.nii.gz")
    cut = nib.Nifti1Image(other_contrast(head).data, head.affine).slicer[sides:-sides]
    nib.save(cut, tmp_path / "t2.nii.gz")
    found = read_patient({m: tmp_path / f"{m}.nii.gz" for m in ("t1", "t2")}, BRATS_MRI, reference="t1").findings
    assert any("t2 covers" in finding.text and finding.level == "warning" for finding in found) is said


@pytest.mark.slow
def test_images_that_their_headers_place_apart_are_brought_together_by_their_middles_first(head):
    apart = nib.affines.from_matvec(np.eye(3), [30.0, -20.0, 1000.0]) @ MOTION
    moved = other_contrast(head)._replace(affine=apart @ head.affine)
    corners = head.affine @ np.array([[0, 0, 0, 1], [39, 41, 27, 1], [39, 0, 27, 1], [0, 41, 0, 1]]).T
    assert np.linalg.norm((rigid(head, moved) @ corners - apart @ corners)[:3], axis=0).max() < 2.0  # a voxel


def test_stacks_of_few_slices_are_not_registered_and_it_is_said_in_one_line(head):
    with pytest.raises(InputError, match="11 slices are too few"):
        rigid(head, head._replace(data=head.data[:, :, :11]))


def test_a_sequence_that_shows_nothing_where_the_reference_is_is_refused(head, tmp_path):
    data = np.zeros((*head.shape[:2], 4 * head.shape[2]), np.float32)
    data[:, :, 2 * head.shape[2] :] = 1 + np.arange(data[:, :, 2 * head.shape[2] :].size).reshape(*head.shape[:2], -1)
    paths = {"flair": tmp_path / "flair.nii.gz", "t1c": tmp_path / "t1c.nii.gz"}
    for path, image in zip(paths.values(), (head.data, data), strict=True):
        nib.save(nib.Nifti1Image(image, head.affine), path)
    with pytest.raises(InputError, match="t1c shows nothing where flair is"):
        read_patient(paths, BRATS_MRI, reference="flair")
