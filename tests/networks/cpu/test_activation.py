import pytest
import torch
import torch.nn.functional as F

from monai_passion.networks.cpu import activation
from monai_passion.networks.cpu.activation import SLOPE, _Activate, activate


@pytest.fixture(autouse=True, params=["numba", "torch"])
def kernels(request, monkeypatch):
    """Both ways, however small the map."""
    monkeypatch.setattr(activation, "SMALL", 3)
    if request.param == "torch":
        monkeypatch.setattr(activation, "_compiled", lambda: None)
    else:
        pytest.importorskip("numba", reason="Numba is not installed (extra jit)")
        assert activation._compiled() is not None


def as_written(x):
    return F.leaky_relu(F.instance_norm(x), SLOPE)


@pytest.mark.parametrize("shape", [(1, 3, 6, 5), (2, 8, 7, 6, 5), (5, 1, 2, 2, 2)])
def test_equals_its_two_operations_in_values_and_gradients(shape):
    image, upstream = torch.randn(shape) * 3 + 2, torch.randn(shape)
    results = []
    for function in (activate, as_written):
        x = image.clone().requires_grad_()
        y = function(x)
        y.backward(upstream)
        results.append((y, x.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


def test_values_far_from_zero_are_normalized_by_what_differs():
    x = (torch.randn(2, 8, 12, 12, 12) + 3000).requires_grad_()
    exact = as_written(x.detach().double())
    torch.testing.assert_close(activate(x).double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("value", [0, 0.07, -3])
def test_a_map_that_is_one_value_and_rounding_becomes_zero_and_has_no_gradient(monkeypatch, value, small):
    """As those of a crop outside what a sequence shows; beside others of the same sample, which are as always."""
    monkeypatch.setattr(activation, "SMALL", 2**30 if small else 3)
    image = torch.randn(2, 4, 8, 8, 8)
    image[0, 1] = value * (1 + 1e-7 * torch.randn(8, 8, 8)).clamp(1 - 1e-7, 1 + 1e-7)
    x, upstream = image.clone().requires_grad_(), torch.randn_like(image)
    y = activate(x)
    y.backward(upstream)
    assert not y[0, 1].any()
    assert not x.grad[0, 1].any()
    leaf = image.clone().requires_grad_()
    as_written(leaf).backward(upstream)
    varied = torch.ones(2, 4, dtype=torch.bool)
    varied[0, 1] = False
    torch.testing.assert_close(x.grad[varied], leaf.grad[varied], rtol=1e-4, atol=1e-5)
    assert y[varied].std() > 0.5


@pytest.mark.parametrize("voxel", [0, 700])
def test_one_value_far_from_all_others_does_not_blur_these(voxel):
    x, upstream = torch.randn(1, 4, 12, 12, 12), torch.randn(1, 4, 12, 12, 12)
    x[0].flatten(1)[:, voxel] = 1000
    results = []
    for function, argument, gradient in ((activate, x, upstream), (as_written, x.double(), upstream.double())):
        leaf = argument.clone().requires_grad_()
        y = function(leaf)
        y.backward(gradient)
        results.append((y.detach().double(), leaf.grad.double()))
    for found, exact in zip(*results, strict=True):
        assert (found - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_a_number_stays_so_and_within_its_channel(dtype):
    x = torch.randn(1, 2, 4, 4, 4)
    x[0, 0, 1, 2, 3] = torch.tensor(-1).to(torch.int32).view(torch.float32)  # not a number, all bits set
    y = activate(x.to(dtype).requires_grad_())
    assert y[:, 0].isnan().all()
    assert y[:, 1].isfinite().all()


@pytest.mark.parametrize("kernels", ["numba"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_share_the_voxels(dtype, monkeypatch):
    monkeypatch.setattr(activation._compiled(), "BUSY", 1)
    x, upstream = torch.randn(3, 4, 7, 6, 5).to(dtype), torch.randn(3, 4, 7, 6, 5).to(dtype)
    results = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        leaf = x.clone().requires_grad_()
        y = activate(leaf)
        y.backward(upstream)
        results.append((y, leaf.grad))
    torch.testing.assert_close(results[0], results[1])


def test_without_a_gradient_torch_does_it(monkeypatch):
    """A prediction of seconds should not wait for Numba, and its numbers are the same on every machine."""
    monkeypatch.setattr(activation, "_compiled", None)
    activate(torch.randn(1, 2, 4, 4, 4))


@pytest.mark.parametrize("small", [3, 10**9])
def test_statistics_of_half_precision_are_single_precision(small, monkeypatch):
    """Rounded to bfloat16, a mean of 20 would be off by up to 0.06 deviations; values, by 2**-9 of themselves."""
    monkeypatch.setattr(activation, "SMALL", small)
    x = (torch.randn(2, 8, 12, 12, 12) + 20.1).bfloat16().requires_grad_()
    exact = x.detach().float().requires_grad_()
    upstream = torch.randn(x.shape).bfloat16()
    for function, argument in ((activate, x), (as_written, exact)):
        function(argument).backward(upstream.to(argument.dtype))
    result = activate(x)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), as_written(exact), rtol=2**-8, atol=1e-3)
    assert (x.grad.float() - exact.grad).norm() < 2**-7 * exact.grad.norm()


def test_a_constant_map_has_finite_gradients():
    x = torch.full((1, 2, 4, 4, 4), 3.0, requires_grad=True)
    activate(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_what_it_returns_may_be_written_into():
    x = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    activate(x)[:, 0] = 0


def test_one_voxel_cannot_be_normalized():
    with pytest.raises(ValueError, match="spatial element"):
        activate(torch.zeros(1, 2, 1, 1, 1, requires_grad=True))


def test_other_types_take_the_two_operations(monkeypatch):
    monkeypatch.setattr(_Activate, "apply", None)
    double = torch.randn(1, 2, 4, 4, 4).double().requires_grad_()
    assert torch.equal(activate(double), as_written(double))


def test_small_maps_take_the_two_operations(monkeypatch):
    monkeypatch.setattr(activation, "SMALL", 121)
    monkeypatch.setattr(_Activate, "apply", None)
    small = torch.randn(3, 2, 3, 4, 5)
    assert torch.equal(activate(small), as_written(small))


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_the_channels_stay_last(channels):
    x = torch.randn(2, channels, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    assert activate(x).stride() == (channels * 120, 1, channels * 30, channels * 6, channels)
