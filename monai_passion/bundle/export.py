"""Export: a bundle as a zip with weights and, if wanted, the package; a network as TorchScript or ONNX."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata
from torch import nn

from monai_passion.bundle.exported import JudgingAvailable, RefusingNothing
from monai_passion.bundle.weights import check_task, find_weights, trained_settings, trained_unknown
from monai_passion.errors import UsageError, WeightsError
from monai_passion.networks import MultiModalBackbone
from monai_passion.networks.weights import check_maker, load_weights, save_weights, write_sidecar
from monai_passion.system.files import sha256, write_atomically
from monai_passion.system.resources import resource_folder
from monai_passion.tasks import load_task

__all__ = ["describe_network", "export_bundle", "export_onnx", "export_torchscript", "torchscript"]

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
WHOLE = ("configs", "docs", "scripts")
CONFIGS = ("configs/train.json", "configs/evaluate.json", "configs/inference.json")
STAMP = (1980, 1, 1, 0, 0, 0)
"""Time stamp of every entry, so that the same content gives the same bytes."""


def export_bundle(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    vendor: bool = False,
    url: str | None = None,
) -> Path:
    """Write ``output``, a zip with one folder that has the bundle's name; the same content gives the same bytes.

    The weights become ``models/model.safetensors`` and, for MONAI's own tools, ``models/model.pt``, a plain
    ``state_dict``; each with ``.sha256`` beside it. If they were trained with other settings than the bundle's
    (`width`, sizes), the configurations get these settings.

    Args:
        bundle: its folder.
        weights: a file that `load_weights` reads; by default those in the bundle's ``models``, if any.
        vendor: include the package, which Python finds once the bundle's folder is on ``sys.path``. MONAI adds the
            folder, but too late for the package to be found: set ``PYTHONPATH``.
        url: future address of the weights. The zip then lists their names, this address and their checksums in
            ``large_files.yml``, which the model zoo requires for large files and MONAI's ``download_large_files``
            reads. The weights themselves are written to the folder ``<output without .zip>_weights``, for upload.

    Raises:
        UsageError: ``url`` without weights.
        WeightsError: ``weights`` are not weights, or belong to another network, other modalities or classes.
        ResourceError: the file cannot be written.
    """
    bundle = Path(bundle)
    with tempfile.TemporaryDirectory() as folder:
        files = dict(_files(bundle))
        found = Path(weights) if weights is not None else _weights_of(bundle)
        if found is not None:
            state, facts = load_weights(found)
            _check_fit(found, facts, files["configs/inference.json"])
            if not facts:
                logger.warning("warning: %s", trained_unknown(found))
            models = Path(folder) / "model.safetensors", Path(folder) / "model.pt"
            save_weights(state, models[0], facts)
            torch.save(state, models[1])
            for model in models:
                files[f"models/{model.name}"] = model
                files[f"models/{model.name}.sha256"] = write_sidecar(model)
            if url is not None:
                files["large_files.yml"] = _put_aside(models, Path(output), url, Path(folder) / "large_files.yml")
                files = {name: path for name, path in files.items() if not name.startswith("models/")}
            settings = trained_settings(facts)
            own = _differing(files["configs/inference.json"], settings)
            for name, path in files.items():
                if name in CONFIGS:
                    files[name] = Path(folder) / path.name
                    files[name].write_text(_with_settings(path, settings), encoding="utf-8")
                elif name == "docs/README.md" and own:
                    files[name] = Path(folder) / path.name
                    files[name].write_text(path.read_text(encoding="utf-8") + _of_weights(own), encoding="utf-8")
        elif url is not None:
            raise UsageError("there are no weights that could lie at a URL; give --weights")
        if vendor:
            files.update(_package())
        return write_atomically(output, lambda temporary: _zip(files, bundle.resolve().name, temporary))


def describe_network(
    bundle: str | os.PathLike[str], weights: str | os.PathLike[str], **settings: Any
) -> dict[str, str]:
    """What a program must know to run an exported network: key -> text or JSON text.

    ``crop_size``, in voxels of the network, is the middle of a slice that it sees, and ``pixels_per_voxel`` how many
    pixels of ``pixel_mm`` make one of them along each edge; null of a network that sees all, or at ``spacing_mm``.

    Args:
        bundle: its folder.
        weights: the file they were read from.
        settings: those that differ from the bundle's, such as ``spacing`` or ``roi_size``.
    """
    config, metadata = (
        json.loads((Path(bundle) / "configs" / name).read_text(encoding="utf-8"))
        for name in ("inference.json", "metadata.json")
    )
    config.update(settings)
    task = load_task(config["task"])
    preprocess = json.dumps(config["preprocess"])
    facts = {
        "bundle": config["bundle_name"],
        "version": metadata["version"],
        "weights_sha256": sha256(weights),
        "intended_use": metadata["intended_use"],
        "modalities": config["modalities"],
        "aliases": {m.name: m.aliases for m in task.modalities},
        "labels": [{"class": k, "name": label.name, "value": label.value} for k, label in enumerate(task.classes)],
        "spacing_mm": config.get("spacing"),
        "orientation": "RAS" if any("Orientation" in step["_target_"] for step in config["preprocess"]) else None,
        "crop_size": config["crop_size"] if "@crop_size" in preprocess else None,
        "pixel_mm": config["pixel_size"] if "@pixel_size" in preprocess else None,
        "pixels_per_voxel": config["coarsen"] if "@coarsen" in preprocess else None,
        "roi_size": config["roi_size"],
        "overlap": config["overlap"],
        "decision": config["decision"],
        "normalization": "per channel, (value - mean) / standard deviation of its non-zero voxels; zero stays zero",
        "output": "logits per class; softmax, average over overlapping windows; then most_probable is argmax, and "
        "expected_dice what monai_passion.transforms.decision does",
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def export_onnx(
    network: MultiModalBackbone,
    output: str | os.PathLike[str],
    roi_size: Sequence[int],
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write a network as ONNX: ``image`` (n, M, *roi_size) and ``available`` (n, M) bool in, logits ``pred`` out.

    Every modality is computed, and those that are not available are multiplied by zero; a sample without any gives NaN.
    The batch may have any size n. The spatial size may be another multiple of the network's stride, unless learned
    positions fix it. Needs the packages onnx and onnxscript.

    Args:
        facts: stored in the file as its metadata, see `describe_network`.

    Raises:
        UsageError: one of the packages is missing.
        ResourceError: the file cannot be written.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"ONNX needs {' and '.join(missing)}; pip install 'monai_passion[export]'")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # which speaks of torchvision where there is none
    auto = torch.export.Dim.AUTO
    sizes = {2 + axis: auto for axis in range(len(roi_size))}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # torch speaks to itself
        program = torch.onnx.export(
            RefusingNothing(network.eval()).eval(),
            _example(network, roi_size, batch=2),  # of a batch of 1 the size would be fixed
            input_names=["image", "available"],
            output_names=["pred"],
            dynamic_shapes={"image": {0: auto, **sizes}, "available": {0: auto}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(facts or {})
    return write_atomically(output, program.save)


def export_torchscript(
    network: MultiModalBackbone,
    output: str | os.PathLike[str],
    roi_size: Sequence[int],
    bundle: str | os.PathLike[str],
    facts: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network as TorchScript with the bundle's configurations in it, for MONAI Deploy.

    ``forward(image, available=None)``, see `JudgingAvailable`; the rest is as in `export_onnx`.

    Args:
        bundle: its folder.
        facts: stored as ``monai_passion`` in the file's ``metadata.json``, see `describe_network`.
        settings: those of the weights that differ from the bundle's, see `trained_settings`; they go into the
            ``inference.json`` inside, by which MONAI Deploy prepares images.

    Raises:
        ResourceError: the file cannot be written.
    """
    module = torch.jit.script(JudgingAvailable(torchscript(network, roi_size), network.num_classes))
    configs = Path(bundle) / "configs"
    metadata = json.loads((configs / "metadata.json").read_text(encoding="utf-8"))
    more = {"inference.json": _with_settings(configs / "inference.json", settings or {}).encode()}
    values = {**metadata, "monai_passion": dict(facts or {})}
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / Path(output).name  # Deploy looks inside for a folder with the name of the file
        save_net_with_metadata(module, str(named), meta_values=values, more_extra_files=more)
        return write_atomically(output, lambda temporary: shutil.copyfile(named, temporary))


