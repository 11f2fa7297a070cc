"""A bundle's own configuration, run in this process, and the line that runs it by MONAI alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_passion.errors import passion_cause

__all__ = ["ARGUMENTS", "command_line", "run_bundle"]

ARGUMENTS = "train_args.json"
"""What a training was started with, beside its checkpoints, as MONAI's ``--args_file`` takes it."""


def command_line(run_id: str, config_files: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """The same run as ``python -m monai.bundle run ...``, for a shell."""
    names = [str(path) for path in config_files]
    files = names[0] if len(names) == 1 else str(names)
    words = ["python", "-m", "monai.bundle", "run", run_id, "--config_file", files]
    for key, value in settings.items():
        words += [f"--{key}", value if isinstance(value, str) else repr(value)]
    return shlex.join(words)


def run_bundle(run_id: str, config_files: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Run it as ``python -m monai.bundle run`` does.

    Raises:
        PassionError: what a step of the run raised, however MONAI wrapped it.
    """
    from monai.bundle import run

    try:
        run(run_id=run_id, config_file=[str(path) for path in config_files], **settings)
    except Exception as error:
        cause = passion_cause(error)
        if cause is None or cause is error:
            raise
        raise cause from error
