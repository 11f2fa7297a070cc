"""A few numbers of every network, so that a changed result shows without the golden files too.

They were written down when the published networks agreed with the released code (`test_golden.py`). Weights are a
function of their name, shape and place, computed in double precision: a renamed, reshaped or re-wired parameter changes
the numbers; another machine or another random generator does not. After a change that is meant, and with the golden
tests passing, write them anew: ``python -m tests.networks.test_regression``.
"""

import json
import zlib
from pathlib import Path

import pytest
import torch

from monai_passion.networks import HeteroModalUNet, M2FTrans, MMFormer, RFNet, TransUNet

FILE = Path(__file__).with_name("regression.json")
TOKENS = {"roi_size": 16, "heads": 2, "mlp": 12, "depth": 2}
BUILD = {
    "rfnet": lambda **k: RFNet(width=4, levels=3, **k),
    "mmformer": lambda **k: MMFormer(width=4, levels=3, embedding=8, **TOKENS, **k),
    "m2ftrans": lambda **k: M2FTrans(width=4, levels=3, **TOKENS, **k),
    "unet": lambda **k: HeteroModalUNet(channels=(3, 4, 6), **k),
    "transunet": lambda **k: TransUNet(channels=(3, 4, 6), embedding=8, **TOKENS, **k),
}
CASES = [f"{name}-{dims}d" for name in BUILD for dims in (2, 3)]


def wave(shape, phase):
    """Numbers in [-1, 1] without a visible period."""
    steps = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(phase + 0.7 * steps + 1e-3 * steps.square()).reshape(shape)


def measure(case):
    """Per mask: every logits level and the features, each projected on a wave."""
    name, dims = case[:-1].split("-")
    network = BUILD[name](num_modalities=3, num_classes=2, spatial_dims=int(dims)).double().eval()
    with torch.no_grad():
        for key, values in network.state_dict().items():
            fan_in = max(values[0].numel(), 1)
            values.copy_(wave(values.shape, zlib.crc32(key.encode()) % 1000) * (2 / fan_in) ** 0.5)
        masks = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0]]).bool()
        features = network.encode(wave((1, 3, *(16,) * int(dims)), 0.3), torch.ones(1, 3).bool())
        logits, maps = network.decode(features, masks, [0] * 3)
        return [[float((x[d] * wave(x[d].shape, 1.0)).sum()) for x in (*logits, maps)] for d in range(3)]


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_as_written_down(case):
    expected = torch.tensor(json.loads(FILE.read_text())[case], dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(measure(case), dtype=torch.float64), expected, rtol=1e-6, atol=1e-6)


if __name__ == "__main__":
    rows = {case: json.dumps([[float(f"{x:.9g}") for x in row] for row in measure(case)]) for case in CASES}
    FILE.write_text("{\n" + ",\n".join(f'  "{case}": {row}' for case, row in rows.items()) + "\n}\n")
