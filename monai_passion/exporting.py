"""For other machines: a bundle as a zip, with its weights and, if wanted, this package; a network as ONNX."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from monai_passion.errors import WeightsError
from monai_passion.files import write_atomically
from monai_passion.networks import MultiModalBackbone
from monai_passion.networks.weights import load_weights, save_weights, write_sidecar
from monai_passion.workflow import find_weights

__all__ = ["export_bundle", "export_onnx"]

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


def export_onnx(network: MultiModalBackbone, output: str | os.PathLike[str], roi_size: Sequence[int]) -> Path:
    """Write a network as ONNX: ``image`` (1, M, *roi_size) and ``available`` (1, M) bool in, logits ``pred`` out.

    Every modality is computed, and what is not available is multiplied by zero. Needs the packages onnx and onnxscript.
    M2FTrans does not convert.

    Raises:
        ResourceError: the file cannot be written.
    """
    image = torch.zeros(1, network.num_modalities, *roi_size)
    available = torch.ones(1, network.num_modalities, dtype=torch.bool)
    program = torch.onnx.export(
        network.eval(),
        (image, available),
        input_names=["image", "available"],
        output_names=["pred"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return write_atomically(output, program.save)


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