def torchscript(network: MultiModalBackbone, roi_size: Sequence[int]) -> nn.Module:
    """A network as TorchScript, with the inputs, output and weights of `export_onnx`.

    For `python -m monai.bundle ckpt_export`, whose own tracing has one input, the image.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # of what is fixed on purpose
        traced: nn.Module = torch.jit.trace(network.eval(), _example(network, roi_size), check_trace=False)
    return traced


def _example(network: MultiModalBackbone, roi_size: Sequence[int], batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    if min(roi_size) < 1:
        raise UsageError(f"roi_size is {list(roi_size)}; an exported network has windows of one size, so give that")
    image = torch.zeros(batch, network.num_modalities, *roi_size)
    return image, torch.ones(batch, network.num_modalities, dtype=torch.bool)


def _files(bundle: Path) -> Iterator[tuple[str, Path]]:
    yield "LICENSE", bundle / "LICENSE"
    for folder in WHOLE:
        for path in sorted((bundle / folder).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(bundle).as_posix(), path


def _put_aside(models: Sequence[Path], output: Path, url: str, listed: Path) -> Path:
    """Copy weights beside the zip, and write the list of where they will be; JSON, which YAML includes."""
    entries = []
    for model in models:
        write_atomically(output.parent / f"{output.stem}_weights" / model.name, partial(shutil.copyfile, model))
        entry = {"path": f"models/{model.name}", "url": f"{url.rstrip('/')}/{model.name}"}
        entries.append({**entry, "hash_val": sha256(model), "hash_type": "sha256"})
    listed.write_text(json.dumps({"large_files": entries}, indent=2) + "\n", encoding="utf-8")
    return listed


def _check_fit(weights: Path, facts: Mapping[str, Any], inference: Path) -> None:
    """Refuse weights of another network or task, where they say whose they are."""
    config = json.loads(inference.read_text(encoding="utf-8"))
    if target := config.get("network_def", {}).get("_target_"):
        check_maker(weights, facts, target.rpartition(".")[2])
    check_task(weights, facts, load_task(config["task"]))
    for key in {"modalities", "num_classes"} & config.keys():
        if facts.get(key, config[key]) != config[key]:
            raise WeightsError(f"{weights} has {key} {facts[key]}, the bundle {config[key]}; choose weights to match")


def _with_settings(config: Path, settings: Mapping[str, Any]) -> str:
    content = json.loads(config.read_text(encoding="utf-8"))
    content.update((key, value) for key, value in settings.items() if key in content)
    return json.dumps(content, indent=2) + "\n"


def _differing(config: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    content = json.loads(config.read_text(encoding="utf-8"))
    return {key: value for key, value in settings.items() if key in content and value != content[key]}


def _of_weights(settings: Mapping[str, Any]) -> str:
    """A section for the page of a bundle, which speaks of the bundle's own settings."""
    rows = "".join(f"| `{key}` | {json.dumps(value)} |\n" for key, value in settings.items())
    return (
        "\n## Settings of these weights\n\nThey were trained with other settings than the ones above, and the "
        f"configurations have them.\n\n| setting | value |\n|---|---|\n{rows}"
    )


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
