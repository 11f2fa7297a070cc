import json

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_passion.bundle.steps import (
    describe_run,
    inference_data,
    initial_network,
    keep_summary,
    load_teacher,
    presence_facts,
    training_data,
)
from monai_passion.errors import InputError, ResourceError, UsageError, WeightsError
from monai_passion.modalities import all_masks
from monai_passion.networks import RFNet
from monai_passion.networks.weights import save_weights
from monai_passion.tasks import load_task
from tests.data.layouts import BRATS_FILES, write_image
from tests.helpers.tasks import BRATS_MRI


@pytest.fixture
def brats(tmp_path):
    """Ten patients, of whom every third lacks T1c."""
    for n in range(10):
        for name in BRATS_FILES.values():
            if name != "t1ce" or n % 3:
                write_image(tmp_path / "brats" / f"P{n}" / f"P{n}_{name}.nii.gz")
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


def test_a_training_may_start_from_weights_of_its_own_kind(tmp_path):
    modalities = ("flair", "t1c")
    made, other = (RFNet(num_modalities=2, num_classes=3, spatial_dims=2, width=2) for _ in range(2))
    path = tmp_path / "model.safetensors"
    save_weights(made, path, {"network": "RFNet", "modalities": modalities, "settings": {"width": 2}})
    started = initial_network(other, str(path), modalities)
    assert all(torch.equal(a, b) for a, b in zip(started.parameters(), made.parameters(), strict=True))
    assert started.training
    fresh = initial_network(RFNet(num_modalities=2, num_classes=3, spatial_dims=2, width=2), None, modalities)
    assert not all(torch.equal(a, b) for a, b in zip(fresh.parameters(), made.parameters(), strict=True))
    with pytest.raises(WeightsError, match="belong to the modalities"):
        initial_network(other, str(path), ("t1c", "flair"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crop_size": [24, 16, 16]}, None),
        ({"crop_size": [16, 16, 16], "roi_size": [-1, 32, -1]}, None),
        ({"crop_size": [20, 16, 16]}, r"crop_size is \[20, 16, 16\]; RFNet needs multiples of \(8, 8, 8\)"),
        ({"crop_size": [16, 16, 16], "roi_size": [8, 16, 16]}, r"roi_size is \[8, 16, 16\].* at least twice that"),
        ({"crop_size": [16, 16]}, r"crop_size is \[16, 16\]; give 3 numbers"),
    ],
)
def test_windows_that_a_network_cannot_take_are_refused_before_a_training(settings, said):
    network = RFNet(num_modalities=2, num_classes=3, width=2)
    if said is None:
        assert initial_network(network, None, ("flair", "t1c"), settings) is network
        return
    with pytest.raises(UsageError, match=said):
        initial_network(network, None, ("flair", "t1c"), settings)


def test_the_scores_of_phantoms_say_so_and_those_of_unknown_data_say_nothing(brats, tmp_path):
    weights = tmp_path / "model.safetensors"
    save_weights(torch.nn.Linear(1, 1), weights, {})
    items = training_data(str(brats), "brats_mri", str(tmp_path / "run"))["validation"]
    for known in ("", "phantom"):
        if known:
            (brats / "phantom.json").write_text("{}")
        describe_run(str(tmp_path), str(tmp_path), str(weights), None, "validation", "brats_mri", str(brats), items)
        assert json.loads((tmp_path / "run.json").read_text())["data"] == known


def test_the_summary_beside_weights_is_of_most_patients_and_costs_no_evaluation(tmp_path, caplog, monkeypatch):
    weights, out = tmp_path / "w" / "model.pt", tmp_path / "out"
    weights.parent.mkdir()
    out.mkdir()
    weights.write_bytes(b"x")

    def keep(n, split="test", combinations=("t1", "t1+t2")):
        rows = [{"n": n, "combination": name} for name in combinations]
        (out / "summary.json").write_text(json.dumps({"results": rows}))
        keep_summary(str(out), str(weights), split)
        return json.loads((weights.parent / "summary.json").read_text())["results"][0]["n"]

    assert [keep(2), keep(1), keep(3), keep(5, "training")] == [2, 2, 3, 3]
    assert "is of more patients" in caplog.text
    assert keep(4, combinations=["t2"]) == 3
    assert "is of more combinations" in caplog.text
    weights.write_bytes(b"others")
    assert keep(1) == 1

    def refuse(*_, **__):
        raise ResourceError("cannot write there")

    monkeypatch.setattr("monai_passion.bundle.steps.write_text", refuse)
    assert keep(9) == 1
    assert "predict will not tell these results" in caplog.text


def test_no_summary_is_kept_of_patients_whom_the_weights_may_have_learned_from(tmp_path, caplog):
    weights, out = tmp_path / "w" / "model.pt", tmp_path / "out"
    weights.parent.mkdir()
    out.mkdir()
    weights.write_bytes(b"x")
    item = {"case": "A", "patient": "A", "group": "", "image": {"t1": "a.nii"}}
    lists = {"task": "brats_mri", "modalities": ["t1"], "training": [item], "validation": [], "test": []}
    (weights.parent / "datalist.json").write_text(json.dumps(lists))
    for patient, kept in (("A", False), ("B", True)):
        columns = "case,patient,combination,region,convention,dice,hd95,assd,nsd,predicted_ml,reference_ml,ece"
        (out / "metrics.csv").write_text(f"{columns}\nc,{patient},t1,WT,challenge,1,0,0,1,1,1,0\n")
        (out / "summary.json").write_text(json.dumps({"results": [{"n": 1}]}))
        keep_summary(str(out), str(weights), "test")
        assert (weights.parent / "summary.json").exists() == kept
    assert "A may be of their training" in caplog.text
    (weights.parent / "datalist.json").write_text("of something else")
    keep_summary(str(out), str(weights), "test")  # which costs no evaluation
    assert "datalist.json is not JSON" in caplog.text


def test_a_teacher_of_other_voxels_is_refused(tmp_path):
    network = RFNet(width=2)
    save_weights(network, tmp_path / "w.safetensors", {"settings": {"spacing": [3, 3, 3], "crop_size": [32, 32, 32]}})
    load_teacher(network, str(tmp_path / "w.safetensors"), BRATS_MRI, {"spacing": [3.0, 3.0, 3.0], "width": 4})
    with pytest.raises(WeightsError, match="trained with spacing"):
        load_teacher(network, str(tmp_path / "w.safetensors"), BRATS_MRI, {"spacing": [2.0, 2.0, 2.0]})


def test_listed_patients_whose_files_have_one_name_get_names_of_their_own(tmp_path):
    def cases(*items):
        return [item["case"] for item in inference_data(str(tmp_path), "brats_mri", items, None, 0, "")]

    assert cases("anna/flair.nii.gz", "bob/flair.nii.gz") == ["anna_flair", "bob_flair"]
    assert cases("a/p1_flair.nii.gz", "b/p1_flair.nii.gz", "b/p2_flair.nii.gz") == ["a_p1", "b_p1", "p2"]
    assert cases("a/x/flair.nii.gz", "b/x/flair.nii.gz") == ["a_x_flair", "b_x_flair"]
    assert cases({"image": {"flair": "a/flair.nii.gz"}, "case": "me"}, "b/flair.nii.gz") == ["me", "flair"]
    with pytest.raises(InputError, match=r"a/flair.nii.gz twice"):
        cases("a/flair.nii.gz", "a/flair.nii.gz")
