"""The package as users have it: a wheel in a fresh environment, without the checkout."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if name.startswith(("monai_passion/", "configs/", "bundles/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    subprocess.run([*build, str(folder), str(source)], check=True, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_bundles_and_fragments_and_no_training(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "bundles/brats_mri_segmentation_rfnet_passion/configs/train.json",
        "bundles/myops_cmr_segmentation_rfnet_passion/docs/README.md",
        "configs/tasks/brats_mri/task.json",
        "configs/LICENSE",
        "bundle/known_bundles.json",
    ):
        assert f"monai_passion/{part}" in names
    assert not [name for name in names if "/models/" in name or name.startswith("tests/")]


@pytest.mark.slow
def test_installed_into_a_fresh_environment_it_segments_from_anywhere(wheel, weights, tmp_path):
    venv.create(tmp_path / "venv", system_site_packages=True, with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    image = np.random.default_rng(0).random((32, 34, 36), dtype=np.float32)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "flair.nii.gz")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*words):
        command = [str(python), "-m", "monai_passion", *map(str, words)]
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert str(site) in run("info", "rfnet")
    words = ["--bundle", "rfnet", "--weights", weights, "--flair", tmp_path / "flair.nii.gz", "--device", "cpu"]
    run("predict", *words, "--output", tmp_path / "out")
    assert (tmp_path / "out" / "segmentation.nii.gz").is_file()
    run("bundles", "make", "--task", "myops_cmr", "--network", "mmformer", "--output", tmp_path / "my_bundle")
    assert (tmp_path / "my_bundle" / "LICENSE").is_file()
