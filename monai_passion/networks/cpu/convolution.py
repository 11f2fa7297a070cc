"""3-D convolution that stays fast for one small sample on a CPU, and keeps little for its gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_passion.networks.cpu.fast import ONEDNN_FROM, VECTOR, compute_type, is_fast
from monai_passion.networks.cpu.grouped import convolve_in_groups
from monai_passion.networks.cpu.layout import channels_last, empty_channels_last
from monai_passion.networks.cpu.padding import MODES, crop_gradient, pad
from monai_passion.networks.cpu.pointwise import pointwise

__all__ = ["Conv3d"]


class _Plan(NamedTuple):
    """How `Conv3d` goes about a convolution."""

    padding: tuple[int, ...]
    """Voxels at both ends of each axis."""
    mode: str
    kernel: int
    stride: int
    rows: int
    """Rows of the result along its first axis."""
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
        padded = pad(x.to(self.dtype), self.padding, self.mode)
        if self.slabs:
            size, start = self._slab
            padded = torch.cat([padded[:, :, :size], padded[:, :, start : start + size]])
        return channels_last(padded)

    def restore(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient of the input of `prepare`; overwrites that of its output."""
        if self.slabs:
            size, start = self._slab
            rows = x.shape[2] + 2 * self.padding[0]  # with a stride, perhaps more than the slabs see
            first, second = gradient.split(1)
            gradient = first.new_zeros(1, first.shape[1], rows, *first.shape[3:])
            gradient[:, :, :size] += first
            gradient[:, :, start : start + size] += second
        return crop_gradient(gradient, self.padding, self.mode)

    @property
    def _slab(self) -> tuple[int, int]:
        """Rows of the padded input in a slab, and where the second one starts."""
        return (self.half - 1) * self.stride + self.kernel, (self.rows - self.half) * self.stride

    def join(self, output: Tensor) -> Tensor:
        if not self.slabs:
            return channels_last(output)
        first, second = output.split(1)
        return channels_last(torch.cat([first, second[:, :, self.overlap :]], dim=2))

    def split(self, gradient: Tensor) -> Tensor:
        """The gradient of the input of `join`."""
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
            return channels_last(part)
        if not row:
            whole = empty_channels_last(part, (size, *part.shape[1:]))
        whole[row : row + len(part)] = part
        row += len(part)
    return whole


def _fold(channels: int, size: int, stride: int) -> int:
    """Neighbors along the last axis of ``size`` voxels whose results are computed as channels of one voxel.

    A power of two, and never all of them: for others oneDNN's bfloat16 kernels for AMX (torch 2.13) read memory beside
    the map, so that the result is noise or not a number.
    """
    fold = 1
    while stride == 1 and 2 * fold * channels <= VECTOR and size % (2 * fold) == 0 and size > 2 * fold:
        fold *= 2
    return fold


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
            of_prepared, w, b = _gradients(
                ctx.plan.prepare(part), ctx.plan.split(upstream), kernel, ctx.plan, wanted[0]
            )
            of_weight.add_(w)
            if of_bias is not None:
                of_bias.add_(b)
            return part if of_prepared is None else ctx.plan.restore(of_prepared, part)

        parts = (parts.split(_at_once(x)) for parts in (x, grads[0]))
        of_x = _together(map(of_piece, *parts), len(x))
        return of_x if wanted[0] else None, of_weight, of_bias, None


def _gradients(
    x: Tensor, upstream: Tensor, weight: Tensor, plan: _Plan, wanted: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of the padded input (if ``wanted``), the weight and the bias."""
    fold, channels, narrow = plan.fold, len(weight), min(weight.shape[:2]) < VECTOR
    # As a convolution forward with the kernel turned round, which is quicker for narrow ones. (Maps one voxel deep are
    # another shape that AMX's kernels get wrong, see `_fold`.)
    forward = narrow and plan.stride == 1 and upstream.shape[2] > 1
    forward = forward and (len(x) > 1 or upstream[0, ..., 0].numel() > ONEDNN_FROM)
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

    Training with missing modalities convolves one crop of one modality at a time, into few channels. On a CPU, torch is
    slow at that in five ways and wasteful in a sixth (`make bench`):

    * Its layout, channels first, costs oneDNN up to twice the time. So channels are last here, also in the result.
    * oneDNN fills its vectors with channels of the result. Where these are few, results of neighboring voxels fill them
      up: a wider kernel at a larger stride computes them as channels, which in this layout is the same memory.
    * It does not use oneDNN for a single small sample. So the sample is cut into two slabs along its first axis, with
      the overlap that the kernel needs, which are convolved as a batch of two.
    * A 1x1x1 convolution is a product of matrices.
    * The gradients of a convolution in groups take many times as long as they need (`convolve_in_groups`).
    * It keeps the padded input for the gradients, beside the input itself.

    In bfloat16, as under autocast, the gradients of the weights are summed over the samples in single precision.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._is_plain(input):
            return super()._conv_forward(input, weight, bias)
        if self.groups > 1:
            return convolve_in_groups(input, weight, bias, self.groups)
        if self.kernel_size[0] == 1:
            return pointwise(input, weight, bias)
        assert isinstance(self.padding, tuple)
        kernel, stride, dtype = self.kernel_size[0], self.stride[0], compute_type(input)
        rows, _, width = (
            (size + 2 * edge - kernel) // stride + 1 for size, edge in zip(input.shape[2:], self.padding, strict=True)
        )
        plan = _Plan(
            padding=self.padding,
            mode=self.padding_mode,
            kernel=kernel,
            stride=stride,
            rows=rows,
            slabs=input.shape[0] == 1 and input.shape[:4].numel() <= ONEDNN_FROM and rows > 1,
            fold=_fold(self.out_channels, width, stride),
            # The other shapes that AMX's kernels get wrong (see `_fold`), the latter in the gradient of the input.
            dtype=torch.float32 if stride > 1 and (width == 1 or self.out_channels % 2) else dtype,
        )
        with torch.autocast("cpu", enabled=False):
            return _Convolve.apply(input, weight, bias, plan).to(dtype)  # type: ignore[no-any-return, no-untyped-call]

    def _is_plain(self, input: Tensor) -> bool:
        return (
            is_fast(input)
            and len({*self.kernel_size}) == len({*self.stride}) == 1
            and isinstance(self.padding, tuple)
            and (self.kernel_size[0] > 1 or (self.stride[0] == 1 and not any(self.padding)))
            and (self.groups == 1 or self._keeps_the_size())
            and self.dilation == (1, 1, 1)
            and self.padding_mode in MODES
        )

    def _keeps_the_size(self) -> bool:
        odd, same = self.kernel_size[0] % 2 == 1, tuple(size // 2 for size in self.kernel_size)
        return odd and self.stride[0] == 1 and self.padding == same and self.padding_mode == "zeros"
