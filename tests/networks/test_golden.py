"""The networks against numbers of the released code. Tolerances: the README beside those numbers."""

import numpy as np
import pytest
import torch

from monai_passion.networks import RFNet
from monai_passion.networks.blocks import SeparateDecoder
from monai_passion.networks.convert import RELEASED_PREFIXES, convert_state_dict

NETWORKS = {"rfnet": lambda size: RFNet(width=4)}
"""Name -> a network of the small dimensions of the golden weights."""
PARAMETERS = {"rfnet": (RFNet, 2_381_792)}
"""Name -> class and published number of parameters, the training-only decoder included."""

PREFIXES = RELEASED_PREFIXES["brats_mri"]


def arrays(path):
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(
    scope="module",
    params=[(name, 32) for name in NETWORKS] + [pytest.param((name, 80), marks=pytest.mark.slow) for name in NETWORKS],
    ids=lambda case: f"{case[0]}-{case[1]}",
)
def case(request, golden):
    name, size = request.param
    weights = arrays(golden / f"weights_{name}.npz")
    if size == 32:
        weights |= arrays(golden / f"weights_{name}_p32_overrides.npz")
    network = NETWORKS[name](size).eval()
    network.load_state_dict(convert_state_dict(weights, name, network, PREFIXES).backbone)
    image = arrays(golden / f"inputs_p{size}.npz")["x_int8"].float() * 0.25
    with np.load(golden / f"golden_{name}_p{size}.npz") as file:
        expected = {key: file[key] for key in file.files if key.startswith(("eval/", "masks15", "subset_index"))}
    return network, image, expected


def test_every_mask(case):
    network, image, expected = case
    masks, subset = torch.from_numpy(expected["masks15"]), torch.from_numpy(expected["subset_index"])
    reference = torch.from_numpy(expected["eval/logits_subset"])
    with torch.no_grad():
        for b in range(reference.shape[1]):
            features = network.encode(image[b : b + 1], torch.ones(1, 4).bool())
            for k, mask in enumerate(masks):
                decoded = network.decode(features, mask[None])
                logits = decoded.logits[0][0][:, subset][:, :, subset][..., subset]
                torch.testing.assert_close(logits, reference[k, b], rtol=1e-3, atol=2e-3)
                norms = decoded.features[0].flatten(1).double().norm(dim=1).numpy()
                np.testing.assert_allclose(norms, expected["eval/feat1_l2"][k, b], rtol=1e-3, atol=2e-3)
                for j, level in enumerate(decoded.logits[1:], 1):
                    key = f"eval/mask{k}/prm{j}_logits_l2"
                    if key in expected:
                        norms = level[0].flatten(1).double().norm(dim=1).numpy()
                        np.testing.assert_allclose(norms, expected[key][b], rtol=1e-3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_number_of_parameters(name):
    build, published = PARAMETERS[name]
    network = build()
    separate = SeparateDecoder(3, network.encoder_channels, network.num_classes, network.block_order)
    assert sum(p.numel() for m in (network, separate) for p in m.parameters()) == published
