"""One training in many processes, one per GPU, as ``torchrun`` starts them; ``multi_gpu_train.json`` calls these."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed

from monai_passion.errors import UsageError

__all__ = ["finish", "first_process_first", "local_device", "shard", "start"]


def local_device() -> torch.device:
    """The GPU of this process on its machine; the CPU if there is none.

    Raises:
        UsageError: not started by ``torchrun``, or more processes than GPUs.
    """
    if "LOCAL_RANK" not in os.environ:
        raise UsageError(
            "multi_gpu_train.json is for torchrun; put `torchrun --standalone --nproc_per_node=GPUS -m` "
            "before monai.bundle, or leave that file out"
        )
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if index >= gpus:
        raise UsageError(f"process {index} of this machine has no GPU, there are {gpus}; use --nproc_per_node={gpus}")
    return torch.device("cuda", index)


def start() -> None:
    """Join the other processes: over NCCL on GPUs, over Gloo on CPUs."""
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def finish() -> None:
    """Leave the other processes."""
    torch.distributed.destroy_process_group()


def shard(items: Sequence[Any]) -> list[Any]:
    """The items that this process validates; all items in every process if there are fewer items than processes.

    Either way the mean over all processes is the mean over all items.
    """
    size = idist.get_world_size()
    return list(items[idist.get_rank() :: size] if len(items) >= size else items)


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process run the block before the others, which then find its files."""
    if idist.get_rank() > 0:
        idist.barrier()
    yield
    if idist.get_rank() == 0:
        idist.barrier()
