"""The networks against numbers of the released code. Tolerances: the README beside those numbers."""

import re

import numpy as np
import pytest
import torch

from monai_passion.networks import M2FTrans, MMFormer, RFNet
from monai_passion.networks.blocks import SeparateDecoder
from monai_passion.networks.released import RELEASED_PREFIXES, convert_state_dict

NETWORKS = {
    "rfnet": lambda size: RFNet(width=4),
    "mmformer": lambda size: MMFormer(width=4, roi_size=size, embedding=32, heads=4, mlp=64),
    "m2ftrans": lambda size: M2FTrans(width=4, roi_size=size, heads=4, mlp=64),
}
"""Name -> a network of the small dimensions of the golden weights."""
PARAMETERS = {
    "rfnet": (RFNet, 2_381_792),
    "mmformer": (MMFormer, 35_599_184),
    "m2ftrans": (M2FTrans, 13_194_788),
    "mmformer-2d": (lambda: MMFormer(3, 6, 2, roi_size=256), 24_345_772),
}
"""Name -> a network of the published dimensions and its number of parameters, training-only decoder included."""

PREFIXES = RELEASED_PREFIXES["brats_mri"]


def arrays(path, *prefixes):
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name.startswith(prefixes or "")}


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
    expected = arrays(golden / f"golden_{name}_p{size}.npz", "eval/", "masks15", "subset_index")
    return network, image, {key: value.numpy() for key, value in expected.items()}


def close(ours, reference):
    torch.testing.assert_close(ours, torch.from_numpy(reference), rtol=1e-3, atol=2e-3)


def norms(maps):
    return maps.flatten(1).double().norm(dim=1)


def test_every_mask(case):
    network, image, expected = case
    subset = expected["subset_index"]
    with torch.no_grad():
        for b in range(expected["eval/logits_subset"].shape[1]):
            features = network.encode(image[b : b + 1], torch.ones(1, 4).bool())
            for k, mask in enumerate(torch.from_numpy(expected["masks15"])):
                logits, maps = network.decode(features, mask[None])
                fused = logits[0][0]
                close(fused[:, subset][:, :, subset][..., subset], expected["eval/logits_subset"][k, b])
                close(norms(fused), expected["eval/logits_l2"][k, b])
                close(norms(maps[0]), expected["eval/feat1_l2"][k, b])


def test_deep_supervision(case):
    network, image, expected = case
    keys = [key for key in expected if re.fullmatch(r"eval/mask\d+/prm\d+_logits_l2", key)]
    assert keys
    everything = torch.ones(len(expected[keys[0]]), 4).bool()
    with torch.no_grad():
        features = network.encode(image[: len(everything)], everything)
        for k in sorted({int(re.search(r"\d+", key)[0]) for key in keys}):
            mask = torch.from_numpy(expected["masks15"][[k] * len(everything)])
            deep = network.decode(features, mask).logits[1:]
            assert len(deep) == len([key for key in keys if f"mask{k}/" in key])
            for j, level in enumerate(deep, 1):
                name = f"eval/mask{k}/prm{j}_logits"
                close(torch.stack([norms(row) for row in level]), expected[name + "_l2"])
                if name in expected:
                    close(level, expected[name])


def test_batch_of_two_masks(case):
    network, image, expected = case
    subset, masks = expected["subset_index"], torch.from_numpy(expected["masks15"][[12, 2]])
    with torch.no_grad():
        logits = network(image, masks)[:, :, subset][:, :, :, subset][..., subset]
    close(logits, expected["eval/mixed_idt_logits_subset"])


def test_two_dimensional_mmformer(golden):
    prefixes = RELEASED_PREFIXES["myops_cmr"]
    network = MMFormer(3, 6, 2, width=4, roi_size=64, embedding=32, heads=4, mlp=64).eval()
    weights = arrays(golden / "weights_mmformer2d.npz")
    network.load_state_dict(convert_state_dict(weights, "mmformer", network, prefixes).backbone)
    image = arrays(golden / "inputs_myops2d.npz")["x_int8"].float()[..., 0] * 0.25
    expected = {key: value.numpy() for key, value in arrays(golden / "golden_myops2d.npz", "masks7", "eval/").items()}
    with torch.no_grad():
        features = network.encode(image, torch.ones(1, 3).bool())
        for k, mask in enumerate(torch.from_numpy(expected["masks7"])):
            logits, _ = network.decode(features, mask[None])
            close(logits[0][0], expected["eval/logits"][k][..., 0])
            for j, level in enumerate(logits[1:], 1):
                if f"eval/mask{k}/prm1_logits" in expected:
                    close(level, expected[f"eval/mask{k}/prm{j}_logits"][..., 0])


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_number_of_parameters(name):
    build, published = PARAMETERS[name]
    network = build()
    separate = SeparateDecoder(network.spatial_dims, network.encoder_channels, network.num_classes, network.block_order)
    assert sum(p.numel() for m in (network, separate) for p in m.parameters()) == published
