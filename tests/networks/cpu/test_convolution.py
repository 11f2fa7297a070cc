import pytest
import torch
from torch import nn

from monai_passion.networks.cpu.convolution import Conv3d, _fold
from tests.networks.cpu import HALF, single_and_half


def assert_equal(ours, theirs, image):
    """In values, and in the gradients of the image, the weight and the bias."""
    results = []
    for conv in (ours, theirs):
        x = image.clone().requires_grad_()
        y = conv(x)
        y.square().sum().backward()
        results.append((y, x.grad, conv.weight.grad, conv.bias.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("depth", [5, 8, 9])
@pytest.mark.parametrize("padding", [0, 1])
def test_equals_torch_in_values_and_gradients(padding_mode, stride, depth, padding):
    ours = Conv3d(3, 4, 3, stride=stride, padding=padding, padding_mode=padding_mode)
    theirs = nn.Conv3d(3, 4, 3, stride=stride, padding=padding, padding_mode=padding_mode)
    theirs.load_state_dict(ours.state_dict())
    assert_equal(ours, theirs, torch.randn(1, 3, depth, 7, 6))


def test_large_samples_of_a_batch_one_by_one_equal_torch(monkeypatch):
    monkeypatch.setattr("monai_passion.networks.cpu.convolution.ONEDNN_FROM", 100)
    ours = Conv3d(3, 4, 3, padding=1, padding_mode="reflect")
    theirs = nn.Conv3d(3, 4, 3, padding=1, padding_mode="reflect")
    theirs.load_state_dict(ours.state_dict())
    assert_equal(ours, theirs, torch.randn(3, 3, 8, 7, 6))


def test_the_padded_input_is_not_kept():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        x = torch.randn(1, 3, 8, 8, 8, requires_grad=True)
        conv = Conv3d(3, 4, 3, padding=1, padding_mode="reflect")
        conv(x)
    assert {tensor.data_ptr() for tensor in kept} == {x.data_ptr(), conv.weight.data_ptr()}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("grad", [True, False])
def test_every_layout_equals_torch(batch, kernel, stride, grad):
    ours = Conv3d(3, 4, kernel, stride=stride, padding=kernel // 2)
    theirs = nn.Conv3d(3, 4, kernel, stride=stride, padding=kernel // 2)
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(batch, 3, 6, 7, 8)
    with torch.set_grad_enabled(grad):
        a, b = ours(image), theirs(image)
    torch.testing.assert_close(a, b)
    if ours._is_plain(image):
        assert a.stride() == torch.empty_like(a, memory_format=torch.channels_last_3d).stride()
    if grad:
        a.square().sum().backward()
        b.square().sum().backward()
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [(1, 8), (8, 1), (2, 2), (16, 8), (8, 16)])
@pytest.mark.parametrize("width", [5, 6, 16])
@pytest.mark.parametrize("batch", [1, 2])
def test_narrow_convolutions_of_any_width_equal_torch(channels, width, batch):
    ours = Conv3d(*channels, 3, padding=1, padding_mode="reflect")
    theirs = nn.Conv3d(*channels, 3, padding=1, padding_mode="reflect")
    theirs.load_state_dict(ours.state_dict())
    assert_equal(ours, theirs, torch.randn(batch, channels[0], 4, 3, width))


def test_neighbors_fill_the_vector_that_few_channels_leave_empty():
    assert [_fold(channels, 80, 1) for channels in (1, 2, 4, 8, 16, 64)] == [16, 8, 4, 2, 1, 1]
    assert [_fold(2, size, 1) for size in (8, 12, 6, 2, 7)] == [4, 4, 2, 1, 1]  # never all, and powers of two
    assert _fold(8, 80, 2) == 1


def test_half_precision_trains():
    conv = Conv3d(3, 4, 3, padding=1, padding_mode="reflect")
    image = torch.randn(1, 3, 8, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = conv(image)
    result.float().square().sum().backward()
    assert result.dtype == torch.bfloat16
    assert conv.weight.grad.isfinite().all()
    assert image.grad.isfinite().all()


@HALF
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("channels", "size", "stride"), [((8, 8), 12, 1), ((3, 4), 30, 1), ((16, 20), 9, 2)])
def test_half_precision_is_single_precision_but_for_rounding(batch, channels, size, stride):
    """Each result and gradient is off by a rounding of its inputs, 2**-8, averaged over the sum that it is."""
    conv = Conv3d(*channels, 3, padding=1, padding_mode="reflect", stride=stride)
    image = torch.randn(batch, channels[0], size, size, size)
    results = []
    for half in (False, True):
        x = image.clone().requires_grad_()
        conv.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            y = conv(x)
        assert y.dtype == (torch.bfloat16 if half else torch.float32)
        y.float().square().sum().backward()
        results.append((y.float(), x.grad, conv.weight.grad.clone(), conv.bias.grad.clone()))
    for single, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        assert (rounded - single).norm() < 2**-7 * single.norm()


@HALF
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("channels", [(4, 1), (8, 1), (1, 2), (8, 3), (2, 4), (128, 1)])
@pytest.mark.parametrize("size", [(2, 4, 4), (4, 4, 2), (4, 5, 6), (5, 4, 8), (6, 6, 16)])
def test_small_maps_in_half_precision_are_right_whatever_memory_held(size, channels, batch, stride):
    conv = Conv3d(*channels, 3, padding=1, padding_mode="reflect", stride=stride)
    single_precision, half_precision = single_and_half(conv, torch.randn(batch, channels[0], *size))
    for single, rounded in zip(single_precision[:3], half_precision[:3], strict=True):
        assert (rounded - single).norm() < 2**-6 * single.norm()


@HALF
def test_gradients_of_many_samples_are_summed_in_single_precision():
    conv = Conv3d(2, 2, 3, padding=1)
    image = torch.ones(1, 2, 36, 36, 36).expand(64, -1, -1, -1, -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conv(image).sum().backward()
    assert conv.bias.grad == pytest.approx([64 * 36**3] * 2, rel=2**-9)


def test_other_types_and_groups_go_straight_to_torch():
    image = torch.zeros(1, 2, 8, 8, 8)
    assert Conv3d(2, 2, 3)._is_plain(image)
    assert not Conv3d(2, 2, 3)._is_plain(image.double())
    assert not Conv3d(2, 2, 3, groups=2)._is_plain(image)
    assert not Conv3d(2, 2, 1, stride=2)._is_plain(image)
    assert not Conv3d(2, 2, 3, padding=1, padding_mode="replicate")._is_plain(image)


@pytest.mark.parametrize(
    "form",
    [
        {"kernel_size": 1, "padding": 1},
        {"kernel_size": 3, "stride": (1, 2, 2), "padding": 1},
        {"kernel_size": (1, 3, 3)},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": (0, 1, 2)},
    ],
)
def test_forms_that_no_network_here_has_are_torchs(form):
    ours, theirs = Conv3d(2, 3, **form), torch.nn.Conv3d(2, 3, **form)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, 8, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_of_no_sample_there_is_no_result():
    conv = Conv3d(2, 3, 3, padding=1)
    x = torch.zeros(0, 2, 4, 4, 4, requires_grad=True)
    y = conv(x)
    assert y.shape == (0, 3, 4, 4, 4)
    y.sum().backward()
    assert x.grad.shape == x.shape
