import pytest
import torch

from monai_passion.networks import M2FTrans
from tests.networks.contract import BackboneContract

SMALL = {"width": 4, "levels": 3, "roi_size": 16, "heads": 4, "mlp": 32}


class TestM2FTrans(BackboneContract):
    def build(self, **kwargs):
        return M2FTrans(**SMALL, **kwargs)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"levels": 2}, {"roi_size": 18}, {"heads": 3}, {"depth": 0}])
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        M2FTrans(**{**SMALL, **wrong})


def test_fusion_tokens_look_at_available_modalities_and_themselves_only():
    network = M2FTrans(spatial_dims=2, **SMALL).eval()
    masks = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0]]).bool()
    features = network.encode(torch.randn(2, 4, 16, 16), masks)
    _, weights = network._fuse_tokens(features.route(masks), features, (4, 4))
    assert weights.shape == (2, 4, 4, 4)
    assert torch.equal(weights.flatten(2).amax(2) > 0, masks)
    # Each of 4 heads and 16 fusion tokens spreads 1; what is not in the weights went to the fusion tokens.
    assert (weights.sum(dim=(1, 2, 3)) < 64).all()
    assert not weights.requires_grad


def test_modality_tokens_are_computed_once():
    network = M2FTrans(spatial_dims=2, **SMALL).eval()
    features = network.encode(torch.randn(1, 4, 16, 16), torch.ones(1, 4).bool())
    lengths = []
    for block in network.transformer:
        block.mlp.register_forward_hook(lambda _, args, out: lengths.append(out.shape[1]))
    network.decode(features, torch.eye(4).bool(), [0] * 4)
    assert lengths == [16] * 3
