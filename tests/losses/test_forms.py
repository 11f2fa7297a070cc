"""The fused forms give the numbers and gradients of the equations as they are read."""

import pytest
import torch

from monai_passion.losses import distillation, fused
from monai_passion.losses.segmentation import make_target

K = 4


@pytest.mark.parametrize("piece", [5, 2**15])
@pytest.mark.parametrize("equation", ["pixel_distillation", "prototype_distillation"])
def test_value_and_gradient(monkeypatch, equation, piece):
    monkeypatch.setattr(fused, "PIECE", piece)
    target = make_target(torch.randint(0, K - 1, (1, 1, 4, 6)), K, torch.double)  # the last class is absent
    part = (2.0,) if equation == "pixel_distillation" else (*target[1:], target.voxels[0] > 0)
    student, teacher = torch.randn(3, K, 4, 6).double(), torch.randn(1, K, 4, 6).double()
    results = []
    for form in (distillation, fused):
        leaf = student.clone().requires_grad_()
        value = getattr(form, equation)(leaf, teacher, *part)
        values = value if isinstance(value, tuple) else (value,)
        (torch.tensor([1.0, -2.0, 0.5]) * values[0]).sum().backward()
        results.append((*values, leaf.grad))
    torch.testing.assert_close(*results)
    assert results[0][-1].abs().sum() > 0
