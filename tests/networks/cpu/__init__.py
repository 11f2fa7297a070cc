"""What the tests of `networks/cpu` share."""

import pytest
import torch

HALF = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN computes bfloat16 with AVX-512 alone"
)
