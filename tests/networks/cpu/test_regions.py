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


@pytest.mark.parametrize("kernel_type", [torch.float32, torch.bfloat16])
def test_in_half_precision_the_gradient_of_the_kernel_is_summed_in_single(given, kernel_type, monkeypatch):
    """Of 210 pieces: a sum that is rounded to bfloat16 after each would be off by a hundredth."""
    monkeypatch.setattr(regions, "PIECE", 1)
    upstream = torch.rand(2, 5, *SPATIAL)
    maps, probability, kernel = given
    maps, kernel = [x.abs().bfloat16().float() for x in maps], kernel.to(kernel_type)
    with autocast("bf16", torch.device("cpu")):
        ours = run(mix_regions, maps, probability, kernel, upstream)
    assert (ours[0].dtype, ours[1].dtype) == (torch.bfloat16, kernel_type)
    exact = run(as_written, maps, probability, kernel.float(), upstream)
    assert (ours[1].float() - exact[1]).norm() < 2**-8 * exact[1].norm()
    for value, true in zip(ours, exact, strict=True):
        assert (value.float() - true).norm() < 2**-6 * true.norm()


def test_the_probabilities_get_no_gradient_and_the_channels_stay_last(given):
    maps, probability, kernel = given
    probability = probability.requires_grad_()
    result = mix_regions([x.contiguous(memory_format=torch.channels_last_3d) for x in maps], probability, kernel)
    assert not result.requires_grad
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
