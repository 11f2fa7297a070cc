import pytest
import torch

from monai_passion.networks import HeteroModalUNet
from tests.networks.contract import BackboneContract


class TestHeteroModalUNet(BackboneContract):
    def build(self, **kwargs):
        return HeteroModalUNet(channels=(4, 6, 8), **kwargs)


def test_fusion_is_mean_and_variance_over_what_is_there():
    network = HeteroModalUNet(num_modalities=3, spatial_dims=2, channels=(4, 6)).eval()
    masks = torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
    features = network.encode(torch.randn(2, 3, 8, 8), torch.ones(2, 3).bool())
    mean, variance = network._fuse(features.route(masks), features, level=1).chunk(2, dim=1)
    maps = torch.stack([m.pyramid[1] for m in features.maps], dim=1)
    torch.testing.assert_close(mean[0], maps[0, [0, 2]].mean(dim=0))
    torch.testing.assert_close(variance[0], maps[0, [0, 2]].var(dim=0, correction=0), rtol=1e-4, atol=1e-5)
    assert torch.equal(mean[1], maps[1, 1])
    assert torch.equal(variance[1], torch.zeros_like(variance[1]))


def test_one_level_is_refused():
    with pytest.raises(ValueError, match="channels"):
        HeteroModalUNet(channels=(8,))
