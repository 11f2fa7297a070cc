"""3-D convolution that stays fast for one small sample on a CPU, and keeps little for its gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_passion.networks.cpu.layout import channels_last, empty_channels_last, from_rows, to_rows
from monai_passion.networks.routing import is_tracing

__all__ = ["Conv3d", "pointwise"]

ONEDNN_FROM = 20480
"""torch hands a lone sample to oneDNN only above this many elements, its last axis not counted."""
VECTOR = 16
"""Single-precision numbers in a processor's vector, which oneDNN fills with channels of the result."""


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of kernel size 1: (n, C, *spatial), (O, C, 1, ...), (O,) -> (n, O, *spatial)."""
    if is_fast(x):
        return from_rows(F.linear(to_rows(x), weight.flatten(1), bias), x)
    matrix, flat = weight.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2)
    product = torch.bmm(matrix, flat) if bias is None else torch.baddbmm(bias.unsqueeze(1), matrix, flat)
    return product.unflatten(2, x.shape[2:])


def compute_type(x: Tensor) -> torch.dtype:
    """What a convolution of this tensor computes in: autocast's type where that is on, else the tensor's."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def is_fast(x: Tensor) -> bool:
    """Whether what is special here is for this tensor."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or is_tracing():
        return False
    if compute_type(x) == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return compute_type(x) == torch.float32 and torch.backends.mkldnn.is_available()


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
    fold: int
    """See `_fold`."""
    dtype: torch.dtype

    @property
    def half(self) -> int:
        return (self.rows + 1) // 2

    @property
    def overlap(self) -> int:
        """Rows that both slabs compute: 0 or 1."""
        return 2 * self.half - self.rows

    def prepare(self, x: Tensor) -> Tensor:
        """The padded input, its channels last, perhaps as two slabs."""
        padded = F.pad(channels_last(x.to(self.dtype)), self.padding, mode=self.mode)
        if self.slabs:
            size, start = (self.half - 1) * self.stride + self.kernel, (self.rows - self.half) * self.stride
            padded = torch.cat([padded[:, :, :size], padded[:, :, start : start + size]])
        return channels_last(padded)

    def join(self, output: Tensor) -> Tensor:
        if not self.slabs:
            return channels_last(output)
        first, second = output.split(1)
        return channels_last(torch.cat([first, second[:, :, self.overlap :]], dim=2))

    def split(self, gradient: Tensor) -> Tensor:
        """The gradient of what `join` got."""
        if self.slabs:
            second = F.pad(gradient[:, :, self.half :], (0, 0, 0, 0, self.overlap, 0))
            gradient = torch.cat([gradient[:, :, : self.half], second])
        return channels_last(gradient)


def _at_once(x: Tensor) -> int:
    """Samples that are convolved together: all of them, or one if one is enough for oneDNN."""
    return 1 if x[0, :, ..., 0].numel() > ONEDNN_FROM else len(x)


def _together(parts: Iterable[Tensor], size: int) -> Tensor:
    """The parts one after another along the first axis, ``size`` in all; each is gone before the next is made."""
    whole, row = torch.empty(0), 0
    for part in parts:
        if len(part) == size:
            return part
        if not row:
            whole = empty_channels_last(part, (size, *part.shape[1:]))
        whole[row : row + len(part)] = part
        row += len(part)
    return whole


def _fold(channels: int, size: int, stride: int) -> int:
    """Neighbors along the last axis of ``size`` voxels whose results are computed as channels of one voxel."""
    return next(n for n in range(max(VECTOR // channels, 1) if stride == 1 else 1, 0, -1) if size % n == 0)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, fold: int, padding: int = 0) -> Tensor:
    """The channels last: x (n, C, *spatial), weight (O, C, k, k, k)."""
    if fold == 1:
        return channels_last(F.conv3d(x, channels_last(weight), bias, stride, padding))
    bias = None if bias is None else bias.repeat(fold)
    folded = F.conv3d(x, channels_last(_shift(weight, fold)), bias, (1, 1, fold), padding)
    return _unfold(folded, fold)


def _shift(weight: Tensor, fold: int) -> Tensor:
    """(O, C, k, k, k) -> (fold O, C, k, k, k + fold - 1): the kernel as each of the neighbors sees it."""
    return torch.cat([F.pad(weight, (i, fold - 1 - i)) for i in range(fold)])


def _unfold(x: Tensor, fold: int) -> Tensor:
    """(n, fold C, D, H, W) -> (n, C, D, H, fold W), a view."""
    return channels_last(x).movedim(1, -1).unflatten(4, (fold, -1)).flatten(3, 4).movedim(-1, 1)


def _refold(x: Tensor, fold: int) -> Tensor:
    """The inverse of `_unfold`."""
    return x.movedim(1, -1).unflatten(3, (-1, fold)).flatten(4, 5).movedim(-1, 1)


class _Convolve(torch.autograd.Function):
    """Keeps its input, which others keep as well, and pads it once more for the gradients.

    Large samples go one by one, so that what is needed meanwhile is of one sample.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.plan, ctx.biased = plan, bias is not None

        kernel, shift = weight.to(plan.dtype), None if bias is None else bias.to(plan.dtype)

        def of_piece(part: Tensor) -> Tensor:
            return plan.join(_convolve(plan.prepare(part), kernel, shift, plan.stride, plan.fold))

        return _together(map(of_piece, x.split(_at_once(x))), len(x))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        of_weight, of_bias = torch.zeros_like(weight), weight.new_zeros(len(weight)) if ctx.biased else None
        kernel = weight.to(ctx.plan.dtype)

        def of_piece(part: Tensor, upstream: Tensor) -> Tensor:
            with torch.enable_grad():
                part = part.detach().requires_grad_(wanted[0])
                prepared = ctx.plan.prepare(part)
            of_prepared, w, b = _gradients(prepared.detach(), ctx.plan.split(upstream), kernel, ctx.plan, wanted[0])
            of_weight.add_(w)
            if of_bias is not None:
                of_bias.add_(b)
            return torch.autograd.grad(prepared, part, of_prepared)[0] if wanted[0] else part

        parts = (parts.split(_at_once(x)) for parts in (x, grads[0]))
        of_x = _together(map(of_piece, *parts), len(x))
        return of_x if wanted[0] else None, of_weight, of_bias, None


