"""`multi_gpu_train.json` with two processes on the CPU, started as torchrun starts them."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from monai_passion.handlers import newest_checkpoint, read_checkpoint
from tests.bundles.conftest import BUNDLES, COHORTS, ROOT, row_of, small, write_case

NAME = "brats_mri_segmentation_rfnet_passion"
PATIENTS = 4


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Four training patients and a validation patient; the second and fourth, which the second process gets, have one
    modality only, so three of its encoders are skipped."""
    folder = tmp_path_factory.mktemp("cohort")
    files = dict(zip(("flair", "t1c", "t1", "t2"), COHORTS["brats_mri"][0], strict=True))
    items = []
    for k in range(PATIENTS + 1):
        case = f"case{k}"
        write_case(folder, case, "brats_mri", k)
        kept = ("t1",) if k in (1, 3) else tuple(files)
        image = {m: f"{case}/{case}_{name}.nii.gz" if m in kept else None for m, name in files.items()}
        label = f"{case}/{case}_seg.nii.gz"
        items.append({"case": case, "patient": case, "group": "unknown", "image": image, "label": label})
    splits = {"training": items[:PATIENTS], "validation": items[PATIENTS:], "test": []}
    (folder / "list.json").write_text(json.dumps({"task": "brats_mri", "modalities": list(files), **splits}))
    return folder


def train(tmp_path, cohort, processes):
    """One epoch over all patients in order, two a step; returns the checkpoint and the epoch's values."""
    bundle = tmp_path / NAME
    shutil.copytree(BUNDLES / NAME, bundle)
    changes = {
        **small(row_of(bundle), "train"),
        "dataset_dir": str(cohort),
        "datalist": str(cohort / "list.json"),
        "augment": [
            {"_target_": "SpatialPadd", "keys": ["image", "label"], "spatial_size": "@crop_size"},
            {"_target_": "CenterSpatialCropd", "keys": ["image", "label"], "roi_size": "@crop_size"},
        ],
        "batch_size": 2 // processes,
        # Not AdamW, which makes whole steps of gradients that are nothing but rounding, as before a normalization.
        "optimizer": {
            "_target_": "torch.optim.SGD",
            "params": "$@training_network.parameters()",
            "lr": 0.01,
            "momentum": 0.9,
        },
        "train#sampler#shuffle" if processes > 1 else "train#dataloader#shuffle": False,
    }
    (tmp_path / "small.json").write_text(json.dumps(changes))
    names = ["train", "multi_gpu_train"] if processes > 1 else ["train"]
    configs = [str(bundle / "configs" / f"{name}.json") for name in names] + [str(tmp_path / "small.json")]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "monai.bundle", "run", "training", "--config_file", str(configs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(bundle / "models" / "curves.csv") as file:
        curves = {(row["name"], row["modality"]): float(row["value"]) for row in csv.DictReader(file)}
    shown = re.findall(r"loss ([\d.]+), mean dice", (bundle / "models" / "log.txt").read_text())
    assert [float(loss) for loss in shown] == [pytest.approx(curves["loss/total", ""], abs=1e-4)]  # of all processes
    return read_checkpoint(newest_checkpoint(bundle / "models")), curves


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_with_twice_the_batch(cohort, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, curves_one = train(tmp_path / "one", cohort, 1)
    two, curves_two = train(tmp_path / "two", cohort, 2)
    for (name, modality), value in curves_one.items():  # for docs/how-to/train-on-many-gpus.md
        print(f"{name:<24} {modality:<6} {value:>16.9f} {curves_two[name, modality]:>16.9f}")
    print("beta                    ", *(checkpoint["objective"]["beta"].tolist() for checkpoint in (one, two)))
    assert curves_two.keys() == curves_one.keys()
    dice = ("mean_dice", "")  # counts voxels, some of which lie on the fence
    assert curves_two.pop(dice) == pytest.approx(curves_one.pop(dice), abs=1e-2)
    assert curves_two == pytest.approx(curves_one, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(two["objective"]["beta"], one["objective"]["beta"], rtol=1e-5, atol=1e-7)
    assert len(set(one["objective"]["beta"].tolist())) > 1
    for key, weights in one["model"].items():
        torch.testing.assert_close(
            two["model"][key], weights, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}"
        )
