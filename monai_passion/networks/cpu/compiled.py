"""Instance normalization and activation in two passes through memory, compiled by Numba: torch takes twelve.

numpy has no bfloat16, so such numbers are passed as their bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic
from torch import Tensor

__all__ = ["differentiate", "normalize"]

SINGLE, BITS, HALF = ir.FloatType(), ir.IntType(32), ir.IntType(16)
NOT_A_NUMBER = 0x7FC0
SUMMED = 256
"""Rows that are summed in single precision; their sums are added up in double precision."""
SAMPLED = 64
"""Rows whose mean is the origin of the sums: it is near the overall mean, so that squares keep their precision."""
BUSY = 2**17
"""Least number of values per thread: waking a thread takes as long as computing some ten thousand values."""


# What it compiles is not stored: a full disk would end a training at its first step.
_kernel = numba.njit(nogil=True, fastmath={"contract"})


@intrinsic  # type: ignore[untyped-decorator]
def _single(typing: Any, number: Any) -> tuple[Any, Callable]:
    """A number of a map, in single precision."""

    def of_bits(context: Any, builder: Any, signature: Any, arguments: Sequence) -> Any:
        return builder.bitcast(builder.shl(builder.zext(arguments[0], BITS), BITS(16)), SINGLE)

    def itself(context: Any, builder: Any, signature: Any, arguments: Sequence) -> Any:
        return arguments[0]

    return numba.float32(number), of_bits if number == numba.uint16 else itself


@intrinsic  # type: ignore[untyped-decorator]
def _round(typing: Any, number: Any, like: Any) -> tuple[Any, Callable]:
    """A number in single precision, as a map has it whose numbers are ``like`` this one: the nearest, or the even."""

    def to_bits(context: Any, builder: Any, signature: Any, arguments: Sequence) -> Any:
        bits = builder.bitcast(arguments[0], BITS)
        odd = builder.and_(builder.lshr(bits, BITS(16)), BITS(1))
        nearest = builder.lshr(builder.add(builder.add(bits, BITS(0x7FFF)), odd), BITS(16))
        unordered = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        return builder.select(unordered, HALF(NOT_A_NUMBER), builder.trunc(nearest, HALF))

    def itself(context: Any, builder: Any, signature: Any, arguments: Sequence) -> Any:
        return arguments[0]

    return like(numba.float32, like), to_bits if like == numba.uint16 else itself


# Of kernels, maps are (n, rows, numbers), a row being the channels of a voxel or of several, and what else is for each
# number of a row, (n, numbers). They go through the rows from ``start`` to ``stop``.


@_kernel
def _moments(start, stop, x, origin, sums):  # type: ignore[no-untyped-def]
    """Adds up what the rows have above ``origin``, and its squares, in ``sums`` (n, 2, numbers)."""
    part = np.zeros(sums.shape[1:], np.float32)
    for n in range(len(x)):
        for first in range(start, stop, SUMMED):
            part[:] = 0
            for i in range(first, min(first + SUMMED, stop)):
                for j in range(x.shape[2]):
                    value = _single(x[n, i, j]) - origin[n, j]
                    part[0, j] += value
                    part[1, j] += value * value
            sums[n] += part


@_kernel
def _activate(start, stop, x, factor, shift, slope, result):  # type: ignore[no-untyped-def]
    for n in range(len(x)):
        for i in range(start, stop):
            for j in range(x.shape[2]):
                value = _single(x[n, i, j]) * factor[n, j] + shift[n, j]
                result[n, i, j] = _round(value if value > 0 else value * slope, x[n, i, j])


@_kernel
def _products(start, stop, upstream, values, slope, sums):  # type: ignore[no-untyped-def]
    """Adds up the gradient of what was normalized, and its product with that, in ``sums`` (n, 2, numbers)."""
    part = np.zeros(sums.shape[1:], np.float32)
    for n in range(len(values)):
        for first in range(start, stop, SUMMED):
            part[:] = 0
            for i in range(first, min(first + SUMMED, stop)):
                for j in range(values.shape[2]):
                    gradient, value = _single(upstream[n, i, j]), _single(values[n, i, j])
                    part[0, j] += gradient if value > 0 else gradient * slope
                    part[1, j] += gradient * value  # what the slope takes from one it gives to the other
            sums[n] += part


@_kernel
def _gradient(start, stop, upstream, values, of_upstream, of_values, shift, slope, result):  # type: ignore[no-untyped-def]
    steep = np.float32(1) / slope
    for n in range(len(values)):
        for i in range(start, stop):
            for j in range(values.shape[2]):
                gradient, value = _single(upstream[n, i, j]), _single(values[n, i, j])
                if not value > 0:
                    gradient *= slope
                    value *= steep
                number = gradient * of_upstream[n, j] + value * of_values[n, j] + shift[n, j]
                result[n, i, j] = _round(number, values[n, i, j])


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """A process that was forked has none of the threads of the one that it comes from, so each has its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="monai_passion")


