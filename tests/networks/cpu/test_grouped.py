import pytest
import torch
from torch import nn

from monai_passion.networks.cpu.convolution import Conv3d
from tests.networks.cpu import HALF, single_and_half
from tests.networks.cpu.test_convolution import assert_equal

FORMS = [(64, 64, 64), (12, 12, 3), (6, 9, 3), (20, 20, 5), (40, 80, 2), (4, 4, 2)]
"""Channels of the input and the result, and groups."""


def pair(inputs, outputs, groups, kernel=3, bias=True):
    form = {"kernel_size": kernel, "padding": kernel // 2, "groups": groups, "bias": bias}
    ours, theirs = Conv3d(inputs, outputs, **form), nn.Conv3d(inputs, outputs, **form)
    theirs.load_state_dict(ours.state_dict())
    assert ours._is_plain(torch.zeros(1, inputs, 4, 4, 4))
    return ours, theirs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_torch_in_values_and_gradients(form, kernel, batch):
    ours, theirs = pair(*form, kernel)
    assert_equal(ours, theirs, torch.randn(batch, form[0], 4, 5, 6))


def test_without_bias_and_without_gradient_of_the_input():
    ours, theirs = pair(8, 8, 4, bias=False)
    image = torch.randn(2, 8, 4, 4, 4)
    for conv in (ours, theirs):
        conv(image).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)


@HALF
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(1, 4, 4), (4, 4, 1), (2, 4, 4), (4, 5, 6), (5, 5, 5), (10, 10, 10)])
@pytest.mark.parametrize("batch", [1, 2])
def test_half_precision_is_right_whatever_memory_held(form, size, batch):
    conv, _ = pair(*form)
    results = single_and_half(conv, torch.randn(batch, form[0], *size))
    for single, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        assert (rounded - single).norm() < 2**-6 * single.norm()
