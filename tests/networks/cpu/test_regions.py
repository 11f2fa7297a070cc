import pytest
import torch

from monai_passion.networks.cpu import regions
from monai_passion.networks.cpu.regions import mix_regions
from monai_passion.networks.precision import autocast

SPATIAL = (5, 6, 7)


def as_written(maps, probability, kernel):
    y = torch.cat(maps, dim=1)
    return torch.einsum("nkxyz,nkoi,nixyz->noxyz", probability, kernel, y)


@pytest.fixture
def given():
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, *SPATIAL), torch.randn(2, 4, *SPATIAL)]
    return maps, torch.randn(2, 4, *SPATIAL).softmax(dim=1), torch.randn(2, 4, 5, 7)


def run(function, maps, probability, kernel, upstream):
    maps, kernel = [x.clone().requires_grad_() for x in maps], kernel.clone().requires_grad_()
    result = function(maps, probability, kernel)
    result.backward(upstream.to(result.dtype))
    return result, kernel.grad, *(x.grad for x in maps)


@pytest.mark.parametrize("piece", [1, 64, 10**6])
@pytest.mark.parametrize("fast", [True, False])
def test_equals_the_sum_as_it_is_written_in_values_and_gradients(given, piece, fast, monkeypatch):
    monkeypatch.setattr(regions, "PIECE", piece)
    monkeypatch.setattr(regions, "is_fast", lambda x: fast)
    upstream = torch.randn(2, 5, *SPATIAL)
    for ours, theirs in zip(run(mix_regions, *given, upstream), run(as_written, *given, upstream), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_in_half_precision_the_gradient_of_the_kernel_is_summed_in_single(given):
    upstream = torch.randn(2, 5, *SPATIAL)
    with autocast("bf16", torch.device("cpu")):
        ours = run(mix_regions, *given, upstream)
    assert ours[0].dtype == torch.bfloat16
    assert ours[1].dtype == torch.float32
    for value, exact in zip(ours, run(as_written, *given, upstream), strict=True):
        assert (value.float() - exact).norm() < 2**-6 * exact.norm()


def test_the_probabilities_get_no_gradient_and_the_channels_stay_last(given):
    maps, probability, kernel = given
    probability = probability.requires_grad_()
    result = mix_regions([x.contiguous(memory_format=torch.channels_last_3d) for x in maps], probability, kernel)
    assert not result.requires_grad
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
