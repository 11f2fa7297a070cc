"""Weights on disk: safetensors with metadata, a checksum beside them, and a check before they enter a network.

Nothing here unpickles code: ``.safetensors`` holds numbers only, and other files are read with ``weights_only=True``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from monai_passion.errors import ResourceError, WeightsError, first_line
from monai_passion.system.files import checksums, sha256, sidecar, write_atomically, write_text

__all__ = ["check_maker", "load_into", "load_weights", "read_torch_state", "save_weights", "unwrapped", "write_sidecar"]

METADATA_KEY = "monai_passion"
"""Entry of the safetensors header that holds the metadata, as JSON."""

LISTED = 6
"""Number of differences in an error message."""


def write_sidecar(path: str | Path) -> Path:
    """Write the checksum of ``path`` beside it, in one step, and return where it is."""
    path = Path(path)
    line = f"{sha256(path)}  {path.name}\n"
    target = sidecar(path)
    write_text(target, line)
    return target


def unwrapped(thing: Any) -> Any:
    """A network without the wrappers that distribute or compile it; anything else as it is."""
    inner = thing.module if isinstance(thing, DataParallel | DistributedDataParallel) else thing
    return getattr(inner, "_orig_mod", inner)


def save_weights(
    network: nn.Module | Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write weights as safetensors, with their ``.sha256`` beside them; never half-written.

    Args:
        network: a network, or its ``state_dict``.
        path: ends in ``.safetensors``.
        metadata: anything that JSON can hold. `load_into` compares ``"network"`` with the name of the network's class;
            it is filled in here if ``network`` is a network.

    Raises:
        ValueError: another suffix.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a name for weights; let it end in .safetensors")
    described = dict(metadata or {})
    if isinstance(network, nn.Module):
        network = unwrapped(network)
        described.setdefault("network", type(network).__name__)
        network = network.state_dict()
    # Copies, as safetensors refuses tensors that share memory.
    state = {name: values.detach().to("cpu", copy=True).contiguous() for name, values in network.items()}
    header = {"format": "pt", METADATA_KEY: json.dumps(described)}
    try:
        # An old checksum beside new weights would condemn them; none at all is merely not checked.
        sidecar(path).unlink(missing_ok=True)
        write_atomically(path, lambda temporary: save_file(state, temporary, header))
        write_sidecar(path)
    except (OSError, SafetensorError) as error:
        raise ResourceError(f"cannot write {path}: {error}; free some space or choose another folder") from error


def _verify(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; check the path, or train or convert them first")
    expected = checksums(path)
    if expected is not None and (actual := sha256(path)) not in expected:
        raise WeightsError(
            f"{path} is damaged or was replaced: its SHA-256 is {actual}, {sidecar(path).name} expects "
            f"{' or '.join(expected) or 'nothing'}; copy both files again"
        )


def read_torch_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The ``state_dict`` in a file of ``torch.save``, read with ``weights_only=True``, and the metadata beside it.

    Takes a plain ``state_dict``, or one under the key "model" (MONAI's ``CheckpointSaver``, and `CheckpointHandler`,
    which adds "metadata") or "state_dict". The prefix ``module.`` of parallel wrappers is removed.

    Raises:
        WeightsError: the file is not readable, would run code, or has no ``state_dict``.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for a broken file differs from break to break
        reason = first_line(error)
        reason = "it holds more than weights, which loading could run" if "weights_only" in reason else reason
        raise WeightsError(f"{path} is not a readable file of weights ({reason}); copy or download it again") from error
    metadata = content.get("metadata") if isinstance(content, Mapping) else None
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no state_dict, neither plain nor under 'model' or 'state_dict'")
    state = {str(name).removeprefix("module."): values for name, values in content.items()}
    return state, dict(metadata) if isinstance(metadata, Mapping) else {}


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and their metadata (empty for files other than ours), on the CPU.

    ``.safetensors`` as `save_weights` writes it, anything else as `read_torch_state` takes it. Where a ``.sha256`` lies
    beside the file, it must agree.

    The "settings" of the metadata go into a bundle's configuration, where text can be code: they must be numbers.

    Raises:
        WeightsError: missing, damaged, or not weights; settings that are not numbers.
    """
    path = Path(path)
    _verify(path)
    state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_state(path)
    settings = metadata.get("settings", {})
    if not isinstance(settings, Mapping) or not all(
        isinstance(name, str) and name.isidentifier() and _numbers(value) for name, value in settings.items()
    ):
        raise WeightsError(
            f"{path} has settings that are not names with numbers or null ({str(settings)[:200]}); it was not "
            "made by this package, do not use it"
        )
    return state, metadata


def _numbers(value: Any) -> bool:
    listed = isinstance(value, list | tuple) and all(map(_numbers, value))
    return listed or value is None or isinstance(value, int | float)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        metadata = json.loads(header.get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged ({error}); copy or download it again") from error
    return state, metadata if isinstance(metadata, dict) else {}


def check_maker(path: str | Path, metadata: Mapping[str, Any], name: str) -> None:
    """Refuse weights of another network than the class ``name``, if the metadata name it.

    Raises:
        WeightsError: they belong to another network.
    """
    made_by = metadata.get("network", name)
    if made_by != name:
        raise WeightsError(f"{path} holds weights of {made_by}, not of {name}; choose the network or the file to match")


def load_into(network: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load weights into ``network``, all or none, and return their metadata.

    Raises:
        WeightsError: as `load_weights`, or made by another network: the message lists what differs.
    """
    state, metadata = load_weights(path)
    name = type(network).__name__
    check_maker(path, metadata, name)
    own = network.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unknown {key}" for key in state if key not in own]
    for key in own.keys() & state.keys():
        if own[key].shape != state[key].shape:
            problems.append(f"{key} is {tuple(state[key].shape)} and should be {tuple(own[key].shape)}")
        elif not torch.isfinite(state[key]).all():
            problems.append(f"{key} is not finite")
    if problems:
        listed = "; ".join(sorted(problems)[:LISTED])
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        settings = metadata.get("settings") or {}
        trained = f"; trained with {', '.join(f'{key} {value}' for key, value in settings.items())}" if settings else ""
        raise WeightsError(
            f"{path} does not fit {name} as built here: {listed}{more}{trained}; set these, or choose other weights"
        )
    network.load_state_dict(state)
    return metadata
