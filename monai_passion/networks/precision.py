"""The precision in which a network computes; its parameters, losses and results are always single precision."""

from __future__ import annotations

from typing import Any

import torch

from monai_passion.errors import UsageError

__all__ = [
    "autocast",
    "choose_precision",
    "cpu_has",
    "has_bfloat16_units",
    "name_precision",
    "needs_scaler",
    "to_single",
]

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cpu_has(feature: str) -> bool:
    """Whether torch finds a feature in this CPU, such as ``"amx_tile"``; False if it cannot tell."""
    ask = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return ask is not None and bool(ask())


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether a device multiplies matrices faster in bfloat16.

    It does on a CPU with AMX or the bfloat16 instructions of AVX-512, and on a GPU of compute capability 8 and above.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (cpu_has("amx_tile") or cpu_has("avx512_bf16"))


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type that convolutions and products of matrices are computed in.

    Args:
        precision: "fp32", "bf16", "fp16" (on a GPU), or "auto": bf16 where `has_bfloat16_units`, else fp32.

    Raises:
        UsageError: another word, or fp16 on a CPU, which computes gradients in it a hundred times slower.
    """
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16_units(device) else torch.float32
    if precision not in TYPES:
        raise UsageError(f"precision is '{precision}'; give auto, {', '.join(TYPES)}")
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 is for GPUs; give auto, fp32 or bf16 on a CPU")
    return TYPES[precision]


def name_precision(precision: str, device: torch.device) -> str:
    """The name of the type that `choose_precision` returns: "auto" becomes "bf16" or "fp32"."""
    chosen = choose_precision(precision, device)
    return next(name for name, dtype in TYPES.items() if dtype == chosen)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which a network computes in this precision (see `choose_precision`)."""
    chosen = choose_precision(precision, device)
    if chosen == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=chosen)


def needs_scaler(precision: str, device: torch.device) -> bool:
    """Whether a training must scale its loss to keep small gradients: in fp16."""
    return choose_precision(precision, device) == torch.float16


def to_single(output: Any) -> Any:
    """The result of a network, in (nested) tuples, with half-precision tensors as float32."""
    if isinstance(output, torch.Tensor):
        return output.float() if output.is_floating_point() and output.dtype != torch.float64 else output
    if isinstance(output, tuple):
        values = map(to_single, output)
        return type(output)(*values) if hasattr(output, "_fields") else tuple(values)
    return output
