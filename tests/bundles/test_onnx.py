"""A network as ONNX gives the numbers that it gives itself."""

import pytest
import torch

from monai_passion.bundle.export import export_onnx
from monai_passion.networks import M2FTrans, MMFormer, RFNet, TransUNet

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
