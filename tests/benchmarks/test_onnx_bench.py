"""Every backbone as published, as ONNX: its size, and its time on a CPU against PyTorch's, with all modalities and two.

``MONAI_PASSION_BENCH_SIZE=48`` makes the window smaller; 80 is the bundles'.
"""

import os
import statistics
import time

import pytest
import torch

from monai_passion.bundle.export import export_onnx
from monai_passion.networks import M2FTrans, MMFormer, RFNet, TransUNet

SIZE = int(os.environ.get("MONAI_PASSION_BENCH_SIZE", "80"))
ROUNDS = 3
NETWORKS = {
    "RFNet": lambda: RFNet(),
    "mmFormer": lambda: MMFormer(roi_size=SIZE),
    "M2FTrans": lambda: M2FTrans(roi_size=SIZE),
    "TransUNet": lambda: TransUNet(channels=(8, 16, 32, 64, 128), roi_size=SIZE, embedding=256, depth=4, mlp=1024),
}


@pytest.mark.bench
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_gives_the_same_segmentation_and_this_is_its_size_and_time(name, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install -e '.[export]'")
    import onnxruntime

    network = NETWORKS[name]().eval()
    path = export_onnx(network, tmp_path / "network.onnx", (SIZE,) * 3)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    image = torch.randn(1, 4, SIZE, SIZE, SIZE)
    sizes = [file.stat().st_size / 2**20 for file in (path, tmp_path / "model.pt")]
    print(f"\n{name}, {SIZE}^3: ONNX {sizes[0]:.1f} MB, weights {sizes[1]:.1f} MB")
    for present in (4, 2):
        available = torch.arange(4)[None] < present
        seconds = {"PyTorch": [], "ONNX": []}
        for _ in range(ROUNDS):
            start = time.perf_counter()
            with torch.no_grad():
                eager = network(image, available)
            seconds["PyTorch"].append(time.perf_counter() - start)
            start = time.perf_counter()
            (pred,) = session.run(None, {"image": image.numpy(), "available": available.numpy()})
            seconds["ONNX"].append(time.perf_counter() - start)
        slow, fast = (statistics.median(seconds[which]) for which in ("ONNX", "PyTorch"))
        print(f"{present} modalities: PyTorch {fast:.2f} s, ONNX {slow:.2f} s, ratio ONNX / PyTorch {slow / fast:.2f}")
        torch.testing.assert_close(torch.from_numpy(pred).softmax(1), eager.softmax(1), rtol=1e-3, atol=1e-3)
