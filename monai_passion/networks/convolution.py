"""3-D convolution that stays fast for one small sample on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_passion.networks.masking import is_tracing

__all__ = ["Conv3d"]

ONEDNN_FROM = 20480
"""torch hands a lone sample to oneDNN only above this many elements, its last axis not counted."""


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with the same parameters and, up to rounding, the same numbers.

    Training with missing modalities convolves one small crop of one modality at a time. For a lone small sample torch
    leaves oneDNN for a path that takes several times as long on a CPU (`make bench`). So the sample is cut into two
    slabs along its first axis, each with the overlap that the kernel needs, and they are convolved as a batch of two.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._is_slow(input):
            return super()._conv_forward(input, weight, bias)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        assert isinstance(self.padding, tuple)
        padding = [edge for edge in reversed(self.padding) for _ in range(2)]
        padded = F.pad(input, padding, mode=mode)
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows = (padded.shape[2] - kernel) // stride + 1
        if rows < 2:
            return super()._conv_forward(input, weight, bias)
        half = (rows + 1) // 2
        size, start = (half - 1) * stride + kernel, (rows - half) * stride
        slabs = torch.cat([padded[:, :, :size], padded[:, :, start : start + size]])
        first, second = F.conv3d(slabs, weight, bias, self.stride).split(1)
        return torch.cat([first, second[:, :, 2 * half - rows :]], dim=2)

    def _is_slow(self, input: Tensor) -> bool:
        return (
            input.device.type == "cpu"
            and input.dtype == torch.float32
            and input.shape[0] == 1
            and input.shape[:4].numel() <= ONEDNN_FROM
            and self.kernel_size[0] > 1
            and self.groups == 1
            and self.dilation == (1, 1, 1)
            and torch.backends.mkldnn.is_available()
            and not is_tracing()
            and not torch.compiler.is_compiling()
        )
