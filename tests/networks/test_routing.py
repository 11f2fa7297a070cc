import pytest
import torch
import torch.nn.functional as F

from monai_passion.networks.routing import _weigh


@pytest.mark.parametrize(("sizes", "coarse"), [((8, 6, 4), (2, 3, 4)), ((5, 6, 4), (2, 3, 4)), ((6, 4), (3, 2))])
@pytest.mark.parametrize("channels_last", [True, False])
def test_weights_that_are_coarser_than_a_map_are_repeated(sizes, coarse, channels_last):
    results = []
    for multiply in (_weigh, lambda value, weights: value * F.interpolate(weights, value.shape[2:])):
        torch.manual_seed(0)
        value, weights = torch.randn(2, 3, *sizes), torch.rand(2, 1, *coarse)
        if channels_last:
            value = value.movedim(1, -1).contiguous().movedim(-1, 1)
        value.requires_grad_()
        product = multiply(value, weights)
        product.square().sum().backward()
        results.append((product, value.grad))
    for ours, theirs in zip(*results, strict=True):
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)
