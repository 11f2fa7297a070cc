"""3-D convolution that stays fast for one small sample on a CPU, and keeps little for its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_passion.networks.routing import is_tracing

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


class _Plan(NamedTuple):
    """How `Conv3d` goes about a convolution."""

    padding: tuple[int, ...]
    """As `torch.nn.functional.pad` wants it."""
    mode: str
    kernel: int
    stride: int
    rows: int
    """Of the result, along its first axis."""
    slabs: bool
    last: bool
    """Channels last."""

    @property
    def half(self) -> int:
        return (self.rows + 1) // 2

    @property
    def overlap(self) -> int:
        """Rows that both slabs compute: 0 or 1."""
        return 2 * self.half - self.rows

    def prepare(self, x: Tensor) -> Tensor:
        """The padded input, perhaps as two slabs, perhaps with its channels last."""
        padded = F.pad(x, self.padding, mode=self.mode)
        if self.slabs:
            size, start = (self.half - 1) * self.stride + self.kernel, (self.rows - self.half) * self.stride
            padded = torch.cat([padded[:, :, :size], padded[:, :, start : start + size]])
        return padded.contiguous(memory_format=torch.channels_last_3d if self.last else torch.contiguous_format)

    def join(self, output: Tensor) -> Tensor:
        output = output.contiguous()
        if not self.slabs:
            return output
        first, second = output.split(1)
        return torch.cat([first, second[:, :, self.overlap :]], dim=2)

    def split(self, gradient: Tensor) -> Tensor:
        """The gradient of what `join` got."""
        if not self.slabs:
            return gradient
        second = F.pad(gradient[:, :, self.half :], (0, 0, 0, 0, self.overlap, 0))
        return torch.cat([gradient[:, :, : self.half], second])


def _at_once(x: Tensor) -> int:
    """Samples that are convolved together: all of them, or one if one is enough for oneDNN."""
    return 1 if x[0, :, ..., 0].numel() > ONEDNN_FROM else len(x)


def _together(parts: Iterator[Tensor], size: int) -> Tensor:
    """The parts one after another along the first axis, ``size`` in all; each is gone before the next is made."""
    whole, row = torch.empty(0), 0
    for part in parts:
        if len(part) == size:
            return part.contiguous()
        if not row:
            whole = part.new_empty(size, *part.shape[1:])
        whole[row : row + len(part)] = part
        row += len(part)
    return whole


class _Convolve(torch.autograd.Function):
    """Keeps its input, which others keep as well, and pads it once more for the gradients.

    Large samples go one by one, so that what is needed meanwhile is of one sample.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.plan, ctx.bias_size = plan, None if bias is None else [len(bias)]
        parts = x.split(_at_once(x))
        return _together((plan.join(F.conv3d(plan.prepare(part), weight, bias, plan.stride)) for part in parts), len(x))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        of_weight = of_bias = None

        def of_piece(part: Tensor, upstream: Tensor) -> Tensor:
            nonlocal of_weight, of_bias
            with torch.enable_grad():
                part = part.detach().requires_grad_(wanted[0])
                prepared = ctx.plan.prepare(part)
            of_prepared, w, b = torch.ops.aten.convolution_backward(
                ctx.plan.split(upstream), prepared.detach(), weight, ctx.bias_size, [ctx.plan.stride] * 3, [0] * 3,
                [1] * 3, False, [0] * 3, 1, wanted[:3],
            )  # fmt: skip
            of_weight, of_bias = (new if old is None else old + new for old, new in ((of_weight, w), (of_bias, b)))
            return torch.autograd.grad(prepared, part, of_prepared)[0] if wanted[0] else part

        parts = (parts.split(_at_once(x)) for parts in (x, grads[0]))
        of_x = _together(map(of_piece, *parts), len(x))
        return of_x if wanted[0] else None, of_weight, of_bias, None


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with the same parameters and, up to rounding, the same numbers.

    Training with missing modalities convolves one crop of one modality at a time, into few channels. On a CPU torch is
    slow at that in three ways, and wasteful in one (`make bench`):

    * It leaves oneDNN for a lone small sample. So that is cut into two slabs along its first axis, each with the
      overlap that the kernel needs, and they are convolved as a batch of two.
    * oneDNN's gradients of narrow convolutions are slow with the channels first. So they stand last meanwhile.
    * A 1x1x1 convolution is a product of matrices, which its gradients profit from.
    * It keeps the padded input for the gradients, beside the input itself.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._is_plain(input):
            return super()._conv_forward(input, weight, bias)
        if self.kernel_size[0] == 1:
            return pointwise(input, weight, bias)
        assert isinstance(self.padding, tuple)
        kernel, stride, training = self.kernel_size[0], self.stride[0], torch.is_grad_enabled()
        rows = (input.shape[2] + 2 * self.padding[0] - kernel) // stride + 1
        plan = _Plan(
            padding=tuple(edge for edge in reversed(self.padding) for _ in range(2)),
            mode="constant" if self.padding_mode == "zeros" else self.padding_mode,
            kernel=kernel,
            stride=stride,
            rows=rows,
            slabs=input.shape[0] == 1 and input.shape[:4].numel() <= ONEDNN_FROM and rows > 1,
            last=training and min(self.in_channels, self.out_channels) < NARROW,
        )
        if plan.slabs or plan.last or (training and self.padding_mode != "zeros"):
            return _Convolve.apply(input, weight, bias, plan)  # type: ignore[no-any-return, no-untyped-call]
        return super()._conv_forward(input, weight, bias)

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
