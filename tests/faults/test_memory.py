"""A machine without enough memory, caused by a limit on the address space of the process."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

PROGRAM = """
import resource, sys, torch
from monai_passion.cli import main
from monai_passion.prediction.segmenter import Segmenter

torch.set_num_threads(1)
segment = Segmenter.segment

def limited(self, *args):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]) * 2**20, -1))
    try:
        return segment(self, *args)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))

Segmenter.segment = limited
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def run(weights, tmp_path):
    grid = np.stack(np.meshgrid(*[np.linspace(-1.04, 1.04, 96)] * 3, indexing="ij"))
    data = (np.random.default_rng(0).random(grid.shape[1:]) + 1) * ((grid**2).sum(axis=0) < 1)
    nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), tmp_path / "flair.nii.gz")

    def run(megabytes):
        command = ["predict", "--flair", "flair.nii.gz", "--output", f"out{megabytes}", "--no-page"]
        command += [
            "--weights",
            str(weights),
            "--device",
            "cpu",
            "--roi-size",
            "96",
            "--overlap",
            "0",
            "--precision",
            "fp32",
        ]
        full = [sys.executable, "-c", PROGRAM, str(megabytes), *command]
        return subprocess.run(full, cwd=tmp_path, capture_output=True, text=True, check=False), tmp_path

    return run


@pytest.mark.faults
def test_memory_for_smaller_windows_only_gives_a_result_with_a_warning(run, outcome):
    done, folder = run(400)
    assert done.returncode == 0, done.stderr
    (finding,) = [
        finding["text"]
        for finding in json.loads((folder / "out400" / "report.json").read_text())["findings"]
        if "memory" in finding["text"]
    ]
    assert "windows of" in finding
    outcome("memory short in predict", "400 MB more for windows of 96x96x96 voxels", 1, f"nothing; {finding}")


@pytest.mark.faults
def test_no_memory_at_all_ends_in_one_line_and_leaves_nothing(run, outcome):
    done, folder = run(5)
    assert done.returncode == 5, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.endswith("...") and not line.startswith("note: ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("monai-passion: error: not enough memory")
    assert not list(folder.glob("*out*"))
    outcome("no memory in predict", "5 MB more", 1, "that patient; exit 5, nothing left behind")
