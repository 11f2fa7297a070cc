import nibabel as nib
import numpy as np
import pytest

from monai_passion.bundle.steps import crop_shares, inference_data, presence_facts, training_data
from monai_passion.errors import InputError, UsageError
from monai_passion.modalities import all_masks
from monai_passion.tasks import load_task
from tests.data.layouts import write_image


@pytest.mark.parametrize("rates", [None, "none", "None", "null"])
def test_by_default_and_by_a_word_every_file_is_used(brats, tmp_path, rates, caplog):
    data = training_data(str(brats), "brats_mri", str(tmp_path / "run"), missing_rates=rates, presence="none")
    used = sum(path is not None for item in data["training"] for path in item["image"].values())
    assert used == sum(len(list((brats / item["case"]).iterdir())) - 1 for item in data["training"])
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_warning_says_that_images_are_taken_out(brats, tmp_path, caplog):
    rates = {"flair": 0.5, "t1c": 0.5, "t1": 0.5, "t2": 0.5}
    data = training_data(str(brats), "brats_mri", str(tmp_path / "run"), missing_rates=rates)
    number = sum(map(len, data["removed"].values()))
    for _ in range(2):  # the stored one says so, too
        assert f"missing_rates takes {number} images out" in caplog.text
        caplog.clear()
        training_data(str(brats), "brats_mri", str(tmp_path / "run"), missing_rates=rates)


def test_a_modality_that_nobody_has_is_one_warning(caplog):
    items = [{"image": {"flair": "a", "t1c": None}}, {"image": {"flair": "b", "t1c": None}}]
    facts = presence_facts(items, ("flair", "t1c"))
    assert facts.missing_rates == [0, 1]
    assert facts.steps_per_sample() == [1, 0]
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "no training patient has t1c" in record.message


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_weight_that_the_released_code_gives_each_modality_of_a_published_split(small_golden, batch_size):
    numbers, modalities = np.load(small_golden / "masks.npz"), load_task("brats_mri").modality_names
    masks = numbers["mask_array"][numbers["mr2468_mask_id_in_file_order"]]
    items = [{"image": {m: "x" if kept else None for m, kept in zip(modalities, mask, strict=True)}} for mask in masks]
    weight = presence_facts(items, modalities).steps_per_sample(batch_size)
    np.testing.assert_allclose(weight, numbers[f"mr2468_modal_weight_bs{batch_size}"], rtol=1e-6)
    assert {tuple(mask) for mask in numbers["mask_array"].tolist()} == set(all_masks(modalities))


def test_labels_whose_meaning_cannot_be_told_do_not_stop_an_inference(tmp_path):
    for n in range(2):
        write_image(tmp_path / f"P{n}" / f"P{n}_flair.nii.gz")
        nib.save(nib.Nifti1Image(np.full((4, 4, 3), 3, np.int16), np.eye(4)), tmp_path / f"P{n}" / f"P{n}_seg.nii.gz")
    items = inference_data(str(tmp_path), "brats_mri", None, None, 0, str(tmp_path))
    assert [item["case"] for item in items] == ["P0", "P1"]


def test_listed_patients_whose_files_have_one_name_get_names_of_their_own(tmp_path):
    def cases(*items):
        return [item["case"] for item in inference_data(str(tmp_path), "brats_mri", items, None, 0, "")]

    assert cases("anna/flair.nii.gz", "bob/flair.nii.gz") == ["anna_flair", "bob_flair"]
    assert cases("a/p1_flair.nii.gz", "b/p1_flair.nii.gz", "b/p2_flair.nii.gz") == ["a_p1", "b_p1", "p2"]
    assert cases("a/x/flair.nii.gz", "b/x/flair.nii.gz") == ["a_x_flair", "b_x_flair"]
    assert cases({"image": {"flair": "a/flair.nii.gz"}, "case": "me"}, "b/flair.nii.gz") == ["me", "flair"]
    with pytest.raises(InputError, match=r"a/flair.nii.gz twice"):
        cases("a/flair.nii.gz", "a/flair.nii.gz")


def test_crops_of_two_sizes_do_not_share_a_batch():
    assert crop_shares(0.2, 1) == [0.8, 0.2]
    assert crop_shares(0.0, 4) == [1.0, 0.0]
    with pytest.raises(UsageError, match="batch_size 1 and accumulate 2, or whole_share 0"):
        crop_shares(0.2, 2)
