"""A process that ends when the one that started it is gone."""

from __future__ import annotations

import os
import signal
import threading
import time

from monai_passion.errors import EXIT_TERMINATED

__all__ = ["GRACE", "end_with"]

GRACE = 30.0
"""Seconds that a process may take to end after SIGTERM."""


def end_with(parent: int) -> None:
    """End this process once its parent is no longer ``parent``: by SIGTERM, then after `GRACE` seconds by force."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(EXIT_TERMINATED)
