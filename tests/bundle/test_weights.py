import pytest
import torch

from monai_passion.bundle.weights import check_settings, check_task, find_weights
from monai_passion.errors import WeightsError
from monai_passion.networks.weights import save_weights
from monai_passion.tasks import load_task


@pytest.mark.parametrize(("change", "found", "warned"), [(0.0, "model.safetensors", 0), (1.0, "model.pt", 1)])
def test_a_training_that_went_on_from_shipped_weights_is_told_by_what_the_files_hold(
    tmp_path, caplog, change, found, warned
):
    state = {"a": torch.ones(3)}
    torch.save({"model": {"a": state["a"] + change}}, tmp_path / "model.pt")
    save_weights(state, tmp_path / "model.safetensors")  # newer, as after a copy
    (tmp_path / "model_last.pt").touch()
    assert find_weights(tmp_path) == str(tmp_path / found)
    assert len(caplog.records) == warned


def test_the_last_epoch_is_taken_where_there_is_no_best_one(tmp_path):
    (tmp_path / "model_last.pt").touch()
    assert find_weights(tmp_path) == str(tmp_path / "model_last.pt")


@pytest.mark.parametrize(("folder", "remedy"), [("b/models", "--bundle {}/b --output RUN"), ("run", "--output {}/run")])
def test_no_weights_is_answered_with_a_command_of_which_every_path_exists(tmp_path, folder, remedy):
    (tmp_path / "b" / "configs").mkdir(parents=True)
    (tmp_path / "b" / "configs" / "train.json").touch()
    with pytest.raises(WeightsError) as error:
        find_weights(tmp_path / folder)
    assert f"monai-passion train DATA {remedy.format(tmp_path)}" in str(error.value)


TRAINED = {"settings": {"spacing": [2.0, 2.0, 2.0], "width": 4, "roi_size": [64, 64, 64]}}


@pytest.mark.parametrize("here", [{"spacing": [2, 2, 2], "width": 4}, {"roi_size": [96, 96, 96]}, {}])
def test_settings_of_the_training_and_another_window_go_through(here):
    check_settings("w.pt", TRAINED, here)
    check_settings("w.pt", {}, here)


def test_other_settings_than_those_of_the_training_are_refused_with_the_flags_that_set_them_right():
    with pytest.raises(
        WeightsError, match=r"w\.pt was trained with spacing .*; add --set spacing='\[2\.0, 2\.0, 2\.0\]'$"
    ):
        check_settings("w.pt", TRAINED, {"spacing": [1.0, 1.0, 1.0], "width": 4, "roi_size": [80, 80, 80]})


def test_weights_of_another_task_or_of_classes_in_another_order_are_refused():
    brain, heart = load_task("brats_mri"), load_task("myops_cmr")
    names = [label.name for label in brain.classes]
    for facts in ({}, {"task": "brats_mri"}, {"task": "brats_mri", "class_names": names}):
        check_task("w", facts, brain)
    with pytest.raises(WeightsError, match="trained for the task brats_mri, not myops_cmr"):
        check_task("w", {"task": "brats_mri"}, heart)
    with pytest.raises(WeightsError, match="trained for the classes background, ET, ED, NCR/NET, in this order, not"):
        check_task("w", {"class_names": [names[0], *names[:0:-1]]}, brain)
