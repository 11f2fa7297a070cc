"""Where a network is computed."""

from __future__ import annotations

from monai_passion.errors import UsageError, first_line

__all__ = ["usable_device"]


def usable_device(name: str) -> str:
    """Return ``name`` after checking that torch can allocate there.

    Raises:
        UsageError: torch knows no such device, or this machine has none.
    """
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device '{name}' cannot be used here ({first_line(error)}); try --device cpu") from error
    return name
