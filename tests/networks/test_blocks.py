import io

import pytest
import torch

from monai_passion.networks.blocks import ConvBlock, add_before_norm
from monai_passion.networks.cpu.activation import activate


def test_a_bias_before_normalization_changes_nothing_and_gets_the_gradient_that_it_has():
    results = []
    for add in (add_before_norm, lambda x, bias: x + bias[:, None, None, None]):
        torch.manual_seed(0)
        x, bias = torch.randn(2, 3, 4, 5, 6, requires_grad=True), torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
        result = activate(add(x, bias))
        result.backward(torch.randn(result.shape))
        results.append((result, x.grad, bias.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(results[0][2], torch.zeros(3))


def test_a_trace_of_it_can_be_saved():
    given = torch.randn(1, 3, 4, 4, 4), torch.randn(3, requires_grad=True)
    torch.jit.save(torch.jit.trace(lambda x, bias: add_before_norm(x, bias) + 0, given), io.BytesIO())


@pytest.mark.parametrize("order", ["pre", "post", "bare"])
@pytest.mark.parametrize("dims", [2, 3])
def test_hooks_on_a_convolution_see_what_it_makes(dims, order):
    block, seen = ConvBlock(dims, 2, 3, 3, order), []
    block.conv.register_forward_hook(lambda module, given, result: seen.append(result.shape))
    block(torch.randn(1, 2, *[8] * dims))
    assert seen == [(1, 3, *[8] * dims)]
