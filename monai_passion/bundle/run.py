"""A bundle's own configuration, run in this process, and the line that runs it by MONAI alone."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_passion.errors import passion_cause
from monai_passion.system.files import read_json
from monai_passion.system.schemas import check_schema

__all__ = ["ARGUMENTS", "command_line", "run_bundle", "trained_bundle", "training_arguments"]

ARGUMENTS = "train_args.json"
"""What a training was started with, beside its checkpoints, as MONAI's ``--args_file`` takes it."""


def training_arguments(run: Path) -> dict[str, Any] | None:
    """What the training in a folder was started with; None where ``monai-passion train`` did not write there.

    Raises:
        InputError: the file that says so is damaged.
    """
    path = run / ARGUMENTS
    if not path.exists():
        return None
    arguments: dict[str, Any] = read_json(path, "give --bundle, and --data to evaluate")
    check_schema(arguments, "train_args", path)
    return arguments


def trained_bundle(run: Path) -> Path | None:
    """The bundle of the training in a folder; the one within the folder, wherever that was moved, goes first."""
    arguments = training_arguments(run)
    if arguments is None:
        return None
    bundle = Path(arguments["config_file"][0]).parents[1]
    return own if (own := run / bundle.name).is_dir() else bundle


def command_line(run_id: str, config_files: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """The same run as ``python -m monai.bundle run ...``, for a shell."""
    names = [str(path) for path in config_files]
    files = names[0] if len(names) == 1 else str(names)
    words = ["python", "-m", "monai.bundle", "run", run_id, "--config_file", files]
    for key, value in settings.items():
        words += [f"--{key}", value if isinstance(value, str) else repr(value)]
    return shlex.join(words)


def run_bundle(run_id: str, config_files: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Run it as ``python -m monai.bundle run`` does, without MONAI's list of the settings and its word on trust.

    Raises:
        PassionError: what a step of the run raised, however MONAI wrapped it.
    """
    from monai.bundle import run

    logging.getLogger("monai.bundle").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="parsing config_file")
    try:
        run(run_id=run_id, config_file=[str(path) for path in config_files], **settings)
    except Exception as error:
        cause = passion_cause(error)
        if cause is None or cause is error:
            raise
        raise cause from error
