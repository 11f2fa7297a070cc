"""Every method and every missing-data setting as a person switches it on: one more configuration file."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_passion.bundle.steps import load_teacher, training_data
from monai_passion.data.presence import draw_presence
from monai_passion.errors import UsageError
from monai_passion.handlers import verify_checkpoint
from tests.helpers.tasks import BRATS_MRI, MYOPS_CMR

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "bundles" / "brats_mri_segmentation_rfnet_passion" / "configs" / "train.json"
METHODS = sorted(path.stem for path in (ROOT / "configs" / "methods").glob("*.json"))
MISSING = sorted(path.stem for path in (ROOT / "configs" / "missing").glob("*.json"))
TINY = {
    "epochs": 1,
    "val_interval": 1,
    "cache_rate": 0.0,
    "crop_size": [8, 8, 8],
    "roi_size": [16, 16, 16],
    "network_def#width": 4,
    "network_def#levels": 2,
}
TERMS = {
    "baseline": {"separate"},
    "hga": {"unimodal", "pixel", "prototype"},
    "moddrop": {"separate"},
    "ogm_ge": {"separate", "score"},
    "passion": {"pixel", "prototype"},
    "passion_released": {"separate", "pixel", "prototype"},
    "pmr": {"separate", "prototypical_cross_entropy", "score", "entropy"},
    "redcore": {"unimodal"},
    "subset_students": {"unimodal", "subset"},
    "teacher": {"separate", "teacher"},
    "unimodal": {"unimodal"},
    "unimodal_kl": {"unimodal", "pixel"},
}
"""Method -> its own loss terms."""
NAMES = {"flair": "flair", "t1c": "t1ce", "t1": "t1", "t2": "t2"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Six patients of 16^3 in the BraTS2020 layout (four of them for training), with their grades."""
    folder, rng = tmp_path_factory.mktemp("cohort"), np.random.default_rng(0)
    label = np.zeros((16, 16, 16), np.uint8)
    for value, margin in ((2, 3), (1, 5), (4, 7)):
        label[margin:-margin, margin:-margin, margin:-margin] = value
    for n in range(6):
        home = folder / f"P{n}"
        home.mkdir()
        for name in NAMES.values():
            image = 10 + 3 * label + rng.normal(size=label.shape)
            nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), home / f"P{n}_{name}.nii")
        nib.save(nib.Nifti1Image(label, np.eye(4)), home / f"P{n}_seg.nii")
    rows = [f"{'HGG' if n % 2 else 'LGG'},P{n}" for n in range(6)]
    (folder / "name_mapping.csv").write_text("\n".join(["Grade,BraTS_2020_subject_ID", *rows]) + "\n")
    return folder


