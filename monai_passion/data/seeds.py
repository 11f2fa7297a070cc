"""The seed of what is drawn: splits, presence, phantoms, composites."""

from __future__ import annotations

from monai_passion.errors import UsageError

__all__ = ["check_seed"]


def check_seed(seed: int) -> None:
    """Refuse a negative seed, which NumPy does not take.

    Raises:
        UsageError: it is negative.
    """
    if seed < 0:
        raise UsageError(f"seed is {seed}; give a number from 0 on")
