"""Progress on standard error: one line that changes in a terminal, and lines that stay."""

from __future__ import annotations

import sys
import time

__all__ = ["StatusLine", "time_text"]

WIDTH = 110
"""Letters of the changing line, which overwrites the one before."""


class StatusLine:
    """A changing line on standard error for progress, and lines that stay.

    Of several processes, only one should print.

    Args:
        every: seconds between two progress lines if they cannot be overwritten, as in a file; None for never.
        silent: whether to print nothing at all.
    """

    def __init__(self, every: float | None = None, silent: bool = False) -> None:
        self.every, self.silent = every, silent
        self.last, self.open = time.monotonic(), False

    def passing(self, text: str) -> None:
        """Print a progress line."""
        now, shown = time.monotonic(), sys.stderr.isatty()
        if self.silent or now - self.last < (0.5 if shown else self.every or float("inf")):
            return
        self.last = now
        if shown:
            print(f"\r{text[:WIDTH]:{WIDTH}}", end="", file=sys.stderr, flush=True)
            self.open = True
        else:
            print(text, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self.silent:
            return
        start = f"\r{'':{WIDTH}}\r" if self.open else ""
        print(f"{start}{text}", file=sys.stderr, flush=True)
        self.last, self.open = time.monotonic(), False


def time_text(seconds: float) -> str:
    """A duration in words: ``"40 s"``, ``"12 min"``, ``"3 h 20 min"``."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
