import pytest
import torch
from torch import nn

from monai_passion.networks.convolution import Conv3d


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("depth", [5, 8, 9])
@pytest.mark.parametrize("padding", [0, 1])
def test_equals_torch_in_values_and_gradients(padding_mode, stride, depth, padding):
    ours = Conv3d(3, 4, 3, stride=stride, padding=padding, padding_mode=padding_mode)
    theirs = nn.Conv3d(3, 4, 3, stride=stride, padding=padding, padding_mode=padding_mode)
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, depth, 7, 6)
    results = []
    for conv in (ours, theirs):
        x = image.clone().requires_grad_()
        y = conv(x)
        y.square().sum().backward()
        results.append((y, x.grad, conv.weight.grad, conv.bias.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_large_batches_and_other_types_go_straight_to_torch():
    conv = Conv3d(1, 2, 3, padding=1)
    assert conv._is_slow(torch.zeros(1, 1, 8, 8, 8))
    assert not conv._is_slow(torch.zeros(2, 1, 8, 8, 8))
    assert not conv._is_slow(torch.zeros(1, 1, 160, 160, 8))
    assert not conv._is_slow(torch.zeros(1, 1, 8, 8, 8, dtype=torch.float64))
    assert not Conv3d(1, 2, 1)._is_slow(torch.zeros(1, 1, 8, 8, 8))
