"""3-D convolution that stays fast for one small sample on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_passion.networks.masking import is_tracing

__all__ = ["Conv3d", "pointwise"]

ONEDNN_FROM = 20480
"""torch hands a lone sample to oneDNN only above this many elements, its last axis not counted."""


NARROW = 16
"""Below this many channels oneDNN's gradients are quicker with the channels last."""


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of kernel size 1: (n, C, *spatial), (O, C, 1, ...), (O,) -> (n, O, *spatial)."""
    matrix, flat = weight.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2)
    product = torch.bmm(matrix, flat) if bias is None else torch.baddbmm(bias.unsqueeze(1), matrix, flat)
    return product.unflatten(2, x.shape[2:])


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with the same parameters and, up to rounding, the same numbers.

    Training with missing modalities convolves one crop of one modality at a time, into few channels. On a CPU torch is
    slow at that in three ways (`make bench`):

    * It leaves oneDNN for a lone small sample. So that is cut into two slabs along its first axis, each with the
      overlap that the kernel needs, and they are convolved as a batch of two.
    * oneDNN's gradients of narrow convolutions are slow with the channels first. So they stand last meanwhile.
    * A 1x1x1 convolution is a product of matrices, which its gradients profit from.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._is_plain(input):
            return super()._conv_forward(input, weight, bias)
        if self.kernel_size[0] == 1:
            return pointwise(input, weight, bias)
        slabs = input.shape[0] == 1 and input.shape[:4].numel() <= ONEDNN_FROM
        last = torch.is_grad_enabled() and min(self.in_channels, self.out_channels) < NARROW
        if not (slabs or last):
            return super()._conv_forward(input, weight, bias)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        assert isinstance(self.padding, tuple)
        padding = [edge for edge in reversed(self.padding) for _ in range(2)]
        padded = F.pad(input, padding, mode=mode)
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows = (padded.shape[2] - kernel) // stride + 1
        half = (rows + 1) // 2
        if slabs and rows > 1:
            size, start = (half - 1) * stride + kernel, (rows - half) * stride
            padded = torch.cat([padded[:, :, :size], padded[:, :, start : start + size]])
        layout = torch.channels_last_3d if last else torch.contiguous_format
        output = F.conv3d(padded.contiguous(memory_format=layout), weight, bias, self.stride).contiguous()
        if slabs and rows > 1:
            first, second = output.split(1)
            output = torch.cat([first, second[:, :, 2 * half - rows :]], dim=2)
        return output

    def _is_plain(self, input: Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()
            and not is_tracing()
            and input.device.type == "cpu"
            and input.dtype == torch.float32
            and (self.kernel_size[0] > 1 or self.stride[0] == 1)
            and self.groups == 1
            and self.dilation == (1, 1, 1)
            and torch.backends.mkldnn.is_available()
        )
