"""How a run of a bundle starts: its folder, its seed, its log."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import ignite.distributed as idist
import torch
from monai.utils import set_determinism

from monai_passion.bundle.arguments import check_arguments
from monai_passion.errors import install_excepthook
from monai_passion.system.logs import calm_terminal
from monai_passion.system.logs import keep_log as log_to
from monai_passion.system.memory import keep_freed_memory

__all__ = ["find_bundle_root", "keep_log", "start"]


def find_bundle_root(bundle_name: str) -> str:
    """The folder of the bundle whose configuration runs, from any working directory.

    MONAI's workflow, which asks, knows where its configuration lies, and puts the folder on ``sys.path`` before it
    runs; elsewhere (MONAI Label) ``bundle_root`` is given.
    """
    frame = inspect.currentframe()
    while frame is not None:
        folder = getattr(frame.f_locals.get("self"), "__dict__", {}).get("config_root_path")
        if isinstance(folder, Path) and (folder / "metadata.json").is_file():
            return str(folder.parent)
        frame = frame.f_back
    for entry in (*sys.path, "."):
        folder = Path(entry or ".")
        if folder.resolve().name == bundle_name and (folder / "configs" / "metadata.json").is_file():
            return str(folder)
    return "."


def start(seed: int | None, deterministic: bool = False) -> None:
    """Before anything is built: seed everything (unless ``None``), keep freed memory, let errors end in one line.

    The terminal gets what this package says, and of the libraries only errors.

    ``deterministic`` also makes torch choose the deterministic form of each operation; one that has none warns.

    Raises:
        UsageError: a setting on MONAI's command line that the configuration does not have; see `check_arguments`.
    """
    install_excepthook()
    calm_terminal()
    check_arguments(sys.argv)
    keep_freed_memory()
    if seed is not None:
        set_determinism(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True, warn_only=True)


def keep_log(ckpt_dir: str) -> None:
    """All that is logged goes to ``ckpt_dir``/log.txt, of several processes' that of the first."""
    if idist.get_rank() == 0:
        log_to(ckpt_dir)
