import torch

from monai_passion.networks.cpu.layout import split_rows

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
