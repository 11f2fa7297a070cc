"""Random numbers that depend on (seed, epoch, rank) and on nothing that happened before."""

from __future__ import annotations

import random

import numpy as np
import torch
from ignite.engine import Events
from monai.data.utils import set_rnd
from monai.engines import Trainer

from monai_passion.errors import UsageError

__all__ = ["EpochSeedHandler"]


class EpochSeedHandler:
    """Seeds everything random anew at the start of each epoch, so that an epoch can be repeated exactly.

    It seeds Python's, NumPy's and torch's generators (dropout), those of the data loader and its sampler, and the MONAI
    transforms of the data set. Then it iterates the data loader anew, which draws the order of the samples and the
    seeds of new workers from them. A checkpoint at the end of an epoch therefore needs no state of any generator. On
    the CPU a repeated epoch is bit-identical for the same number of workers; on a GPU it is as far as its kernels are
    deterministic (``torch.use_deterministic_algorithms``).

    It does not seed initial weights: call ``monai.utils.set_determinism`` before the network is made.

    Args:
        seed: >= 0, the seed of the training.

    Raises:
        UsageError: the data loader has ``persistent_workers``, which live on from epoch to epoch with their generators.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Trainer) -> None:
        if getattr(engine.data_loader, "persistent_workers", False):
            raise UsageError(
                "persistent_workers=true carries random numbers from epoch to epoch, so no training could be resumed "
                "exactly; set it to false"
            )
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Trainer) -> None:
        sequence = np.random.SeedSequence([self.seed, engine.state.epoch, engine.state.rank])
        for_python, for_numpy, for_torch, for_order, for_transforms = map(int, sequence.generate_state(5))
        random.seed(for_python)
        np.random.seed(for_numpy)  # noqa: NPY002 - third-party transforms draw from it
        torch.manual_seed(for_torch)
        loader = engine.data_loader
        for owner in (loader, getattr(loader, "sampler", None)):
            if isinstance(generator := getattr(owner, "generator", None), torch.Generator):
                generator.manual_seed(for_order)
        set_rnd(getattr(loader, "dataset", None), for_transforms)
        engine.set_data(loader)
