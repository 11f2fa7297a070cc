import pytest
import torch

from monai_passion.bundle.steps import initial_network, load_teacher
from monai_passion.errors import UsageError, WeightsError
from monai_passion.networks import RFNet
from monai_passion.networks.weights import save_weights
from tests.helpers.tasks import BRATS_MRI


def test_a_training_may_start_from_weights_of_its_own_kind(tmp_path):
    modalities = ("flair", "t1c")
    made, other = (RFNet(num_modalities=2, num_classes=3, spatial_dims=2, width=2) for _ in range(2))
    path = tmp_path / "model.safetensors"
    save_weights(made, path, {"network": "RFNet", "modalities": modalities, "settings": {"width": 2}})
    started = initial_network(other, str(path), modalities)
    assert all(torch.equal(a, b) for a, b in zip(started.parameters(), made.parameters(), strict=True))
    assert started.training
    fresh = initial_network(RFNet(num_modalities=2, num_classes=3, spatial_dims=2, width=2), None, modalities)
    assert not all(torch.equal(a, b) for a, b in zip(fresh.parameters(), made.parameters(), strict=True))
    with pytest.raises(WeightsError, match="belong to the modalities"):
        initial_network(other, str(path), ("t1c", "flair"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crop_size": [24, 16, 16]}, None),
        ({"crop_size": [16, 16, 16], "roi_size": [-1, 32, -1]}, None),
        ({"crop_size": [20, 16, 16]}, r"crop_size is \[20, 16, 16\]; RFNet needs multiples of \(8, 8, 8\)"),
        ({"crop_size": [16, 16, 16], "roi_size": [8, 16, 16]}, r"roi_size is \[8, 16, 16\].* at least twice that"),
        ({"crop_size": [16, 16]}, r"crop_size is \[16, 16\]; give 3 numbers"),
    ],
)
def test_windows_that_a_network_cannot_take_are_refused_before_a_training(settings, said):
    network = RFNet(num_modalities=2, num_classes=3, width=2)
    if said is None:
        assert initial_network(network, None, ("flair", "t1c"), settings) is network
        return
    with pytest.raises(UsageError, match=said):
        initial_network(network, None, ("flair", "t1c"), settings)


def test_a_teacher_of_other_voxels_is_refused(tmp_path):
    network = RFNet(width=2)
    save_weights(network, tmp_path / "w.safetensors", {"settings": {"spacing": [3, 3, 3], "crop_size": [32, 32, 32]}})
    load_teacher(network, str(tmp_path / "w.safetensors"), BRATS_MRI, {"spacing": [3.0, 3.0, 3.0], "width": 4})
    with pytest.raises(WeightsError, match="trained with spacing"):
        load_teacher(network, str(tmp_path / "w.safetensors"), BRATS_MRI, {"spacing": [2.0, 2.0, 2.0]})
