"""Preprocessed items, in memory as far as it suffices, and on the disk.

On the disk, items are reused only if nothing has changed, verified when read, and never unpickled.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import io
import json
import logging
import os
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import monai
import nibabel
import numpy as np
import torch
from monai.data.dataset import CacheDataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.transform import Transform

from monai_passion import __version__
from monai_passion.errors import ResourceError
from monai_passion.system.files import write_atomically
from monai_passion.system.memory import free_memory
from monai_passion.system.status import StatusLine, time_text

__all__ = ["CachedInMemory", "CachedOnDisk", "cached"]

logger = logging.getLogger(__name__)

VERSIONS = ["1", __version__, *(str(library.__version__) for library in (monai, torch, np, nibabel))]
"""Versions of the file format, this package and the libraries that compute the content; part of the key."""


SHARE = 0.5
"""Share of the free memory that cached items may take; the rest is for the training itself."""


class CachedInMemory(CacheDataset):
    """MONAI's `CacheDataset`, limited to half of the free memory; it says beforehand how much its items take.

    The processes of a machine share that half. Items that do not fit are loaded anew in every epoch. Progress is shown
    in the terminal.

    Args:
        data: the items.
        transform: `Compose`; the transforms before its first random one are cached.
        cache_rate: the share of the items to cache at most.
    """

    cache_num: int

    def __init__(self, data: Sequence[Any], transform: Callable[..., Any], cache_rate: float = 1.0) -> None:
        super().__init__(data, transform, cache_rate=cache_rate, num_workers=1, progress=False)

    def _load_cache_item(self, idx: int) -> Any:
        return _compact(super()._load_cache_item(idx))

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        wanted = list(range(self.cache_num) if indices is None else indices)
        if not wanted:
            return []
        began, free, status = time.monotonic(), free_memory(), StatusLine(15.0, silent=idist.get_rank() > 0)
        items, sizes = [self._load_cache_item(wanted[0])], []
        sizes.append(_bytes(items[0]))
        room = SHARE * free / idist.get_nproc_per_node() if free is not None else float("inf")
        of_all = f"{len(wanted)} items take about {sizes[0] * len(wanted) / 1e9:.2f} GB"
        logger.info("cache: %s, %s GB are free", of_all, "?" if free is None else f"{free / 1e9:.2f}")
        for done, index in enumerate(wanted[1:], 1):
            if sum(sizes) + max(sizes) > room:
                rest = len(wanted) - done
                logger.warning(
                    f"warning: {of_all}, more than {SHARE:.0%} of the {(free or 0) / 1e9:.2f} GB that are free: {rest} "
                    "of them are not kept but loaded anew in every epoch; the setting cache_dir keeps them on a disk"
                )
                break
            left = (time.monotonic() - began) / done * (len(wanted) - done)
            status.passing(f"caching {done}/{len(wanted)}, {sum(sizes) / 1e9:.2f} GB, about {time_text(left)} left")
            items.append(self._load_cache_item(index))
            sizes.append(_bytes(items[-1]))
        self.cache_num = len(items)
        if len(wanted) > 1:
            status.say(f"cached {len(items)} of {len(wanted)} items, {sum(sizes) / 1e9:.2f} GB")
        return items


def _bytes(value: Any) -> int:
    """Size in bytes of the tensors and arrays in an item."""
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return int(getattr(value, "nbytes", 0))


def _compact(value: Any) -> Any:
    """An item whose tensors hold nothing but themselves: what was cropped is a view of all that there was."""
    if isinstance(value, Mapping):
        return {key: _compact(part) for key, part in value.items()}
    if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > value.nbytes:
        return value.clone(memory_format=torch.contiguous_format)
    return value


def cached(
    transforms: Sequence[Callable[..., Any]], cache_dir: str | os.PathLike[str] | None
) -> list[Callable[..., Any]]:
    """The transforms as one that keeps its results in ``cache_dir``; unchanged if that is None."""
    return [CachedOnDisk(transforms, cache_dir)] if cache_dir else list(transforms)


class CachedOnDisk(Transform):
    """Transforms without randomness whose result for an item is computed once, then read from a folder.

    The name of a file is the SHA-256 of the item (with size and time of each file it names), of the transforms (their
    classes, their arguments, and the source code of those of this package) and of the versions of the libraries; a
    change of any of them leads to another file. A file begins with a SHA-256 of its name and content, so a damaged
    file, or one under another file's name, is found when read and computed again, with a warning. It holds tensors and
    plain values, read with ``weights_only=True``. The list of applied operations is not kept, so results cannot be
    inverted.

    Nothing is ever removed; delete the folder when it is too large.

    Args:
        transforms: in order, as `Compose` takes them.
        cache_dir: made when needed; may be shared by trainings that run side by side.

    Raises:
        ValueError: a transform or an item holds something that cannot be described, such as an open file.
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
        result: dict[str, Any] = _compact(dict(self.compute(item)))
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


def _describe(thing: Any, within: tuple[int, ...] = ()) -> Any:
    """JSON that is equal for things that compute the same, in every process; ``within``: what this is a part of."""
    if id(thing) in within:
        return "a thing that this is a part of"
    describe = functools.partial(_describe, within=(*within, id(thing)))
    if isinstance(thing, enum.Enum | type | torch.dtype | torch.device | np.dtype | os.PathLike):
        return str(thing)
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, slice):
        return ["slice", *map(describe, (thing.start, thing.stop, thing.step))]
    if isinstance(thing, np.ndarray | np.generic | torch.Tensor):
        values = np.asarray(thing)
        return [str(values.dtype), list(values.shape), hashlib.sha256(values.tobytes()).hexdigest()]
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [describe(part) for part in thing]
    if isinstance(thing, set | frozenset):
        return sorted(json.dumps(describe(part)) for part in thing)
    if isinstance(thing, np.random.RandomState | np.random.Generator | torch.Generator):
        return None  # random numbers do not concern what is cached
    if isinstance(thing, functools.partial):
        return ["partial", *map(describe, (thing.func, thing.args, thing.keywords))]
    if inspect.isroutine(thing):
        return [thing.__module__, thing.__qualname__, _source(thing), *map(describe, _bound(thing))]
    if hasattr(thing, "__dict__"):
        kind = type(thing)
        return [kind.__module__, kind.__qualname__, _source(kind), describe(vars(thing))]
    raise ValueError(f"{thing!r} cannot be described, so what it computes cannot be cached; set cache_dir to null")


def _bound(routine: Any) -> list[Any]:
    """What a function computes with besides its arguments: the object it is a method of, defaults, its closure."""
    owner = getattr(routine, "__self__", None)
    values = [None if inspect.ismodule(owner) else owner]
    if not _of_library(routine):
        values += [getattr(routine, "__defaults__", None), getattr(routine, "__kwdefaults__", None)]
        values += [cell.cell_contents for cell in getattr(routine, "__closure__", None) or ()]
    return values


def _of_library(code: Any) -> bool:
    """Whether it changes with the version of a library alone; what an expression makes has no module."""
    return (code.__module__ or "").startswith(("monai.", "torch.", "numpy."))


def _source(code: Any) -> Any:
    """The text of our own code, which may change without its version; of a lambda, as it has no other name."""
    if _of_library(code):
        return ""
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # made by an expression in a configuration
        return _instructions(code.__code__) if hasattr(code, "__code__") else ""


def _instructions(code: types.CodeType) -> list[Any]:
    return [code.co_code.hex(), list(code.co_names), [_constant(part) for part in code.co_consts]]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _instructions(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


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