def _in_threads(of_rows: Callable[[int, int], Any], maps: np.ndarray) -> list[Any]:
    """Every part of the rows of ``maps``, from one row to another, in as many threads as torch has."""
    threads = max(min(torch.get_num_threads(), maps.size // BUSY), 1)
    edges = [maps.shape[1] * part // threads for part in range(threads + 1)]
    first, *others = pairwise(edges)
    waiting = [_pool(os.getpid(), torch.get_num_threads()).submit(of_rows, *part) for part in others]
    return [of_rows(*first), *(part.result() for part in waiting)]


def _means(kernel: Callable, maps: np.ndarray, channels: int, *arguments: Any) -> np.ndarray:
    """(2, n, C), over the voxels of ``maps``, of what a kernel sums."""

    def of_rows(start: int, stop: int) -> np.ndarray:
        sums = np.zeros((len(maps), 2, maps.shape[2]))
        kernel(start, stop, *arguments, sums)
        return sums

    total = np.sum(_in_threads(of_rows, maps), axis=0).reshape(len(maps), 2, -1, channels)
    return total.sum(axis=2).swapaxes(0, 1) * (channels / maps[0].size)


def _per_number(maps: np.ndarray, *per_channel: np.ndarray) -> list[np.ndarray]:
    """(n, C) -> (n, numbers) for a row of ``maps``, in single precision."""
    return [np.tile(x, maps.shape[2] // x.shape[1]).astype(np.float32) for x in per_channel]


def _numbers(rows: Tensor) -> np.ndarray:
    return rows.view(torch.int16).numpy().view(np.uint16) if rows.dtype == torch.bfloat16 else rows.numpy()


def normalize(rows: Tensor, result: Tensor, channels: int, slope: float, epsilon: float, flat: float) -> Tensor:
    """IN and LReLU into ``result``, both (n, rows, numbers); 1 / deviation (n, C), 0 where the variance is ``flat``."""
    x, y = _numbers(rows), _numbers(result)
    origin = rows[:, :: max(rows.shape[1] // SAMPLED, 1), :channels].float().mean(dim=1).numpy()
    mean, square = _means(_moments, x, channels, x, *_per_number(x, origin))
    variance = np.maximum(square - mean**2, 0)
    inverse_std = (variance > flat) / np.sqrt(variance + epsilon)
    factor, shift = _per_number(x, inverse_std, -(mean + origin) * inverse_std)
    _in_threads(lambda *part: _activate(*part, x, factor, shift, np.float32(slope), y), x)
    return torch.from_numpy(inverse_std)


def differentiate(upstream: Tensor, values: Tensor, inverse_std: Tensor, result: Tensor, slope: float) -> None:
    """Write the gradient of `normalize`'s input, from that of its output, into ``result``; all (n, rows, numbers)."""
    u, v, out = map(_numbers, (upstream, values, result))
    mean, along = _means(_products, v, inverse_std.shape[1], u, v, np.float32(slope))
    scale = inverse_std.numpy()
    factors = _per_number(v, scale, -along * scale, -mean * scale)
    _in_threads(lambda *part: _gradient(*part, u, v, *factors, np.float32(slope), out), v)
