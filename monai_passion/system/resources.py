"""Where `configs/` and `bundles/` are: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from monai_passion.errors import PassionError

__all__ = ["resource_folder"]


def resource_folder(name: str) -> Path:
    """The folder ``"configs"`` or ``"bundles"`` that belongs to this package, whatever the working directory.

    Raises:
        PassionError: the package was installed without it.
    """
    package = Path(str(resources.files("monai_passion")))
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise PassionError(f"this installation of monai_passion has no {name}/; install it again")
