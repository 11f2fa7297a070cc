"""Log records of a run: few go to the terminal, all to a file."""

from __future__ import annotations

import logging
import os
import sys
from io import TextIOWrapper
from pathlib import Path

__all__ = ["LOG", "PROGRESS", "calm_terminal", "keep_log"]

LOG = "log.txt"
PROGRESS = "monai_passion.progress"
"""Logger of messages for the log file only: the terminal has a line of its own for each epoch."""


def calm_terminal() -> None:
    """From now on, terminal handlers pass this package's messages, without a date, and errors of others."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler and _for_terminal not in handler.filters:
            handler.addFilter(_for_terminal)
            handler.setFormatter(logging.Formatter("%(message)s"))


def keep_log(folder: str | os.PathLike[str]) -> None:
    """From now on, every record also goes to ``folder``/log.txt, and Python warnings only there.

    The file of an earlier call gets no further records. The file is made with the first record.
    """
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _RunFile)]:
        root.removeHandler(old)
        old.close()
    file = _RunFile(Path(folder) / LOG, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(file)
    root.setLevel(min(root.level, logging.INFO))
    logging.captureWarnings(True)


class _RunFile(logging.FileHandler):
    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (its name in Python)
        """Ignore errors of a full disk: records that matter are in the terminal."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _for_terminal(record: logging.LogRecord) -> bool:
    ours = record.name.startswith("monai_passion.") and record.name != PROGRESS
    return ours or record.levelno >= logging.ERROR
