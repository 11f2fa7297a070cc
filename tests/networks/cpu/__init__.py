"""What the tests of `networks/cpu` share."""

import pytest
import torch

HALF = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN computes bfloat16 with AVX-512 alone"
)


def single_and_half(conv, image):
    """(value, gradients of image, weight and bias) in single precision, and rounded.

    oneDNN's kernels for AMX read memory beside the map for some shapes: here that holds large numbers.
    """
    results = []
    for half in (False, True):
        x = image.clone().requires_grad_()
        conv.zero_grad()
        _ = [torch.full((2**n,), 1e30, dtype=torch.bfloat16) for n in range(6, 18) for _ in range(4)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            y = conv(x)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape))
        results.append((y.float(), x.grad, conv.weight.grad.clone(), conv.bias.grad.clone()))
    return results
