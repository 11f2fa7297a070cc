"""A training small enough to be killed often, with everything that can differ after a resume: random transforms and
sample order, dropout, batch statistics, encoders that are skipped (so some gradients are missing), Adam with weight
decay, a learning rate schedule, a loss with buffers that change by iteration and by epoch, validation."""

from __future__ import annotations

import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from ignite.metrics import Loss
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler, from_engine
from monai.transforms import Compose, MapTransform, RandFlipd, RandGaussianNoised, Randomizable
from torch import nn

from monai_passion.errors import PassionError
from monai_passion.handlers import CheckpointHandler, EpochSeedHandler, NonFiniteHandler, SignalHandler

MODALITIES = 3
CASES = 6


class RandDropd(Randomizable, MapTransform):
    def __call__(self, data):
        return {**data, **{key: data[key] * (self.R.rand(MODALITIES) < 0.5)[:, None, None] for key in self.keys}}


class Net(nn.Module):
    def __init__(self, modalities: int = MODALITIES, classes: int = 2, width: int = 4) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.3))
            for _ in range(modalities)
        )
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image):
        maps = [encoder(image[:, m : m + 1]) for m, encoder in enumerate(self.encoders) if image[:, m].any()]
        return self.head(sum(maps, self.bias.expand(len(image), -1, *image.shape[2:])))


class ToyLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("beta", torch.ones(()))
        self.register_buffer("running", torch.zeros(()))

    def forward(self, pred, label):
        loss = nn.functional.cross_entropy(pred.as_subclass(torch.Tensor), label[:, 0].long().as_subclass(torch.Tensor))
        self.running += loss.detach()
        return self.beta * loss

    def next_epoch(self):
        self.beta += 0.1 * idist.all_reduce(self.running.clone())
        self.running.zero_()


def cases() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(CASES, MODALITIES, 6, 6)).astype("float32")
    return [{"image": x, "label": (x.sum(0, keepdims=True) > 0), "case": f"case{i}"} for i, x in enumerate(images)]


def build(
    folder: Path | str,
    epochs: int = 4,
    workers: int = 0,
    handlers: Any = (),
    data: list[dict[str, Any]] | None = None,
    net: nn.Module | None = None,
    epoch_length: int | None = None,
    **checkpoint: Any,
) -> SupervisedTrainer:
    """A trainer; ``net``, ``data`` and the arguments of `CheckpointHandler` can be set."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # in every process: sums over another number of threads have other last bits
    torch.manual_seed(1)
    net = net or Net()
    loss = ToyLoss()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.1, amsgrad=True, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    random = Compose([RandFlipd(["image", "label"], prob=0.5), RandGaussianNoised("image"), RandDropd("image")])
    data = data or cases()
    loader = DataLoader(Dataset(data, random), batch_size=2, shuffle=True, num_workers=workers)
    metric = Loss(
        lambda pred, label: nn.functional.cross_entropy(pred[None], label.long()),
        output_transform=from_engine(["pred", "label"], first=True),
    )
    evaluator = SupervisedEvaluator(
        "cpu",
        DataLoader(Dataset(cases()[:2]), batch_size=1),
        net,
        key_val_metric={"loss": metric},
        metric_cmp_fn=lambda new, best: new < best,
    )
    save = {"model": net, "optimizer": optimizer, "schedule": schedule, "loss": loss}
    trainer = SupervisedTrainer(
        "cpu",
        epochs,
        loader,
        net,
        optimizer,
        loss,
        epoch_length=epoch_length,
        train_handlers=[
            CheckpointHandler(folder, **{"save_dict": save, "evaluator": evaluator, **checkpoint}),
            EpochSeedHandler(seed=5),
            SignalHandler(),
            NonFiniteHandler(),
            LrScheduleHandler(schedule, print_lr=False),
            ValidationHandler(1, evaluator),
            NextEpoch(loss),
            *handlers,
        ],
    )
    trainer.toy = {**save, "evaluator": evaluator}
    return trainer


class NextEpoch:
    def __init__(self, loss: ToyLoss) -> None:
        self.loss = loss

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.loss.next_epoch)


class Log:
    """Appends a line per completed epoch to a file: what a killed training has really done."""

    def __init__(self, path: Path | str) -> None:
        self.path = path

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine):
        with open(self.path, "a") as file:
            file.write(f"{engine.state.epoch}\n")


def everything(trainer: SupervisedTrainer) -> dict[str, Any]:
    """All state that a training ends with, flat, for comparison bit by bit."""
    states = {name: thing.state_dict() for name, thing in trainer.toy.items() if name != "evaluator"}
    states["best"] = [trainer.toy["evaluator"].state.best_metric, trainer.toy["evaluator"].state.best_metric_epoch]
    states["iteration"] = trainer.state.iteration
    return dict(flatten("", states))


def flatten(prefix: str, value: Any):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(f"{prefix}/{key}", item)
    elif isinstance(value, list | tuple):
        for key, item in enumerate(value):
            yield from flatten(f"{prefix}/{key}", item)
    else:
        yield prefix, value.clone() if isinstance(value, torch.Tensor) else value


def different(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of what is not equal bit by bit."""
    same = lambda x, y: torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y  # noqa: E731
    return [key for key in {**a, **b} if key not in a or key not in b or not same(a[key], b[key])]


def run(folder: str, **arguments: Any) -> None:
    """Train in a process of its own; a log of epochs lies beside the folder. Our errors lie there too, and
    end it with their exit code."""
    try:
        build(folder, handlers=[Log(f"{folder}.log"), *arguments.pop("handlers", ())], **arguments).run()
    except PassionError as error:
        Path(f"{folder}.error").write_text(f"{error}\n")
        raise SystemExit(error.exit_code) from error


def start(folder: Path | str, **arguments: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=run, args=(str(folder),), kwargs=arguments)
    process.start()
    return process
