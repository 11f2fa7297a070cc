"""A bundle as a zip, on another machine: no repository, no package, another folder."""

import contextlib
import io
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
from monai.bundle import ConfigParser, ckpt_export, load
from monai.data import load_net_with_metadata

from monai_passion.bundle.export import export_bundle, export_torchscript, torchscript
from monai_passion.bundle.trust import check_trusted
from monai_passion.cli import main
from monai_passion.errors import UsageError, WeightsError
from monai_passion.networks import RFNet
from monai_passion.networks.weights import load_weights
from monai_passion.system.files import sha256
from tests.bundles.conftest import BUNDLES, NAMES, QUICK, ROOT, add_weights, row_of, small

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


def shrunk(name, folder):
    """A copy of a bundle that is small, with weights that nobody trained."""
    source = Path(shutil.copytree(BUNDLES / name, folder / "source" / name))
    for config in ("train", "evaluate", "inference"):
        path = source / "configs" / f"{config}.json"
        parser = ConfigParser(json.loads(path.read_text()))
        parser.update(small(row_of(source), config))
        path.write_text(json.dumps(parser.get()))
    add_weights(source)
    return source


@pytest.fixture
def exported(tmp_path):
    """A zip with weights and the package, small, unzipped in a folder of its own."""
    source = shrunk(NAME, tmp_path)
    export_bundle(source, tmp_path / "x.zip", vendor=True)
    shutil.rmtree(source)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "there")
    return tmp_path / "there"


def unzipped(file, folder):
    """The one folder of a zip, in ``folder``."""
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
        return folder / archive.namelist()[0].split("/")[0]


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
    assert f"{name}/monai_passion/bundle/steps/__init__.py" in paths


def test_the_same_bundle_gives_the_same_bytes(tmp_path):
    for file in ("a.zip", "b.zip"):
        export_bundle(BUNDLES / NAME, tmp_path / file)
    assert sha256(tmp_path / "a.zip") == sha256(tmp_path / "b.zip")


def test_weights_of_a_training_become_safetensors_with_their_checksum(tmp_path):
    state, told = {"a": torch.rand(3)}, {"network": "RFNet", "modalities": ["flair", "t1c", "t1", "t2"]}
    torch.save({"model": state, "metadata": told}, tmp_path / "model.pt")
    arguments = ["--weights", str(tmp_path / "model.pt"), "--output", str(tmp_path / "x.zip")]
    assert main(["bundles", "export", str(BUNDLES / NAME), *arguments]) == 0
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path)
    model = tmp_path / NAME / "models" / "model.safetensors"
    found, facts = load_weights(model)
    assert torch.equal(found["a"], state["a"])
    assert facts == told
    assert (model.parent / "model.safetensors.sha256").read_text() == f"{sha256(model)}  model.safetensors\n"


@pytest.mark.parametrize("name", NAMES)
def test_monai_loads_an_exported_bundle_from_its_zip(name, tmp_path):
    source = shrunk(name, tmp_path)
    export_bundle(source, tmp_path / "x.zip")
    (tmp_path / "source.json").write_text(json.dumps({"url": (tmp_path / "x.zip").as_uri()}))
    with contextlib.redirect_stdout(io.StringIO()):
        network = load(
            name, bundle_dir=tmp_path / "there", source="github", args_file=str(tmp_path / "source.json"), device="cpu"
        )
    expected, _ = load_weights(source / "models" / "model.safetensors")
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], values) for key, values in expected.items())


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES])
def test_ckpt_export_gives_torchscript_that_takes_what_is_available(name, tmp_path):
    source = shrunk(name, tmp_path)
    export_bundle(source, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path)
    folder, config = tmp_path / name, tmp_path / name / "configs" / "inference.json"
    with contextlib.redirect_stdout(io.StringIO()):
        ckpt_export("torchscript", bundle_root=str(folder), config_file=str(config), filepath=str(tmp_path / "x.ts"))
    scripted = torch.jit.load(tmp_path / "x.ts")
    parser = ConfigParser()
    parser.read_config(str(config))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(load_weights(folder / "models" / "model.pt")[0])
    modalities = len(parser["modalities"])
    image = torch.randn(1, modalities, *parser["roi_size"])
    for present in ([0], [1, 2], range(modalities)):
        available = torch.tensor([[m in present for m in range(modalities)]])
        with torch.no_grad():
            found, expected = (run(image, available).softmax(dim=1) for run in (scripted, network))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_configurations_get_the_settings_of_the_weights(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "metadata": {"settings": {"width": 3}}}, tmp_path / "model.pt")
    export_bundle(BUNDLES / NAME, tmp_path / "x.zip", weights=tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path)
    for config in ("train", "evaluate", "inference"):
        assert json.loads((tmp_path / NAME / "configs" / f"{config}.json").read_text())["width"] == 3
    assert (tmp_path / NAME / "docs" / "README.md").read_text().endswith("| `width` | 3 |\n")
    check_trusted(tmp_path / NAME)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"network": "MMFormer"}, "weights of MMFormer, not of RFNet"),
        ({"network": "RFNet", "modalities": ["t1", "t1c", "flair", "t2"]}, "has modalities"),
        ({"network": "RFNet", "num_classes": 3}, "has num_classes 3"),
    ],
)
def test_weights_of_another_network_or_order_of_modalities_are_refused(tmp_path, metadata, said):
    torch.save({"model": {"a": torch.zeros(1)}, "metadata": metadata}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=said):
        export_bundle(BUNDLES / NAME, tmp_path / "x.zip", weights=tmp_path / "model.pt")
    assert not (tmp_path / "x.zip").exists()


def test_torchscript_has_the_settings_of_its_weights_for_those_who_prepare_images_by_it(tmp_path):
    network = RFNet(width=2)
    settings = {"spacing": [2.0, 2.0, 2.0], "minimum_et_ml": 0.5}
    export_torchscript(network, tmp_path / "m.ts", (16, 16, 16), BUNDLES / NAME, settings=settings)
    more = load_net_with_metadata(str(tmp_path / "m.ts"), more_extra_files=["inference.json"])[2]
    inside = json.loads(more["inference.json"])
    assert {key: inside[key] for key in settings} == settings


def test_a_window_as_large_as_memory_allows_is_exported_as_crops_of_the_training(tmp_path, capsys):
    source = shrunk(NAME, tmp_path)
    path = source / "configs" / "inference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "roi_size": [-1, 32, -1], "crop_size": [32, 16, 16]}))
    arguments = ["--output", str(tmp_path / "model.ts"), "--trust"]
    assert main(["bundles", "export", str(source), *arguments]) == 0
    assert "exported for windows of [32, 32, 16] voxels" in capsys.readouterr().out
    with pytest.raises(UsageError, match="windows of one size"):
        torchscript(RFNet(width=2), [-1, 32, 32])


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
    seg, image = nib.load(exported / "out" / "anna_seg.nii.gz"), nib.load(exported / "flair.nii.gz")
    assert seg.shape == image.shape
    assert np.allclose(seg.affine, image.affine)


@pytest.mark.slow
def test_monais_own_command_segments_a_folder_of_patients_from_any_folder(exported, cohorts, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    config = exported / NAME / "configs" / "inference.json"
    arguments = ["--config_file", str(config), "--dataset_dir", str(cohorts["brats_mri"])]
    command = [sys.executable, "-m", "monai.bundle", "run", *arguments]
    done = run(command, tmp_path / "elsewhere", str(exported / NAME))
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (exported / NAME / "eval").iterdir()} == {f"case{k}_seg.nii.gz" for k in range(4)}
    assert not any((tmp_path / "elsewhere").iterdir())
