import os

import pytest

from monai_passion.bundle.steps import find_weights, presence_facts, training_data
from monai_passion.errors import WeightsError
from tests.data.layouts import BRATS_FILES, touch


def write(path, age):
    path.write_bytes(b"weights")
    os.utime(path, (1e9 - age, 1e9 - age))


@pytest.mark.parametrize(("shipped", "found"), [(2, "model.pt"), (0, "model.safetensors")])
def test_the_newer_of_shipped_and_trained_weights_is_taken(tmp_path, shipped, found):
    write(tmp_path / "model.safetensors", shipped)
    write(tmp_path / "model.pt", 1)
    write(tmp_path / "model_last.pt", 0)
    assert find_weights(tmp_path) == str(tmp_path / found)


def test_the_last_epoch_is_taken_where_there_is_no_best_one(tmp_path):
    write(tmp_path / "model_last.pt", 0)
    assert find_weights(tmp_path) == str(tmp_path / "model_last.pt")


def test_no_weights_is_answered_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(WeightsError, match="run training"):
        find_weights(tmp_path)


@pytest.fixture
def brats(tmp_path):
    """Ten patients, of whom every third lacks T1c."""
    for n in range(10):
        for name in BRATS_FILES.values():
            if name != "t1ce" or n % 3:
                touch(tmp_path / "brats" / f"P{n}" / f"P{n}_{name}.nii.gz")
    return tmp_path / "brats"


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
    assert facts.rarity == [1, 0]
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "no training patient has t1c" in record.message
