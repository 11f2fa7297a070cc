import pytest
import torch
import torch.nn.functional as F

from monai_passion.networks.cpu import pointwise as module
from monai_passion.networks.cpu.pointwise import pointwise
from monai_passion.networks.precision import autocast
from tests.networks.cpu import HALF


def run(function, x, weight, bias, upstream):
    given = [None if tensor is None else tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    result = function(*given)
    result.backward(upstream.to(result.dtype))
    return result, *(tensor.grad for tensor in given if tensor is not None)


@pytest.fixture(params=["as products", "as convolutions"], autouse=True)
def way(request, monkeypatch):
    """With AMX, or of a small map, the former; else the latter, here of small maps as well."""
    monkeypatch.setattr(module, "ONEDNN_FROM", 0)
    monkeypatch.setattr(module, "has_tiles", lambda dtype: request.param == "as products")
    return request.param


@pytest.fixture(params=[(2, 8), (8, 4), (4, 16), (40, 3), (1, 3)])
def given(request):
    inputs, outputs = request.param
    x = torch.randn(2, inputs, 4, 3, 6)
    return x, torch.randn(outputs, inputs, 1, 1, 1), torch.randn(outputs), torch.randn(2, outputs, 4, 3, 6)


@pytest.mark.parametrize("biased", [True, False])
def test_equals_a_convolution_in_values_and_gradients(given, biased):
    x, weight, bias, upstream = given
    given = x, weight, bias if biased else None, upstream
    for ours, theirs in zip(run(pointwise, *given), run(F.conv3d, *given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@HALF
def test_half_precision_is_single_precision_but_for_rounding(given):
    with autocast("bf16", torch.device("cpu")):
        ours = run(pointwise, *given)
    assert [tensor.dtype for tensor in ours] == [torch.bfloat16] + [torch.float32] * 3
    for rounded, single in zip(ours, run(F.conv3d, *given), strict=True):
        assert (rounded - single).norm() < 2**-7 * single.norm()


def test_rows_stay_as_they_are_in_memory(way):
    rows = torch.randn(8 * 9 * 50, 16)
    with torch.profiler.profile() as profile:
        product = module._multiply(rows, torch.randn(4, 16))
    assert product.is_contiguous()
    called = {event.key for event in profile.key_averages()}
    assert "aten::copy_" not in called
    assert ("aten::conv2d" in called) == (way == "as convolutions")


def test_the_channels_stay_last_and_what_needs_no_gradient_gets_none():
    x = torch.randn(1, 2, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight = torch.randn(8, 2, 1, 1, 1)
    result = pointwise(x, weight)
    result.sum().backward()
    assert all(tensor.is_contiguous(memory_format=torch.channels_last_3d) for tensor in (result, x.grad))
    assert weight.grad is None
