import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_passion.bundle.facts import find_bundle
from monai_passion.data.nifti import Volume
from monai_passion.networks import MMFormer, RFNet
from monai_passion.networks.weights import load_into, save_weights
from monai_passion.prediction.segmenter import Segmenter
from tests.helpers.images import smooth_noise


def state():
    """What a program may set for itself, and a library must not."""
    cudnn = torch.backends.cudnn
    return (
        sys.excepthook,
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        cudnn.deterministic,
        cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
    )


def test_a_segmenter_in_a_notebook_changes_nothing_in_its_host(weights, monkeypatch):
    for importer in ("bundle.steps.startup", "cli"):
        name = f"monai_passion.{importer}.keep_freed_memory"
        monkeypatch.setattr(name, lambda: pytest.fail("mallopt was called"))
    before = state()
    segmenter = Segmenter(find_bundle(), weights=weights, device="cpu")
    assert segmenter.network is not None
    assert state() == before


def test_weights_say_how_large_their_network_is_and_how_coarse_its_pixels(tmp_path):
    sizes = {
        "width": 2,
        "embedding": 16,
        "heads": 2,
        "depth": 1,
        "mlp": 16,
        "crop_size": [32, 32],
        "roi_size": [32, 32],
    }
    shape = {key: value for key, value in sizes.items() if key != "crop_size"}
    network = MMFormer(num_modalities=3, num_classes=6, spatial_dims=2, **shape)
    path = tmp_path / "model.safetensors"
    save_weights(network, path, {"network": "MMFormer", "settings": {**sizes, "coarsen": 2}})
    data = np.random.default_rng(0).normal(100, 10, (70, 64, 3)).astype(np.float32)
    volume = Volume(data, np.diag([0.75, 0.75, 8.0, 1.0]), Path("file"), ())
    result = Segmenter(find_bundle("myops_mmformer"), weights=path, device="cpu").segment([None, volume, volume])
    assert result.labels.shape == data.shape
    inner = result.labels[3:67]
    assert (inner[::2, ::2] == inner[1::2, 1::2]).mean() > 0.95


@pytest.mark.parametrize("size", [0.25, 0.73, 1.5])
def test_hearts_of_any_size_of_pixels_are_seen_as_large_as_in_the_training(size, tmp_path):
    grid = (np.indices((round(60 / size), round(50 / size))) + 0.5) * size - np.array([28, 26])[:, None, None]
    heart = np.exp(-(grid[0] ** 2 / 200 + grid[1] ** 2 / 100))[..., None].repeat(3, axis=2).astype(np.float32)
    network = MMFormer(num_modalities=3, num_classes=6, spatial_dims=2, width=2, roi_size=96, embedding=16, mlp=16)
    path = tmp_path / "model.safetensors"
    settings = {"width": 2, "embedding": 16, "mlp": 16, "crop_size": [96, 96], "roi_size": [96, 96], "coarsen": 1}
    save_weights(network, path, {"network": "MMFormer", "settings": settings})
    volume = Volume(heart, np.diag([size, size, 8.0, 1.0]), Path("file"), ())
    segmenter = Segmenter(find_bundle("myops_mmformer"), weights=path, device="cpu")
    assert segmenter.segment([volume, None, None]).labels.shape == heart.shape
    item = {"image": MetaTensor(heart[None].repeat(3, 0), affine=volume.affine), "available": [True] * 3}
    seen = segmenter._content("preprocessing")(item, start=1)["image"][0].numpy()
    wide = [np.ptp(axis) + 1 for axis in np.where(seen[..., 1] > seen.min() + 0.5 * np.ptp(seen))]
    assert np.allclose(wide, 2 * np.sqrt(np.log(2) * np.array([200, 100])) / 0.73, atol=3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_enhancing_tumor_that_is_too_small_to_be_kept_is_named(share, weights, tmp_path):
    network = RFNet(4, 4, width=8)
    facts = load_into(network, weights)
    path = tmp_path / "model.safetensors"
    save_weights(network, path, {**facts, "settings": {"minimum_et_share": share}})
    data = np.random.default_rng(0).normal(100, 10, (32, 32, 32)).astype(np.float32)
    volume = Volume(data, np.eye(4), Path("file"), ())
    result = Segmenter(find_bundle(), weights=path, device="cpu", roi_size=[32]).segment([volume, None, None, None])
    texts = [finding.text for finding in result.findings if "too little" in finding.text]
    assert len(texts) == (result.labels != 4).all() == (share == 1)
    assert all(t.startswith("enhancing tumor of ") and "shown as necrotic and non-enhancing" in t for t in texts)


@pytest.mark.parametrize(("limit", "said"), [(99.0, "too little for these weights"), (0.0, "not bright on T1c")])
def test_what_is_not_bright_after_contrast_is_core_and_said_so_and_only_where_t1c_is_there(
    limit, said, weights, tmp_path
):
    """With a limit that nothing reaches, enhancing tumor is left only in combinations without T1c."""
    path = tmp_path / "model.safetensors"
    limits = {"minimum_et_median": 99.0, "minimum_et_intensity": limit}
    save_weights(RFNet(4, 4, width=8), path, {**load_into(RFNet(4, 4, width=8), weights), "settings": limits})
    plain, strict = (
        Segmenter(find_bundle(), weights=file, device="cpu", roi_size=[32], decision="most_probable")
        for file in (weights, path)
    )
    strict.network.load_state_dict(plain.network.state_dict())
    volumes = [Volume(smooth_noise((32,) * 3, k, 100, 10), np.eye(4), Path("file"), ()) for k in range(2)]
    before, after = (made.segment([*volumes, None, None], "all") for made in (plain, strict))
    assert (before.labels == 4).any()
    left = (after.labels == 4) & (before.labels == 4)
    assert left.any() == (limit == 0)
    assert np.array_equal(after.labels[~left], np.where(before.labels == 4, 1, before.labels)[~left])
    assert np.array_equal(after.combinations["flair"], before.combinations["flair"])
    ours, theirs = ((made.combinations["t1c"] == 4).sum() for made in (after, before))
    assert ours < theirs
    assert any(said in finding.text for finding in after.findings)
    assert not any(said in finding.text for finding in before.findings)
