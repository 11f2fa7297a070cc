"""MONAI Deploy runs an exported network by the application of the documents, in its own environment.

``MONAI_PASSION_DEPLOY_PYTHON`` is a Python with ``monai-deploy-app-sdk`` and what this package needs.
"""

import os
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from monai_passion.cli import main
from tests.bundles.conftest import ROOT, write_case
from tests.bundles.test_export import NAME, shrunk

PYTHON = os.environ.get("MONAI_PASSION_DEPLOY_PYTHON", sys.executable)


@pytest.mark.slow
def test_the_application_segments_three_files_as_the_bundle_does(tmp_path):
    if subprocess.run([PYTHON, "-c", "import monai.deploy.core"], capture_output=True).returncode:
        pytest.skip("monai-deploy-app-sdk is not installed; give a Python that has it as MONAI_PASSION_DEPLOY_PYTHON")
    text = (ROOT / "docs" / "how-to" / "use-without-installing.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "app.py").write_text(next(block for block in blocks if "monai.deploy" in block))
    source = shrunk(NAME, tmp_path)
    assert main(["bundles", "export", str(source), "--output", str(tmp_path / "model.ts"), "--trust"]) == 0
    write_case(tmp_path, "case1", "brats_mri", 1)
    (tmp_path / "in").mkdir()
    given = {name: tmp_path / "in" / f"{name}.nii.gz" for name in ("flair", "t1c", "t2")}
    for name, path in given.items():
        (tmp_path / "case1" / f"case1_{name.replace('t1c', 't1ce')}.nii.gz").rename(path)
    places = ["-i", "in", "-m", "model.ts", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([PYTHON, "app.py", *places], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    files = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    ours = tmp_path / "ours"
    assert main(["predict", "--bundle", str(source), "--trust", "--output", str(ours), "--device", "cpu", *files]) == 0
    theirs, ours = nib.load(tmp_path / "out" / "segmentation.nii.gz"), nib.load(ours / "segmentation.nii.gz")
    assert np.allclose(theirs.affine, ours.affine)
    assert np.asarray(ours.dataobj).any()
    assert (np.asarray(theirs.dataobj) == np.asarray(ours.dataobj)).mean() > 0.999