def train(cohort, ckpt_dir, *fragments, **overrides):
    """Train as `python -m monai.bundle run training` does; return the curves, name -> modality -> value."""
    workflow = ConfigWorkflow(
        config_file=[str(TRAIN), *map(str, fragments)],
        workflow_type="train",
        run_id="training",
        logging_file=False,
        dataset_dir=str(cohort),
        ckpt_dir=str(ckpt_dir),
        **{**TINY, **overrides},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    curves = {}
    with open(ckpt_dir / "curves.csv", newline="") as file:
        for row in csv.DictReader(file):
            curves.setdefault(row["name"], {})[row["modality"]] = float(row["value"])
    return curves, workflow


def fragment(kind, name):
    return ROOT / "configs" / kind / f"{name}.json"


@pytest.mark.parametrize("method", METHODS)
def test_one_epoch_of_every_method(cohort, tmp_path, capsys, method):
    if method == "teacher":
        train(cohort, tmp_path / "teacher", fragment("methods", "baseline"))
        options = {"teacher_weights": str(tmp_path / "teacher" / "model_last.pt")}
    else:
        options = {"missing_rates": {"flair": 0.3, "t1c": 0.2, "t1": 0.0, "t2": 0.5}}
    curves, workflow = train(cohort, tmp_path / "run", fragment("methods", method), **options)
    assert all(np.isfinite(value) for values in curves.values() for value in values.values())
    assert curves["loss/total"][""] > 0
    assert set(curves["relative_preference"]) == set(NAMES)
    assert verify_checkpoint(tmp_path / "run" / "checkpoint_epoch=1.pt")
    saved = torch.load(tmp_path / "run" / "checkpoint_epoch=1.pt", weights_only=True)
    assert saved["metadata"]["method"] == method
    own = {name.removeprefix("loss/") for name in curves if name.startswith("loss/")}
    assert own - {"total", "segmentation", "gap"} == TERMS[method]
    metrics = workflow.parser.get_parsed_content("train#trainer").state.metrics
    assert metrics["loss/total"] == pytest.approx(curves["loss/total"][""], rel=1e-4)  # where MLflow finds them
    assert "loss/" not in capsys.readouterr().err


@pytest.mark.parametrize("component", ["pixel", "prototype", "delta", "beta"])
def test_a_component_is_switched_off_by_a_flag(component):
    parser = ConfigParser(ConfigParser.load_config_files([str(TRAIN)]))
    parser["loss#missing_rates"] = [0.0] * 4
    parser[f"loss#{component}"] = "false"  # as the command line hands it over
    loss = parser.get_parsed_content("loss")
    on = [bool(loss.lambda_pixel), bool(loss.lambda_proto), loss.use_delta, loss.use_beta]
    assert on == [name != component for name in ("pixel", "prototype", "delta", "beta")]


def test_pdt_fuses_some_and_encodes_all(cohort, tmp_path):
    _, workflow = train(cohort, tmp_path, fragment("missing", "pdt"))
    batches = [b for _ in range(8) for b in workflow.parser.get_parsed_content("train#dataloader")]
    assert all(b["available"].all() for b in batches)
    assert all(b["mask"].any() for b in batches)
    assert len({tuple(b["mask"][0].tolist()) for b in batches}) > 5


def test_heterogeneous_quality_leaves_every_modality_there(cohort, tmp_path):
    curves, workflow = train(cohort, tmp_path, fragment("missing", "quality"))
    assert all(b["available"].all() for b in workflow.parser.get_parsed_content("train#dataloader"))
    assert np.isfinite(curves["loss/total"][""])


@pytest.mark.parametrize("name", [n for n in MISSING if n.startswith("idt_") or n in ("extreme", "population")])
def test_rates_of_every_setting_can_be_drawn(name):
    rates = json.loads(fragment("missing", name).read_text())["missing_rates"]
    heart = name.startswith("idt_") and len(name) == len("idt_357")
    modalities = MYOPS_CMR if heart else BRATS_MRI
    groups = list(rates) * 100 if name == "population" else None
    table = draw_presence(200, rates, groups=groups, modalities=modalities)
    assert table.any(axis=1).all()
    if name.startswith("idt_"):
        digits = dict(zip(("t1", "t1c", "flair", "t2") if not heart else MYOPS_CMR, name[4:], strict=True))
        assert rates == {m: int(digits[m]) / 10 for m in modalities}


def test_a_population_has_its_own_rates(cohort, tmp_path):
    rates = {"HGG": [0.0, 0.0, 0.0, 0.0], "LGG": [0.0, 0.9, 0.0, 0.0]}
    data = training_data(str(cohort), "brats_mri", ckpt_dir=str(tmp_path), missing_rates=rates)
    lacking = {item["group"] for item in data["training"] if item["image"]["t1c"] is None}
    assert lacking == {"LGG"}


@pytest.mark.parametrize(
    ("rates", "says"),
    [
        ([0.2, 0.4, -0.1, 0.8], "missing rate -0.1 of t1 is not in"),
        ([0.2, 1.0, 0.1, 0.8], "missing rate 1.0 of t1c is not in"),
        ([0.2, 0.4, 0.1], "3 values for 4 modalities"),
        ([0.0, 0.0, 0.0, 0.95], "leave t2 to 0.2 of 4 cases"),
        ({"HGG": [0.1] * 4}, "no rates for the group"),
    ],
)
def test_wrong_rates_are_refused_before_training(cohort, tmp_path, rates, says):
    with pytest.raises(UsageError, match=says):
        training_data(str(cohort), "brats_mri", ckpt_dir=str(tmp_path), missing_rates=rates)
    assert not list(tmp_path.iterdir())


def test_a_teacher_without_weights_says_how_to_make_them():
    with pytest.raises(UsageError, match="add --set teacher_weights="):
        load_teacher(torch.nn.Identity(), "", BRATS_MRI)


@pytest.mark.slow
def test_wrong_rates_end_the_bundle_with_one_line_and_exit_code_2(cohort, tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(TRAIN)]
    command += ["--dataset_dir", str(cohort), "--ckpt_dir", str(tmp_path), "--missing_rates", "[0.2,1.0,0.1,0.8]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("monai-passion: error: missing rate 1.0 of t1c is not in [0, 1)")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("method", ["passion", "hga"])
def test_the_missing_rates_are_those_of_the_patients_also_where_a_method_repeats_them(cohort, tmp_path, method):
    """Of four training patients two lack T2; HGA has an item per combination that a patient has."""
    fragments = [ROOT / "configs" / "methods" / f"{method}.json"]
    train(cohort, tmp_path, *fragments, missing_rates=[0.0, 0.0, 0.0, 0.5])
    said = torch.load(tmp_path / "model_last.pt", weights_only=True)["metadata"]
    assert said["missing_rates"] == {"flair": 0.0, "t1c": 0.0, "t1": 0.0, "t2": 0.5}
    assert (said["seed"], said["class_names"]) == (0, ["background", "NCR/NET", "ED", "ET"])


def test_modalities_are_dropped_before_those_to_fuse_are_picked(cohort, tmp_path):
    """In the other order, a mask could ask for what was dropped."""
    fragments = [ROOT / "configs" / name for name in ("missing/pdt.json", "methods/moddrop.json")]
    assert "loss/total" in train(cohort, tmp_path, *fragments, epochs=3)[0]
