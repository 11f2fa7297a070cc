"""What goes on, said on standard error: one line that changes in a terminal, and lines that stay."""

from __future__ import annotations

import sys
import time

__all__ = ["StatusLine", "time_text"]

WIDTH = 110
"""Letters of the line that changes; what was there before is written over."""


class StatusLine:
    """A line on standard error that changes while something goes on, and lines that stay.

    Of several processes only one should speak.

    Args:
        every: seconds between two lines of what passes where it cannot be written over, as in a file; None for never.
        silent: whether to say nothing at all.
    """

    def __init__(self, every: float | None = None, silent: bool = False) -> None:
        self.every, self.silent = every, silent
        self.last, self.open = time.monotonic(), False

    def passing(self, text: str) -> None:
        """What is true for a moment."""
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
        """What stays."""
        if self.silent:
            return
        start = f"\r{'':{WIDTH}}\r" if self.open else ""
        print(f"{start}{text}", file=sys.stderr, flush=True)
        self.last, self.open = time.monotonic(), False


def time_text(seconds: float) -> str:
    """As people say it: ``"40 s"``, ``"12 min"``, ``"3 h 20 min"``."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
