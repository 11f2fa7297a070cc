import pytest
import torch

from monai_passion.networks import TransUNet
from tests.networks.contract import BackboneContract

SMALL = {"channels": (4, 6, 8), "roi_size": 16, "embedding": 16, "heads": 4, "depth": 2, "mlp": 32}


class TestTransUNet(BackboneContract):
    def build(self, **kwargs):
        return TransUNet(**SMALL, **kwargs)


def test_every_place_sees_every_other():
    network = TransUNet(spatial_dims=2, **SMALL).eval()
    image = torch.zeros(1, 8 * 2, 4, 4, requires_grad=True)
    network.bottleneck(image)[0, :, 0, 0].sum().backward()
    assert (image.grad.abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("wrong", [{"roi_size": 18}, {"heads": 3}, {"channels": (4,)}])
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TransUNet(**{**SMALL, **wrong})
