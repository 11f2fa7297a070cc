"""A network as ONNX gives the numbers that it gives itself, to programs that have no PyTorch."""

import ast
import re
import sys
import warnings
from functools import partial
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_passion.bundle.export import describe_network, export_onnx
from monai_passion.bundle.facts import find_bundle
from monai_passion.bundle.weights import PHANTOM, shipped_weights
from monai_passion.cli import main
from monai_passion.networks import HeteroModalUNet, M2FTrans, MMFormer, RFNet, TransUNet
from monai_passion.prediction.segmenter import Segmenter
from tests.bundles.conftest import QUICK, ROOT

BUNDLE = QUICK[0]

CHANNELS = (2, 4, 8, 16, 32)
NETWORKS = {
    "rfnet": partial(RFNet, width=2),
    "unet": partial(HeteroModalUNet, channels=CHANNELS),
    "mmformer": partial(MMFormer, width=2, roi_size=32, embedding=16, mlp=16),
    "m2ftrans": partial(M2FTrans, width=2, roi_size=32, mlp=16),
    "transunet": partial(TransUNet, channels=CHANNELS, roi_size=32, embedding=16, mlp=16),
}


@pytest.fixture(scope="module")
def onnxruntime():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install 'monai_passion[export]'")
    import onnxruntime

    return onnxruntime


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spatial_dims"), [*((name, 2) for name in NETWORKS), ("rfnet", 3), ("mmformer", 3)])
def test_onnxruntime_gives_the_same_numbers_for_any_batch_and_mask(name, spatial_dims, onnxruntime, tmp_path, capfd):
    torch.manual_seed(0)
    network = NETWORKS[name](3, 4, spatial_dims).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        path = export_onnx(network, tmp_path / "network.onnx", (32,) * spatial_dims, {"modalities": "[]"})
    assert not "".join(capfd.readouterr())
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map == {"modalities": "[]"}
    masks = torch.tensor([[True, True, True], [True, False, False], [False, True, True]])
    image = torch.randn(3, 3, *(32,) * spatial_dims)
    with torch.no_grad():
        eager = network(image, masks).softmax(dim=1)
    for rows in (slice(0, 3), slice(1, 2)):
        (pred,) = session.run(None, {"image": image[rows].numpy(), "available": masks[rows].numpy()})
        torch.testing.assert_close(torch.from_numpy(pred).softmax(dim=1), eager[rows], rtol=1e-3, atol=1e-4)
    (nothing,) = session.run(None, {"image": image[:1].numpy(), "available": np.zeros((1, 3), bool)})
    assert np.isnan(nothing).all()


@pytest.mark.slow
def test_an_rfnet_takes_windows_of_other_sizes(onnxruntime, tmp_path):
    network = NETWORKS["rfnet"](3, 4, 2).eval()
    session = onnxruntime.InferenceSession(export_onnx(network, tmp_path / "network.onnx", (32, 32)))
    image, available = torch.randn(1, 3, 48, 64), torch.tensor([[True, False, True]])
    with torch.no_grad():
        eager = network(image, available).softmax(dim=1)
    (pred,) = session.run(None, {"image": image.numpy(), "available": available.numpy()})
    torch.testing.assert_close(torch.from_numpy(pred).softmax(dim=1), eager, rtol=1e-3, atol=1e-4)


def test_an_exported_network_says_which_part_of_an_image_it_sees_and_how_classes_are_decided(tmp_path):
    found = {}
    for name in ("brats_rfnet", "myops_mmformer"):
        bundle = find_bundle(name)
        about = describe_network(bundle.path, bundle.weights, crop_size=[192, 192], coarsen=2)
        found[name] = about["crop_size"], about["pixels_per_voxel"], about["decision"]
    assert found == {
        "brats_rfnet": ("null", "null", "expected_dice"),
        "myops_mmformer": ("[192, 192]", "2", "most_probable"),
    }


def without_pytorch():
    text = (ROOT / "docs" / "how-to" / "use-without-installing.md").read_text()
    return next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "onnxruntime" in block)


def test_the_script_without_pytorch_imports_three_packages():
    nodes = [node for node in ast.walk(ast.parse(without_pytorch())) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(isinstance(node, ast.Import) for node in nodes)
    imported = {alias.name for node in nodes for alias in node.names} - sys.stdlib_module_names
    assert imported == {"nibabel", "numpy", "onnxruntime"}


@pytest.mark.slow
def test_the_script_without_pytorch_segments_a_phantom_as_predict_does(tmp_path, monkeypatch, capsys):
    """By the facts that an exported file has, and with the network itself in the place of onnxruntime."""
    weights = shipped_weights(PHANTOM)
    segmenter = Segmenter(find_bundle(BUNDLE), weights=weights, device="cpu")
    facts = {key: segmenter.parser[key] for key in ("roi_size", "overlap", "spacing")}
    about = describe_network(segmenter.bundle.path, weights, **facts)

    class Session:
        def __init__(self, path):
            pass

        def get_modelmeta(self):
            return SimpleNamespace(custom_metadata_map=about)

        def run(self, outputs, inputs):
            with torch.no_grad():
                return [segmenter.network(*map(torch.from_numpy, inputs.values())).numpy()]

    assert main(["phantom", "brats", str(tmp_path / "phantom"), "--cases", "1", "--size", "48"]) == 0
    (case,) = (path for path in (tmp_path / "phantom").iterdir() if path.is_dir())
    given = {"flair": case / f"{case.name}_flair.nii.gz", "t1c": case / f"{case.name}_t1ce.nii.gz"}
    words = [f"{name}={path}" for name, path in given.items()]
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.setattr(sys, "argv", ["segment.py", "model.onnx", str(tmp_path / "out.nii.gz"), *words])
    exec(without_pytorch(), {})
    files = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    alike = ["--decision", "most_probable", "--precision", "fp32", "--device", "cpu"]
    assert main(["predict", "--weights", str(weights), "--output", str(tmp_path / "ours"), *alike, *files]) == 0
    images = (nib.load(tmp_path / path) for path in ("ours/segmentation.nii.gz", "out.nii.gz"))
    ours, theirs = map(nib.as_closest_canonical, images)
    assert np.allclose(ours.affine, theirs.affine)
    ours, theirs = (np.asarray(image.dataobj) for image in (ours, theirs))
    assert (ours > 0).sum() > 1000
    assert (ours == theirs).mean() > 0.9999
