"""A training of a bundle that is resumed with one thing changed goes on and says so, or is refused in one line."""

import contextlib
import io
import json
import shutil

import pytest
import torch

from monai_passion.errors import PassionError, passion_cause
from tests.bundles.conftest import BUNDLES, CONFIGS, workflow_of

NAME = "myops_cmr_segmentation_rfnet_passion"


def resume(folder, cohorts, **changes):
    """Resume the training in a folder; returns what it says."""
    places = {"dataset_dir": str(cohorts["myops_cmr"]), "ckpt_dir": str(folder / "run")}
    with contextlib.redirect_stderr(io.StringIO()) as said:
        workflow = workflow_of(folder / NAME, "train", **places, **{"epochs": 2, "val_interval": 99, **changes})
        workflow.initialize()
        try:
            workflow.run()
        except Exception as error:
            raise passion_cause(error) or error from None
    return said.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cohorts):
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(BUNDLES / NAME, folder / NAME)
    resume(folder, cohorts, epochs=1)
    (folder / "run" / "datalist.json").rename(folder / "datalist.json")
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 3}, "lr_scheduler total_iters was 1, now 3"),
        ({"learning_rate": 0.001}, "was [0.0002], now [0.001]"),
        ({"weight_decay": 0.1}, "optimizer weight_decay was 0.0001, now 0.1"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"precision": "bf16"}, "precision was fp32, now bf16"),
        ({"accumulate": 2}, "accumulate was 1, now 2"),
        ({"absent_gradients": "zero"}, "absent_gradients was skip, now zero"),
        ({"lambda_unimodal": 0.5}, "objective lambda_unimodal was 0.0, now 0.5"),
        ({"gamma": 0.5}, "objective gamma was 0.01, now 0.5"),
        (
            {"missing_augment": [{"_target_": "monai_passion.transforms.RandMaskModalitiesd"}]},
            "random transforms added was [], now ['RandMaskModalitiesd']",
        ),
    ],
)
def test_what_may_change_is_said_and_the_training_goes_on_at_a_rate_above_zero(
    copy, cohorts, changes, said, monkeypatch
):
    rates, step = [], torch.optim.AdamW.step

    def note(optimizer, *args, **options):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    assert said in resume(copy, cohorts, datalist=str(copy / "datalist.json"), **changes)
    assert min(rates) > 0


def test_nothing_is_said_where_nothing_was_changed(copy, cohorts):
    assert "other settings" not in resume(copy, cohorts, datalist=str(copy / "datalist.json"), epochs=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 2}, "batch size is 1 there and 2 here"),
        ({"width": 4}, "another training: width is 2 there and 4 here; set these back"),
        (
            {"crop_size": [16, 16]},
            r"another training: crop_size is \[32, 32\] there and \[16, 16\] here; set these back",
        ),
        ({"coarsen": 2}, "another training: coarsen is 1 there and 2 here; set these back"),
        ({"network_def#width": 4}, r"model\..* is \(2, 1, 3, 3\) there and \(4, 1, 3, 3\) here"),
        ({"modalities": ["lge", "bssfp", "t2"]}, "modalities"),
        ({"method": "baseline"}, "method is passion there and baseline here"),
        ({"bundle": "myops_cmr_segmentation_mmformer_passion"}, "network is RFNet there and MMFormer here"),
        ({"bundle": "brats_mri_segmentation_rfnet_passion"}, "was made with task = myops_cmr, not brats_mri"),
        ({"seed": 1}, "was made with seed = 0, not 1"),
        ({"missing_rates": [0.5, 0.5, 0.5]}, "was made with missing_rates = None"),
    ],
)
def test_what_makes_another_training_is_refused_in_one_line_before_a_step(copy, cohorts, changes, said, monkeypatch):
    shutil.copy(copy / "datalist.json", copy / "run")
    if method := changes.get("method"):
        path = copy / NAME / "configs" / "train.json"
        fragment = (CONFIGS / "methods" / f"{method}.json").read_text()
        path.write_text(json.dumps({**json.loads(path.read_text()), **json.loads(fragment)}))
    if other := changes.get("bundle"):
        shutil.copytree(BUNDLES / other / "configs", copy / NAME / "configs", dirs_exist_ok=True)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(PassionError, match=said) as refused:
        resume(copy, cohorts, **{key: value for key, value in changes.items() if key != "bundle"})
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700


def test_weights_of_another_width_to_start_from_are_refused_and_tell_theirs(copy, cohorts):
    weights = shutil.copy(copy / "run" / "model_last.pt", copy / "initial.pt")
    shutil.rmtree(copy / "run")
    with pytest.raises(PassionError, match=r"does not fit RFNet as built here.*trained with width 2, crop_size"):
        resume(copy, cohorts, width=4, initial_weights=str(weights))
