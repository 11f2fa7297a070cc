"""A network as ONNX gives the numbers that it gives itself."""

import re
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_passion.bundle.export import export_onnx
from monai_passion.cli import main
from monai_passion.networks import M2FTrans, MMFormer, RFNet, TransUNet
from tests.bundles.conftest import QUICK, ROOT
from tests.bundles.test_export import run, shrunk

BUNDLE = QUICK[0]

NETWORKS = {
    "rfnet": lambda: RFNet(3, 4, spatial_dims=2, width=2),
    "mmformer": lambda: MMFormer(3, 4, spatial_dims=2, width=2, roi_size=32, embedding=16, mlp=16),
    "m2ftrans": lambda: M2FTrans(3, 4, spatial_dims=2, width=2, roi_size=32, mlp=16),
    "transunet": lambda: TransUNet(3, 4, spatial_dims=2, channels=(2, 4, 8, 16, 32), roi_size=32, embedding=16, mlp=16),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_gives_the_same_numbers_for_several_masks(name, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install onnx onnxscript onnxruntime")
    import onnxruntime

    network = NETWORKS[name]().eval()
    session = onnxruntime.InferenceSession(export_onnx(network, tmp_path / "network.onnx", (32, 32)))
    image = torch.randn(1, 3, 32, 32)
    for mask in ((True, True, True), (True, False, False), (False, True, True)):
        available = torch.tensor([mask])
        with torch.no_grad():
            eager = network(image, available).softmax(dim=1)
        (pred,) = session.run(None, {"image": image.numpy(), "available": available.numpy()})
        torch.testing.assert_close(torch.from_numpy(pred).softmax(dim=1), eager, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_script_without_pytorch_segments_as_the_bundle_does(tmp_path, cohorts):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install onnx onnxscript onnxruntime")
    text = (ROOT / "docs" / "how-to" / "use-without-installing.md").read_text()
    script = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "onnxruntime" in block)
    source = shrunk(BUNDLE, tmp_path)
    assert main(["bundles", "export", str(source), "--output", str(tmp_path / "x.onnx"), "--trust"]) == 0
    case = cohorts["brats_mri"] / "case1"
    given = {"flair": case / "case1_flair.nii.gz", "t1c": case / "case1_t1ce.nii.gz"}
    words = [f"{name}={path}" for name, path in given.items()]
    done = run([sys.executable, "-c", script, "x.onnx", "out.nii.gz", *words], tmp_path)
    assert done.returncode == 0, done.stderr
    overlap = ["--bundle", str(source), "--trust", "--overlap", "0.5", "--output", str(tmp_path / "ours")]
    assert (
        main(["predict", *overlap, *(word for name, path in given.items() for word in (f"--{name}", str(path)))]) == 0
    )
    ours, theirs = (nib.load(tmp_path / path) for path in ("ours/segmentation.nii.gz", "out.nii.gz"))
    assert np.allclose(ours.affine, theirs.affine)
    assert (np.asarray(ours.dataobj) == np.asarray(theirs.dataobj)).mean() > 0.999
