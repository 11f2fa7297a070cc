"""A bundle as a zip, on another machine: no repository, no package, another folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_passion.cli import main
from monai_passion.exporting import export_bundle
from monai_passion.files import sha256
from monai_passion.networks.weights import load_weights
from tests.bundles.conftest import BUNDLES, NAMES, ROOT, add_weights, row_of, small

NAME = "brats_mri_segmentation_rfnet_passion"
FINDS_NO_PACKAGE = """
import importlib.machinery as machinery, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "monai_passion":
            return machinery.PathFinder.find_spec(name, [p for p in sys.path if "segmentation" in p])
sys.meta_path.insert(0, Hide())
"""
"""Hides an installed monai_passion; what is in a bundle's folder is found."""


@pytest.fixture
def exported(tmp_path):
    """A zip with weights and the package, small, unzipped in a folder of its own."""
    source = Path(shutil.copytree(BUNDLES / NAME, tmp_path / "source" / NAME))
    add_weights(source)
    config = source / "configs" / "inference.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, **small(row_of(source), "inference")}))
    export_bundle(source, tmp_path / "x.zip", vendor=True)
    shutil.rmtree(source)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "there")
    return tmp_path / "there"


def run(command, folder, path=""):
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("name", NAMES)
def test_a_zip_has_one_folder_and_no_path_out_of_it(name, tmp_path):
    export_bundle(BUNDLES / name, tmp_path / "x.zip", vendor=True)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        paths = archive.namelist()
    assert {path.split("/")[0] for path in paths} == {name}
    assert not any(".." in Path(path).parts or path.startswith("/") or "\\" in path for path in paths)
    assert f"{name}/monai_passion/workflow.py" in paths


def test_the_same_bundle_gives_the_same_bytes(tmp_path):
    for file in ("a.zip", "b.zip"):
        export_bundle(BUNDLES / NAME, tmp_path / file)
    assert sha256(tmp_path / "a.zip") == sha256(tmp_path / "b.zip")


def test_weights_of_a_training_become_safetensors_with_their_checksum(tmp_path):
    state = {"a": torch.rand(3)}
    torch.save({"model": state, "metadata": {"network": "RFNet", "modalities": ["t1"]}}, tmp_path / "model.pt")
    arguments = ["--weights", str(tmp_path / "model.pt"), "--output", str(tmp_path / "x.zip")]
    assert main(["bundles", "export", str(BUNDLES / NAME), *arguments]) == 0
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path)
    model = tmp_path / NAME / "models" / "model.safetensors"
    found, facts = load_weights(model)
    assert torch.equal(found["a"], state["a"])
    assert facts == {"network": "RFNet", "modalities": ["t1"]}
    assert (model.parent / "model.safetensors.sha256").read_text() == f"{sha256(model)}  model.safetensors\n"


def test_a_file_that_is_there_stays_unless_overwrite_is_given(tmp_path, capsys):
    (tmp_path / "x.zip").write_text("mine")
    assert main(["bundles", "export", str(BUNDLES / NAME), "--output", str(tmp_path / "x.zip")]) == 2
    assert (tmp_path / "x.zip").read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err


def test_a_strangers_script_segments_three_files_with_plain_monai(exported, cohorts):
    text = (ROOT / "docs" / "how-to" / "use-without-installing.md").read_text()
    script = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    assert "monai_passion" not in script
    assert len(script.splitlines()) <= 10
    case = cohorts["brats_mri"] / "case1"
    for modality in ("flair", "t1", "t2"):
        (exported / f"{modality}.nii.gz").symlink_to(case / f"case1_{modality}.nii.gz")
    done = run([sys.executable, "-c", FINDS_NO_PACKAGE + script], exported)
    assert done.returncode == 0, done.stderr[-3000:]
    seg, image = nib.load(exported / "out" / "flair_seg.nii.gz"), nib.load(exported / "flair.nii.gz")
    assert seg.shape == image.shape
    assert np.allclose(seg.affine, image.affine)


@pytest.mark.slow
def test_an_unzipped_bundle_runs_by_monais_own_command(exported, cohorts):
    config = f"{NAME}/configs/inference.json"
    arguments = ["--dataset_dir", str(cohorts["brats_mri"]), "--output_dir", "out", "--split", "training"]
    done = run([sys.executable, "-m", "monai.bundle", "run", "--config_file", config, *arguments], exported, NAME)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((exported / "out").glob("*_seg.nii.gz"))
