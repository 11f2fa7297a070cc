"""A bundle as one file for other machines: a zip, with its weights as safetensors and, if wanted, this package."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from monai_passion.errors import WeightsError
from monai_passion.files import write_atomically
from monai_passion.networks.weights import load_weights, save_weights, write_sidecar
from monai_passion.workflow import find_weights

__all__ = ["export_bundle"]

PACKAGE = Path(__file__).parent
WHOLE = ("configs", "docs", "scripts")
STAMP = (1980, 1, 1, 0, 0, 0)
"""Of every entry: the same content gives the same bytes."""


def export_bundle(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    vendor: bool = False,
) -> Path:
    """Write ``output``, a zip with one folder that has the bundle's name; the same content gives the same bytes.

    Weights go in as ``models/model.safetensors`` with ``.sha256`` beside it, whatever file they come from.

    Args:
        bundle: its folder.
        weights: a file that `load_weights` reads; by default what the bundle's ``models`` holds, if anything.
        vendor: put the package in, where Python finds it once the bundle's folder is on ``sys.path``. MONAI puts
            it there, but too late for the package to be found: set ``PYTHONPATH``.

    Raises:
        WeightsError: ``weights`` are none.
        ResourceError: the file cannot be written.
    """
    bundle = Path(bundle)
    with tempfile.TemporaryDirectory() as folder:
        files = dict(_files(bundle))
        found = Path(weights) if weights is not None else _weights_of(bundle)
        if found is not None:
            model = Path(folder) / "model.safetensors"
            state, facts = load_weights(found)
            save_weights(state, model, facts)
            files["models/model.safetensors"] = model
            files["models/model.safetensors.sha256"] = write_sidecar(model)
        if vendor:
            files.update(_package())
        return write_atomically(output, lambda temporary: _zip(files, bundle.resolve().name, temporary))


def _files(bundle: Path) -> Iterator[tuple[str, Path]]:
    yield "LICENSE", bundle / "LICENSE"
    for folder in WHOLE:
        for path in sorted((bundle / folder).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(bundle).as_posix(), path


def _package() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}", path


def _weights_of(bundle: Path) -> Path | None:
    try:
        return Path(find_weights(bundle / "models"))
    except WeightsError:
        return None


def _zip(files: dict[str, Path], name: str, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for relative, path in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{name}/{relative}", STAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
