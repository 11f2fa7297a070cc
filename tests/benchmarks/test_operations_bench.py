"""What `networks/cpu` has in place of single operations of torch, on maps of 80^3: forward and gradients."""

import statistics
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from monai_passion.networks.cpu.activation import SLOPE, activate
from monai_passion.networks.cpu.grouped import convolve_in_groups
from monai_passion.networks.cpu.layout import from_rows, to_rows
from monai_passion.networks.cpu.padding import crop_gradient, pad
from monai_passion.networks.cpu.pointwise import pointwise
from monai_passion.networks.precision import has_bfloat16_units
from monai_passion.system.memory import keep_freed_memory
from tests.benchmarks.turns import take_turns

SPATIAL, EDGE = (80, 80, 80), (1, 1, 1)
DTYPES = [torch.float32] + [torch.bfloat16] * has_bfloat16_units(torch.device("cpu"))


def channels_last(*shape, dtype):
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last_3d)


@pytest.fixture(autouse=True)
def as_a_training_starts():
    keep_freed_memory()


def compare(contenders, what):
    """Milliseconds of torch and ours, medians of what came after the first round; their results agree."""
    seconds, results = take_turns(contenders, 8)
    for ours, theirs in zip(results["ours"], results["torch"], strict=True):
        assert (ours - theirs).float().norm() <= 2**-6 * theirs.float().norm()
    theirs, ours = (1000 * statistics.median(seconds[name][1:]) for name in ("torch", "ours"))
    print(f"\n{what}: torch {theirs:.1f} ms, ours {ours:.1f} ms, ratio {theirs / ours:.1f}")
    return theirs, ours


@pytest.mark.bench
@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_and_its_gradient_pay(dtype):
    milliseconds = []
    for channels in (8, 16):
        x = channels_last(1, channels, *SPATIAL, dtype=dtype)
        contenders = {
            "torch": lambda x=x: [
                torch.ops.aten.reflection_pad3d_backward(F.pad(x, (1,) * 6, mode="reflect"), x, (1,) * 6)
            ],
            "ours": lambda x=x: [crop_gradient(pad(x, EDGE, "reflect"), EDGE, "reflect")],
        }
        milliseconds.append(compare(contenders, f"padding {channels} channels, {dtype}"))
    theirs, ours = map(sum, zip(*milliseconds, strict=True))
    assert theirs / ours >= 1.5


@pytest.mark.bench
@pytest.mark.parametrize("dtype", DTYPES)
def test_convolutions_in_groups_pay(dtype):
    """Those of M2FTrans, of each channel and of four channels each, in its two coarsest maps."""
    milliseconds = []
    for channels, groups, size in ((64, 64, 10), (256, 64, 10), (128, 128, 5), (512, 128, 5)):
        weight = torch.randn(channels, channels // groups, 3, 3, 3).to(dtype)
        x, upstream = (channels_last(5, channels, size, size, size, dtype=dtype) for _ in range(2))
        given = x, weight, torch.zeros(channels, dtype=dtype)

        def train(convolve, given=given, upstream=upstream):
            leaves = [tensor.detach().requires_grad_() for tensor in given]
            result = convolve(*leaves)
            return result.detach(), *torch.autograd.grad(result, leaves, upstream)

        contenders = {
            "torch": lambda train=train, n=groups: train(partial(F.conv3d, padding=1, groups=n)),
            "ours": lambda train=train, n=groups: train(partial(convolve_in_groups, groups=n)),
        }
        milliseconds.append(compare(contenders, f"{channels} channels in {groups} groups, {dtype}"))
    theirs, ours = map(sum, zip(*milliseconds, strict=True))
    assert theirs / ours >= (1.1 if dtype == torch.float32 else 1.5)


@pytest.mark.bench
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_with_neighbors_as_one_row_pay(dtype):
    milliseconds = []
    for inputs, outputs in ((8, 4), (16, 4), (8, 8), (2, 8)):
        given = (channels_last(5, inputs, *SPATIAL, dtype=dtype), torch.randn(outputs, inputs, 1, 1, 1).to(dtype))
        upstream = channels_last(5, outputs, *SPATIAL, dtype=dtype)

        def train(convolve, given=given, upstream=upstream):
            leaves = [tensor.detach().requires_grad_() for tensor in (*given, upstream.new_zeros(upstream.shape[1]))]
            result = convolve(*leaves)
            return result.detach(), *torch.autograd.grad(result, leaves, upstream)

        contenders = {
            "torch": lambda train=train: train(lambda x, w, b: from_rows(F.linear(to_rows(x), w.flatten(1), b), x)),
            "ours": lambda train=train: train(pointwise),
        }
        milliseconds.append(compare(contenders, f"1x1x1 convolution {inputs} to {outputs} channels, {dtype}"))
    theirs, ours = map(sum, zip(*milliseconds, strict=True))
    assert theirs / ours >= 1.1


@pytest.mark.bench
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalization_and_activation_pay(dtype):
    """As a training computes them: with Numba where that is installed."""
    milliseconds = []
    for channels in (8, 16):
        x, upstream = (channels_last(5, channels, *SPATIAL, dtype=dtype) for _ in range(2))

        def train(function, x=x, upstream=upstream):
            leaf = x.detach().requires_grad_()
            result = function(leaf)
            return result.detach(), *torch.autograd.grad(result, leaf, upstream)

        contenders = {
            "torch": lambda train=train: train(lambda leaf: F.leaky_relu(F.instance_norm(leaf), SLOPE)),
            "ours": lambda train=train: train(activate),
        }
        milliseconds.append(compare(contenders, f"normalization and activation of {channels} channels, {dtype}"))
    theirs, ours = map(sum, zip(*milliseconds, strict=True))
    assert theirs / ours >= 1.5
