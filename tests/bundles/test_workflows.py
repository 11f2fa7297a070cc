"""The bundles at work, small, on cohorts that are written here."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow

from monai_passion.errors import UsageError
from monai_passion.modalities import combinations
from tests.bundles.conftest import CONFIGS, NAMES, QUICK, add_weights, row_of, small, workflow_of, write_case


def run(workflow):
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@pytest.mark.parametrize(
    "bundle", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES], indirect=True
)
def test_trains_evaluates_and_segments_from_a_foreign_folder(bundle, cohorts, tmp_path, monkeypatch):
    task = row_of(bundle)["task"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(bundle))  # as `python -m monai.bundle run` does
    places = {"dataset_dir": str(cohorts[task])}
    for config in ("train", "evaluate", "inference"):
        run(workflow_of(bundle, config, **places, **({"split": "test"} if config != "train" else {})))
    assert not any((tmp_path / "elsewhere").iterdir())

    model = json.loads((bundle / "models" / "datalist.json").read_text())
    case = model["test"][0]["case"]
    with open(bundle / "eval" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert len({row["combination"] for row in rows}) == len(combinations(model["modalities"]))
    depth = 3 if task == "myops_cmr" else 1
    assert len({row["case"] for row in rows}) == depth * len(model["test"])

    seg = nib.load(next((bundle / "eval").glob(f"{case}*_seg.nii.gz")))
    label = nib.load(next((cohorts[task] / case).glob("*_[sg][ed]*.nii.gz")))
    assert seg.shape == label.shape
    assert np.allclose(seg.affine, label.affine)
    known = {0, 1, 2, 4} if task == "brats_mri" else {0, 200, 500, 600, 1220, 2221}
    assert set(np.unique(seg.get_fdata())) <= known


@pytest.mark.parametrize(
    "bundle", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES], indirect=True
)
def test_runs_through_create_workflow(bundle, cohorts, tmp_path):
    add_weights(bundle)
    row = row_of(bundle)
    workflow = create_workflow(
        config_file=str(bundle / "configs" / "inference.json"),
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=str(cohorts[row["task"]]),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        **small(row, "inference"),
    )
    run(workflow)
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 4


@pytest.mark.parametrize("bundle", QUICK[:1], indirect=True)
def test_nothing_is_segmented_where_every_image_is_0(bundle, tmp_path):
    add_weights(bundle)
    hole = (slice(8, 20),) * 3
    write_case(tmp_path / "patients", "anna", "brats_mri", 0)
    for path in (tmp_path / "patients" / "anna").glob("*.nii.gz"):
        image = nib.load(path)
        data = image.get_fdata()
        data[hole] = 0
        nib.save(nib.Nifti1Image(data.astype(image.get_data_dtype()), image.affine), path)
    places = {"dataset_dir": str(tmp_path / "patients"), "output_dir": str(tmp_path / "out"), "overlap": 0.0}
    run(workflow_of(bundle, "inference", **places))
    found = nib.load(tmp_path / "out" / "anna_seg.nii.gz").get_fdata()
    assert found.any()
    assert not found[hole].any()


@pytest.mark.parametrize("bundle", ["myops_cmr_segmentation_rfnet_passion"], indirect=True)
def test_a_slice_network_trains_on_every_slice_which_caches_keep_and_validates_on_volumes(bundle, cohorts, tmp_path):
    places = {"dataset_dir": str(cohorts["myops_cmr"]), "ckpt_dir": str(bundle / "models")}
    workflow = workflow_of(bundle, "train", **places, cache_dir=str(tmp_path / "cache"))
    workflow.initialize()
    training, validation = (workflow.parser.get_parsed_content(f"{part}#dataset") for part in ("train", "validate"))
    assert len(training) == 3 * len({item["patient"] for item in training.data})
    assert training[0]["image"].shape == (3, 32, 32)
    sizes = [path.stat().st_size for path in (tmp_path / "cache").iterdir()]
    assert sum(4 * 4 * 32 * 32 < size < 1.5 * 4 * 4 * 32 * 32 for size in sizes) == len(training)  # image and label
    assert len(validation) == len({item["patient"] for item in validation.data})
    assert validation[0]["image"].shape == (3, 32, 32, 3)


@pytest.mark.parametrize("bundle", QUICK, indirect=True)
def test_the_cache_on_disk_changes_no_item_and_repairs_itself(bundle, cohorts, tmp_path, capfd):
    places = {"dataset_dir": str(cohorts[row_of(bundle)["task"]]), "ckpt_dir": str(tmp_path / "run"), "cache_rate": 0.0}

    def items(**changes):
        workflow = workflow_of(bundle, "train", **places, **changes)
        workflow.initialize()
        return workflow.parser.get_parsed_content("validate#dataset")[0]

    plain, computed, read = items(), *(items(cache_dir=str(tmp_path / "cache")) for _ in range(2))
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    repaired = items(cache_dir=str(tmp_path / "cache"))
    assert capfd.readouterr().err.count("computed again") == 1
    for other in (computed, read, repaired):
        assert other.keys() == plain.keys()
        for key in ("image", "label", "available"):
            assert torch.equal(torch.as_tensor(other[key]), torch.as_tensor(plain[key]))
        assert (other["image"].pixdim == plain["image"].pixdim).all()


def fast_training(bundle, folder, *fragments, **changes):
    """`configs/tasks/brats_mri/fast.json` among other files on top of a bundle's training, small."""
    for k in range(4):
        write_case(folder / "patients", f"case{k}", "brats_mri", k)
    places = {"dataset_dir": str(folder / "patients"), "ckpt_dir": str(folder / "run"), "val_interval": 1}
    return ConfigWorkflow(
        config_file=[str(bundle / "configs" / "train.json"), *(str(CONFIGS / f"{name}.json") for name in fragments)],
        workflow_type="train",
        device="cpu",
        bundle_root=str(bundle),
        **{**places, "epochs": 1, "width": 2, "spacing": [-1] * 3, "crop_size": [16] * 3, "roi_size": [48] * 3},
        **changes,
    )


