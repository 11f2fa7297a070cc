"""The package as users have it: sdist and wheel, and the wheel in a fresh environment, without the checkout."""

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import monai_passion

ROOT = Path(__file__).parents[1]


LARGEST_MB = 40
"""docs/reference/platforms.md says about 37."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if name.startswith(("monai_passion/", "configs/", "bundles/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    run = subprocess.run(build, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("*.whl"))


def test_the_version_has_one_place_that_the_others_follow():
    version = monai_passion.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)[1] == version
    bundles = [json.loads(path.read_text()) for path in (ROOT / "bundles").glob("*/configs/metadata.json")]
    assert {bundle["version"] for bundle in bundles} == {version}


@pytest.mark.slow
def test_the_wheel_holds_bundles_fragments_schemas_weights_and_licenses_and_no_training(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    package = [name.removeprefix("monai_passion/") for name in names if name.startswith("monai_passion/")]
    rows = json.loads((ROOT / "configs" / "bundles.json").read_text(encoding="utf-8"))
    for row in rows:
        for part in ("configs/train.json", "configs/metadata.json", "docs/README.md", "LICENSE"):
            assert f"bundles/{row['name']}/{part}" in package
    tracked = subprocess.run(["git", "ls-files", "monai_passion", "configs"], cwd=ROOT, capture_output=True, text=True)
    assert {name.removeprefix("monai_passion/") for name in tracked.stdout.split()} <= set(package)
    info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    licenses = [name for name in names if name.startswith(f"{info}/licenses/")]
    assert {Path(name).name for name in licenses} == {"LICENSE", "LICENSE-niivue.txt"}
    assert not [name for name in names if "/models/" in name or name.startswith("tests/")]
    assert {Path(name).parts[0] for name in names} == {"monai_passion", info}


@pytest.mark.slow
def test_sdist_and_wheel_are_small_sound_and_say_the_same_version(built):
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    assert sdist.stat().st_size < LARGEST_MB * 1e6
    assert wheel.stat().st_size < LARGEST_MB * 1e6
    check = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel], capture_output=True)
    assert check.returncode == 0, check.stdout
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(name) for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    assert message_from_bytes(metadata)["Version"] == monai_passion.__version__
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "configs/bundles.json", "setup.py"} <= names


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
