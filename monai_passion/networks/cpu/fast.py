"""The tensors that the special CPU code handles, and the type in which it computes."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_passion.networks.precision import cpu_has
from monai_passion.networks.routing import is_tracing

__all__ = ["ONEDNN_FROM", "VECTOR", "compute_type", "has_tiles", "is_fast", "neighbors"]

ONEDNN_FROM = 20480
"""torch hands a lone sample to oneDNN only above this many elements; of a volume, its last axis not counted."""
VECTOR = 16
"""Single-precision numbers in a processor's vector, which oneDNN fills with channels."""


def compute_type(x: Tensor) -> torch.dtype:
    """The type in which a convolution of this tensor computes: autocast's if that is on, else the tensor's."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def is_fast(x: Tensor) -> bool:
    """Whether the special CPU code handles this tensor."""
    if x.device.type != "cpu" or not x.numel() or torch.compiler.is_compiling() or is_tracing():
        return False
    if compute_type(x) == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return compute_type(x) == torch.float32 and torch.backends.mkldnn.is_available()


def has_tiles(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of this type in tiles: bfloat16 with AMX."""
    return dtype == torch.bfloat16 and cpu_has("amx_tile")


def neighbors(channels: int, size: int, wide: int) -> int:
    """How many of ``size`` neighboring voxels (or groups) are computed as one, of at most ``wide`` channels."""
    return next(n for n in range(max(wide // channels, 1), 0, -1) if size % n == 0)
