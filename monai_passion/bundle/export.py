"""For other machines: a bundle as a zip, with weights and, if wanted, the package; a network as TorchScript or ONNX."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_passion.bundle.weights import find_weights, trained_settings, trained_unknown
from monai_passion.errors import UsageError, WeightsError
from monai_passion.networks import MultiModalBackbone
from monai_passion.networks.weights import load_weights, save_weights, write_sidecar
from monai_passion.system.files import write_atomically
from monai_passion.system.resources import resource_folder

__all__ = ["export_bundle", "export_onnx", "torchscript"]

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
WHOLE = ("configs", "docs", "scripts")
CONFIGS = ("configs/train.json", "configs/evaluate.json", "configs/inference.json")
STAMP = (1980, 1, 1, 0, 0, 0)
"""Of every entry: the same content gives the same bytes."""


def export_bundle(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    vendor: bool = False,
) -> Path:
    """Write ``output``, a zip with one folder that has the bundle's name; the same content gives the same bytes.

    Weights go in, whatever file they come from, as ``models/model.safetensors`` and, for MONAI's own tools, as
    ``models/model.pt``, a plain ``state_dict``; each with ``.sha256`` beside it. Where they were trained with other
    settings than the bundle's (`width`, sizes), the configurations get those.

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
            state, facts = load_weights(found)
            if not facts:
                logger.warning("warning: %s", trained_unknown(found))
            models = Path(folder) / "model.safetensors", Path(folder) / "model.pt"
            save_weights(state, models[0], facts)
            torch.save(state, models[1])
            for model in models:
                files[f"models/{model.name}"] = model
                files[f"models/{model.name}.sha256"] = write_sidecar(model)
            for name, path in files.items():
                if name in CONFIGS:
                    files[name] = Path(folder) / path.name
                    _with_settings(path, trained_settings(found, facts), files[name])
        if vendor:
            files.update(_package())
        return write_atomically(output, lambda temporary: _zip(files, bundle.resolve().name, temporary))


def export_onnx(network: MultiModalBackbone, output: str | os.PathLike[str], roi_size: Sequence[int]) -> Path:
    """Write a network as ONNX: ``image`` (1, M, *roi_size) and ``available`` (1, M) bool in, logits ``pred`` out.

    Every modality is computed, and what is not available is multiplied by zero. Needs the packages onnx and onnxscript.

    Raises:
        UsageError: one of them is missing.
        ResourceError: the file cannot be written.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"ONNX needs {' and '.join(missing)}; pip install 'monai_passion[export]'")
    program = torch.onnx.export(
        network.eval(),
        _example(network, roi_size),
        input_names=["image", "available"],
        output_names=["pred"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return write_atomically(output, program.save)


def torchscript(network: MultiModalBackbone, roi_size: Sequence[int]) -> nn.Module:
    """A network as TorchScript, of the same inputs, output and weights as in `export_onnx`.

    For `python -m monai.bundle ckpt_export`, whose own tracing has one input, the image.
    """
    with torch.no_grad():
        traced: nn.Module = torch.jit.trace(network.eval(), _example(network, roi_size), check_trace=False)
    return traced


def _example(network: MultiModalBackbone, roi_size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.zeros(1, network.num_modalities, *roi_size)
    return image, torch.ones(1, network.num_modalities, dtype=torch.bool)


def _files(bundle: Path) -> Iterator[tuple[str, Path]]:
    yield "LICENSE", bundle / "LICENSE"
    for folder in WHOLE:
        for path in sorted((bundle / folder).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(bundle).as_posix(), path


def _with_settings(config: Path, settings: Mapping[str, Any], target: Path) -> None:
    content = json.loads(config.read_text(encoding="utf-8"))
    content.update((key, value) for key, value in settings.items() if key in content)
    target.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _package() -> Iterator[tuple[str, Path]]:
    """The modules, and the fragments of `monai_passion.system.resources`, but no bundles and no weights."""
    left_out = {"__pycache__", "bundles", "configs", "weights"}
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and not left_out & set(path.relative_to(PACKAGE).parts):
            yield f"{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}", path
    configs = resource_folder("configs")
    for path in sorted(configs.rglob("*")):
        if path.is_file():
            yield f"{PACKAGE.name}/configs/{path.relative_to(configs).as_posix()}", path


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
