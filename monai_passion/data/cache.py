"""Preprocessed items on the disk: found again only when nothing has changed, verified when read, never unpickled."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import nibabel
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.transform import Transform

from monai_passion import __version__
from monai_passion.errors import ResourceError
from monai_passion.system.files import write_atomically

__all__ = ["CachedOnDisk", "cached"]

logger = logging.getLogger(__name__)

VERSIONS = ["1", __version__, *(str(library.__version__) for library in (monai, torch, np, nibabel))]
"""Of the format of the files, of this package and of what computes their content: another one, another key."""


def cached(
    transforms: Sequence[Callable[..., Any]], cache_dir: str | os.PathLike[str] | None
) -> list[Callable[..., Any]]:
    """The transforms, as one that keeps its results in ``cache_dir``; as they are where that is None."""
    return [CachedOnDisk(transforms, cache_dir)] if cache_dir else list(transforms)


class CachedOnDisk(Transform):
    """Transforms without randomness, whose result for an item is computed once and then read from a folder.

    The name of a file is the SHA-256 of the item (with size and time of each file it names), of the transforms (their
    classes, their arguments, and the source code of those of this package) and of the versions of the libraries; a
    change of any makes another file. A file begins with a SHA-256 of its name and content, so that a damaged one, or
    one under another's name, is found when read: it is computed again, with a warning. It holds tensors and plain
    values, read with ``weights_only=True``. The list of applied operations is not kept, so results cannot be inverted.

    Nothing is ever removed; delete the folder to be rid of it.

    Args:
        transforms: one after the other, as `Compose` takes them.
        cache_dir: made when needed; may be shared by trainings that run side by side.

    Raises:
        ValueError: a transform or an item holds something that has no description, as an open file.
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]], cache_dir: str | os.PathLike[str]) -> None:
        self.compute = Compose(list(transforms))
        self.folder = Path(cache_dir)
        self.hash = _hash([VERSIONS, _describe(list(transforms))])

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        key = _hash([self.hash, _describe(_with_file_states(item))])
        path = self.folder / f"{key}.pt"
        if path.is_file():
            try:
                return _read(path, key)
            except Exception as error:  # torch documents no closed list for foreign files
                logger.warning(f"{path} in the cache is damaged ({error}); computed again")
        result: dict[str, Any] = dict(self.compute(item))
        content = io.BytesIO()
        torch.save(_plain(result), content)
        data = content.getvalue()
        try:
            write_atomically(path, lambda temporary: temporary.write_bytes(_checksum(key, data) + data))
        except ResourceError as error:  # the result is there all the same
            logger.warning(f"{error}; the training goes on without this item in the cache")
        return result


def _read(path: Path, key: str) -> dict[str, Any]:
    checksum, data = (content := path.read_bytes())[:32], content[32:]
    if checksum != _checksum(key, data):
        raise ValueError("its SHA-256 is another")
    result: dict[str, Any] = _restored(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    return result


def _checksum(key: str, data: bytes) -> bytes:
    return hashlib.sha256(key.encode() + data).digest()


def _hash(description: Any) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _with_file_states(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_file_states(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_file_states(part) for part in value]
    if isinstance(value, str | os.PathLike) and os.path.isfile(value):
        state = os.stat(value)
        return [os.path.abspath(value), state.st_size, state.st_mtime_ns]
    return value


def _describe(thing: Any) -> Any:
    """JSON that is equal for things that compute the same, in every process."""
    if isinstance(thing, enum.Enum | type | torch.dtype | torch.device | np.dtype | os.PathLike):
        return str(thing)
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, np.ndarray | np.generic | torch.Tensor):
        values = np.asarray(thing)
        return [str(values.dtype), list(values.shape), hashlib.sha256(values.tobytes()).hexdigest()]
    if isinstance(thing, Mapping):
        return {str(key): _describe(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_describe(part) for part in thing]
    if isinstance(thing, set | frozenset):
        return sorted(json.dumps(_describe(part)) for part in thing)
    if isinstance(thing, np.random.RandomState | np.random.Generator | torch.Generator):
        return None  # random numbers are no business of what is cached
    if isinstance(thing, functools.partial):
        return ["partial", *map(_describe, (thing.func, thing.args, thing.keywords))]
    if inspect.isroutine(thing):
        return [thing.__module__, thing.__qualname__, _source(thing)]
    if hasattr(thing, "__dict__"):
        kind = type(thing)
        return [kind.__module__, kind.__qualname__, _source(kind), _describe(vars(thing))]
    raise ValueError(f"{thing!r} cannot be described, so what it computes cannot be cached; set cache_dir to null")


def _source(code: Any) -> str:
    """The text of our own code, which may change without its version; of a lambda, as it has no other name."""
    if not code.__module__.startswith(("monai.", "torch.", "numpy.")):
        try:
            return inspect.getsource(code)
        except (OSError, TypeError):  # made by an expression in a configuration
            return code.__code__.co_code.hex() + repr(code.__code__.co_consts) if hasattr(code, "__code__") else ""
    return ""


def _plain(value: Any) -> Any:
    """Tensors and plain values, as ``weights_only=True`` reads them; ``_restored`` is the way back."""
    if isinstance(value, MetaTensor):
        return {"MetaTensor": {"data": value.as_tensor(), "meta": _plain(dict(value.meta))}}  # the affine is in meta
    if isinstance(value, np.ndarray):
        return {"ndarray": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {"dict": {_plain(key): _plain(part) for key, part in value.items()}}
    if isinstance(value, list | tuple):
        return type(value)(_plain(part) for part in value)
    if isinstance(value, str):
        return str.__str__(value)  # MONAI's keys are members of enumerations
    if value is None or isinstance(value, bool | int | float | torch.Tensor):
        return value
    raise ValueError(f"an item holds {value!r}, which cannot be cached; set cache_dir to null")


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "MetaTensor":
            return MetaTensor(content["data"], meta=_restored(content["meta"]))
        if kind == "ndarray":
            return content.numpy()
        return {key: _restored(part) for key, part in content.items()}
    if isinstance(value, list | tuple):
        return type(value)(_restored(part) for part in value)
    return value
