import torch

from monai_passion.networks.cpu.layout import concatenate, split_rows

SHAPE = (5, 3, 4, 4, 4)


def test_rows_split_as_torch_splits_them_in_values_and_gradients():
    results = []
    for split in (split_rows, torch.split):
        x = torch.arange(5 * 192.0).reshape(SHAPE).requires_grad_()
        first, second, third = split(x, [1, 2, 2])
        (first.square().sum() + 3 * third.sum()).backward()  # nothing of the second
        results.append((first, second, third, x.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_the_gradient_has_the_layout_of_the_rows():
    x = torch.randn(SHAPE).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    (gradient,) = torch.autograd.grad(split_rows(x, [1, 4])[1].sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last_3d)


def maps():
    return [
        torch.randn(2, channels, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        for channels in (3, 1, 2)
    ]


def test_maps_side_by_side_are_torchs_in_values_and_gradients():
    results = []
    for join in (concatenate, lambda parts: torch.cat(parts, dim=1)):
        torch.manual_seed(0)
        parts = maps()
        parts[1].requires_grad_(False)
        whole = join(parts)
        (whole.square() * torch.arange(6.0).view(6, 1, 1, 1)).sum().backward()
        results.append((whole, parts[0].grad, parts[2].grad))
        assert parts[1].grad is None
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_the_gradients_of_maps_side_by_side_are_contiguous():
    parts = maps()
    gradients = torch.autograd.grad(concatenate(parts).square().sum(), parts)
    assert all(x.is_contiguous(memory_format=torch.channels_last_3d) for x in gradients)