def _gradients(
    x: Tensor, upstream: Tensor, weight: Tensor, plan: _Plan, wanted: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Of the padded input (if it is ``wanted``), the weight and the bias."""
    fold, channels, narrow = plan.fold, len(weight), min(weight.shape[:2]) < VECTOR
    # As a convolution forward with the kernel turned round, which is quicker for narrow ones.
    forward = narrow and plan.stride == 1 and (len(x) > 1 or upstream[0, ..., 0].numel() > ONEDNN_FROM)
    of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
        _refold(upstream, fold), x, channels_last(_shift(weight, fold)), [fold * channels],
        [plan.stride, plan.stride, plan.stride * fold], [0] * 3, [1] * 3, False, [0] * 3, 1,
        (wanted and not forward, True, True),
    )  # fmt: skip
    if wanted and forward:
        turned = weight.flip(2, 3, 4).transpose(0, 1)
        of_x = _convolve(upstream, turned, None, 1, _fold(weight.shape[1], x.shape[4], 1), plan.kernel - 1)
    of_weight = torch.stack([part[..., i : i + plan.kernel] for i, part in enumerate(of_weight.split(channels))]).sum(
        dim=0
    )
    return of_x, of_weight, of_bias.view(fold, channels).sum(dim=0)


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with the same parameters and, up to rounding, the same numbers.

    Training with missing modalities convolves one crop of one modality at a time, into few channels. On a CPU torch is
    slow at that in four ways, and wasteful in one (`make bench`):

    * Its layout, channels first, costs oneDNN up to twice the time. So they stand last, here and in what comes out.
    * oneDNN fills its vectors with channels of the result. Where these are few, results of neighboring voxels fill them
      up: a wider kernel at a larger stride computes them as channels, which in this layout is the same memory.
    * It leaves oneDNN for a lone small sample. So that is cut into two slabs along its first axis, each with the
      overlap that the kernel needs, and they are convolved as a batch of two.
    * A 1x1x1 convolution is a product of matrices.
    * It keeps the padded input for the gradients, beside the input itself.

    In bfloat16, as under autocast, the gradients of the weights are summed over the samples in single precision.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._is_plain(input):
            return super()._conv_forward(input, weight, bias)
        if self.kernel_size[0] == 1:
            return pointwise(input, weight, bias)
        assert isinstance(self.padding, tuple)
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows = (input.shape[2] + 2 * self.padding[0] - kernel) // stride + 1
        plan = _Plan(
            padding=tuple(edge for edge in reversed(self.padding) for _ in range(2)),
            mode="constant" if self.padding_mode == "zeros" else self.padding_mode,
            kernel=kernel,
            stride=stride,
            rows=rows,
            slabs=input.shape[0] == 1 and input.shape[:4].numel() <= ONEDNN_FROM and rows > 1,
            fold=_fold(self.out_channels, input.shape[4] + 2 * self.padding[2] - kernel + 1, stride),
            dtype=compute_type(input),
        )
        with torch.autocast("cpu", enabled=False):
            return _Convolve.apply(input, weight, bias, plan)  # type: ignore[no-any-return, no-untyped-call]

    def _is_plain(self, input: Tensor) -> bool:
        return (
            is_fast(input)
            and (self.kernel_size[0] > 1 or self.stride[0] == 1)
            and self.groups == 1
            and self.dilation == (1, 1, 1)
        )
