"""Run a bundle's own configuration in this process, or give the equivalent command of MONAI."""

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
"""File with the arguments of a training, beside its checkpoints, in the format of MONAI's ``--args_file``."""


def training_arguments(run: Path) -> dict[str, Any] | None:
    """The arguments of the training in a folder; None if ``monai-passion train`` did not write there.

    Raises:
        InputError: the file with them is damaged.
    """
    path = run / ARGUMENTS
    if not path.exists():
        return None
    arguments: dict[str, Any] = read_json(path, "give --bundle, and --data to evaluate")
    check_schema(arguments, "train_args", path)
    return arguments


def trained_bundle(run: Path) -> Path | None:
    """The bundle of the training in a folder; one within the folder is preferred, so that the folder can be moved."""
    arguments = training_arguments(run)
    if arguments is None:
        return None
    bundle = Path(arguments["config_file"][0]).parents[1]
    return own if (own := run / bundle.name).is_dir() else bundle


def command_line(run_id: str, config_files: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """The equivalent shell command, ``python -m monai.bundle run ...``."""
    names = [str(path) for path in config_files]
    files = names[0] if len(names) == 1 else str(names)
    words = ["python", "-m", "monai.bundle", "run", run_id, "--config_file", files]
    for key, value in settings.items():
        words += [f"--{key}", value if isinstance(value, str) else repr(value)]
    return shlex.join(words)


def run_bundle(run_id: str, config_files: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Run it as ``python -m monai.bundle run`` does, without MONAI's list of settings and its notice about trust.

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
