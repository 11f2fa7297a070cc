"""Every backbone as published, and the shipped weights, as ONNX: size, and the time of its engines against PyTorch's.

``MONAI_PASSION_BENCH_SIZE=48`` makes the window of the published ones smaller; 80 is the bundles'. OpenVINO takes part
where it is installed. On a processor with bfloat16 units, PyTorch and OpenVINO are also timed in it.
"""

import os
import statistics
from functools import partial

import pytest
import torch

from monai_passion.bundle.export import export_onnx
from monai_passion.bundle.facts import find_bundle
from monai_passion.networks import M2FTrans, MMFormer, RFNet, TransUNet
from monai_passion.networks.precision import autocast, has_bfloat16_units
from monai_passion.prediction.segmenter import Segmenter
from tests.benchmarks.turns import take_turns

SIZE = int(os.environ.get("MONAI_PASSION_BENCH_SIZE", "80"))
ROUNDS = 5
HAS_UNITS = has_bfloat16_units(torch.device("cpu"))
NETWORKS = {
    "RFNet": lambda: (RFNet(), (SIZE,) * 3),
    "mmFormer": lambda: (MMFormer(roi_size=SIZE), (SIZE,) * 3),
    "M2FTrans": lambda: (M2FTrans(roi_size=SIZE), (SIZE,) * 3),
    "TransUNet": lambda: (
        TransUNet(channels=(8, 16, 32, 64, 128), roi_size=SIZE, embedding=256, depth=4, mlp=1024),
        (SIZE,) * 3,
    ),
    "shipped RFNet": lambda: shipped(),
}


def shipped():
    made = Segmenter(find_bundle())
    return made.network, made.settings["roi_size"]


def engines(path):
    """Name -> function from an image and its mask to logits, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    found = {"ONNX Runtime": lambda image, mask: session.run(None, {"image": image, "available": mask})[0]}
    try:
        import openvino
    except ImportError:
        return found

    def compiled(hint):
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": hint}
        model = openvino.compile_model(path, "CPU", settings)
        return lambda image, mask: model([image, mask])[0]

    hints = {"OpenVINO": "f32", **({"OpenVINO bf16": "bf16"} if HAS_UNITS else {})}
    return {**found, **{name: compiled(hint) for name, hint in hints.items()}}


def in_pytorch(network, precision):
    def run(image, mask):
        with autocast(precision, torch.device("cpu")):
            return network(torch.from_numpy(image), torch.from_numpy(mask)).float().numpy()

    return run


@pytest.mark.bench
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_gives_the_same_segmentation_and_this_is_its_size_and_time(name, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install -e '.[export]'")
    network, size = NETWORKS[name]()
    network.eval()
    path = export_onnx(network, tmp_path / "network.onnx", size)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    sizes = [file.stat().st_size / 2**20 for file in (path, tmp_path / "model.pt")]
    print(f"\n{name}, {size}: ONNX {sizes[0]:.1f} MB, weights {sizes[1]:.1f} MB")
    runs = {"PyTorch": in_pytorch(network, "fp32"), **engines(path)}
    if HAS_UNITS:
        runs["PyTorch bf16"] = in_pytorch(network, "bf16")
    for present in (4, 2, 1):
        available = (torch.arange(4)[None] < present).numpy()
        image = torch.randn(1, 4, *size).numpy()
        with torch.inference_mode():
            seconds, logits = take_turns({which: partial(run, image, available) for which, run in runs.items()}, ROUNDS)
        medians = {which: statistics.median(values[1:]) for which, values in seconds.items()}
        ours = medians["PyTorch"]
        said = ", ".join(f"{which} {value:.2f} s (ratio {value / ours:.2f})" for which, value in medians.items())
        print(f"{present} modalities: {said}")
        expected = torch.from_numpy(logits.pop("PyTorch")).softmax(1)
        for which, found in logits.items():
            probability = torch.from_numpy(found).softmax(1)
            if "bf16" in which:
                changed = (probability.argmax(1) != expected.argmax(1)).float().mean()
                print(f"  {which}: other labels in {100 * changed:.2f} % of the voxels")
            else:
                torch.testing.assert_close(probability, expected, rtol=1e-3, atol=1e-3)
