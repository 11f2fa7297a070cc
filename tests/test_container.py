"""The Dockerfile and environment.yml: a linter accepts them, and their steps lead to a command that runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
STEPS = [
    tuple(line.split(maxsplit=1))
    for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
"""Instruction, and what it has."""


def steps(instruction):
    return [text for name, text in STEPS if name == instruction]


def allowed_into_the_image():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line[1:] for line in lines if line.startswith("!")]


def test_a_linter_accepts_the_dockerfile():
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    run = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_the_image_gets_all_that_the_build_needs_and_nothing_else():
    assert [name for name in allowed_into_the_image() if not (ROOT / name).exists()] == []
    needed = {"setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "constraints.txt", "monai_passion"}
    assert needed <= set(allowed_into_the_image())


def test_the_image_runs_as_nobody_special_and_answers_with_help():
    assert steps("USER")[-1] not in ("root", "0")
    assert json.loads(steps("ENTRYPOINT")[0]) == ["monai-passion"]
    assert json.loads(steps("CMD")[0]) == ["--help"]


def test_conda_installs_a_supported_python_and_the_torch_of_the_constraints():
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    plain = [entry for entry in content["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    (python,) = (entry.removeprefix("python=") for entry in plain if entry.startswith("python="))
    assert python in SpecifierSet(setup["options"]["python_requires"])
    assert "pip" in plain
    assert "-c constraints.txt" in pip
    (torch,) = (entry for entry in pip if not entry.startswith(("-", ".")) if Requirement(entry).name == "torch")
    assert torch in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    extras = re.fullmatch(r"\.\[(.+)\]", pip[-1])
    assert extras
    assert set(extras[1].split(",")) <= set(setup["options.extras_require"])


@pytest.mark.slow
def test_the_steps_of_the_dockerfile_lead_to_a_command_that_runs(tmp_path):
    context = tmp_path / "context"
    context.mkdir()
    for name in allowed_into_the_image():
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "models", "eval")
        shutil.copytree(source, context / name, ignore=ignored) if source.is_dir() else shutil.copy(source, context)
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{bin_folder}{os.pathsep}{environment['PATH']}"
    for step in steps("RUN"):
        if step.startswith("useradd"):
            continue
        step = step.replace('--index-url "$TORCH_INDEX"', "")  # the index that pip has here
        run = subprocess.run(["sh", "-ec", step], cwd=context, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{step}\n{run.stderr[-3000:]}"
    command = [str(bin_folder / "monai-passion"), *json.loads(steps("CMD")[0])]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "not a medical device" in run.stdout