@pytest.mark.parametrize(
    ("fragments", "accumulate"),
    [(("methods/baseline", "tasks/brats_mri/fast"), 2), (("tasks/brats_mri/fast", "methods/ogm_ge"), 1)],
)
@pytest.mark.parametrize("bundle", QUICK[:1], indirect=True)
def test_the_fast_training_transplants_averages_and_takes_healthy_heads(bundle, tmp_path, fragments, accumulate):
    """Under every method; `ogm_ge` brings a handler of its own."""
    for name in ("healthy", "case0", "case1", "case2", "case3"):
        write_case(tmp_path / "heads", name, "brats_mri", 7)
    workflow = fast_training(
        bundle, tmp_path, *fragments, healthy_dir=str(tmp_path / "heads"), accumulate=accumulate, ema_rate=0.19
    )
    workflow.initialize()
    data = workflow.parser.get_parsed_content("data")
    held = {item["patient"] for split in ("validation", "test") for item in data[split]}
    healthy = {item["patient"] for item in data["training"] if item["label"] is None}
    assert healthy == {"healthy", *(item["patient"] for item in data["training"])}
    assert held
    assert not healthy & held
    run_network, averaged = (workflow.parser.get_parsed_content(key) for key in ("network", "averaging"))
    assert 1 - (1 - averaged.momentum) ** accumulate == pytest.approx(0.19)  # once per batch, rate per step
    before = {name: values.clone() for name, values in run_network.state_dict().items()}
    workflow.run()
    stored = torch.load(tmp_path / "run" / "model.pt", weights_only=True)["model"]
    for name, values in averaged.ema_model.state_dict().items():
        assert torch.equal(stored[name], values)
    for other in (before, run_network.state_dict()):
        assert any(not torch.equal(stored[name], values) for name, values in other.items())


@pytest.mark.parametrize("fragments", [(), ("methods/pmr",)])
@pytest.mark.parametrize("bundle", QUICK[:1], indirect=True)
def test_a_method_is_not_trained_without_what_it_learns_from(bundle, tmp_path, fragments, capfd):
    workflow = fast_training(bundle, tmp_path, *fragments, "tasks/brats_mri/fast")
    with pytest.raises(RuntimeError) as caught:
        run(workflow)
    assert "cached" not in capfd.readouterr().err  # nothing was computed yet
    cause = caught.value
    while not isinstance(cause, UsageError):
        cause = cause.__cause__
    assert "name the configuration of the method after that of the task" in str(cause)


@pytest.mark.parametrize("task", ["tasks/brats_mri/fast", "tasks/brats_mri/cubes", "smoke"])
@pytest.mark.parametrize("what", ["methods/moddrop", "missing/pdt", "missing/quality"])
def test_what_a_method_does_to_the_images_does_not_depend_on_the_order_of_the_fragments(task, what):
    found = []
    for order in ((task, what), (what, task)):
        parser = ConfigParser()
        base = CONFIGS.parent / "bundles" / "brats_mri_segmentation_rfnet_passion" / "configs" / "train.json"
        parser.read_config([str(base), *(str(CONFIGS / f"{name}.json") for name in order)])
        found.append(
            [step["_target_"] for step in (*parser["augment"], *parser["method_augment"], *parser["missing_augment"])]
        )
    assert found[0] == found[1]
    assert found[0][-1].rpartition(".")[2] in ("RandDropModalitiesd", "RandMaskModalitiesd", "RandDegradeModalityd")
