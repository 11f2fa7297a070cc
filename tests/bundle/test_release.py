import numpy as np
import pytest
import torch

from monai_passion.bundle.release import release_weights
from monai_passion.networks import RFNet
from monai_passion.networks.weights import load_into, save_weights


@pytest.fixture
def trained(tmp_path):
    network = RFNet(width=2)
    facts = {"modalities": ["flair", "t1c", "t1", "t2"], "settings": {"width": 2, "spacing": [2.0, 2.0, 2.0]}}
    save_weights(network, tmp_path / "model.safetensors", facts)
    return network, tmp_path / "model.safetensors"


def test_released_weights_are_half_as_large_and_nearly_the_same(trained, tmp_path):
    network, path = trained
    released = release_weights(path, tmp_path / "released")
    loaded = RFNet(width=2)
    load_into(loaded, released)
    for name, values in network.state_dict().items():
        there = loaded.state_dict()[name]
        assert there.dtype == torch.float32
        assert torch.allclose(there, values, rtol=5e-4, atol=1e-6)
    assert released.with_name("model.safetensors.sha256").is_file()
    parameters = sum(np.prod(p.shape) for p in network.parameters())
    assert path.stat().st_size - released.stat().st_size == pytest.approx(2 * parameters, rel=0.05)


def test_settings_of_the_training_stay_and_those_of_the_release_are_added(trained, tmp_path):
    facts = load_into(RFNet(width=2), release_weights(trained[1], tmp_path / "out", {"minimum_et_ml": 0.4}))
    assert facts["settings"] == {"width": 2, "spacing": [2.0, 2.0, 2.0], "minimum_et_ml": 0.4}
    assert facts["modalities"] == ["flair", "t1c", "t1", "t2"]
