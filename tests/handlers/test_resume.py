"""A training that was stopped and resumed must end bit-identical to one that was not."""

import os
import random
import signal
import time

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler

from monai_passion.errors import UsageError, WeightsError
from monai_passion.handlers import CheckpointHandler, EpochSeedHandler, newest_checkpoint
from monai_passion.handlers.settings import apply_settings, read_settings
from tests.handlers import toy


class StopError(Exception):
    pass


def stop_at(iteration):
    class Stopper:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), self)

        def __call__(self, engine):
            raise StopError

    return Stopper()


@pytest.fixture(scope="module", params=[0, 2], ids=["no_workers", "two_workers"])
def uninterrupted(request, tmp_path_factory):
    trainer = toy.build(tmp_path_factory.mktemp("whole"), epochs=4, workers=request.param)
    trainer.run()
    return request.param, toy.everything(trainer)


@pytest.mark.parametrize("iteration", [1, 5, 6, 11])
def test_stopped_at_any_iteration_and_resumed_it_ends_bit_identical(tmp_path, uninterrupted, iteration):
    workers, expected = uninterrupted
    with pytest.raises(StopError):
        toy.build(tmp_path, epochs=4, workers=workers, handlers=[stop_at(iteration)]).run()
    random.seed()  # whatever the new process starts with
    resumed = toy.build(tmp_path, epochs=4, workers=workers)
    resumed.run()
    assert toy.different(expected, toy.everything(resumed)) == []


def test_killed_at_a_random_moment_and_resumed_it_ends_bit_identical(tmp_path, uninterrupted):
    workers, expected = uninterrupted
    process = toy.start(tmp_path, epochs=4, workers=workers)
    while newest_checkpoint(tmp_path) is None and process.is_alive():
        time.sleep(0.001)
    time.sleep(random.Random().uniform(0, 0.1))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    resumed = toy.build(tmp_path, epochs=4, workers=workers)
    resumed.run()
    assert toy.different(expected, toy.everything(resumed)) == []


def test_resumed_with_another_number_of_threads_says_that_the_last_bits_will_differ(tmp_path, caplog):
    toy.build(tmp_path, epochs=1).run()
    toy.build(tmp_path, epochs=2).run()
    assert "surroundings" not in caplog.text
    trainer = toy.build(tmp_path, epochs=3)
    torch.set_num_threads(2)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: torch.set_num_threads(1))
    trainer.run()
    assert "threads of torch: 1 there, 2 here" in caplog.text


def test_an_epoch_shorter_or_longer_than_the_data_is_repeated_exactly_too(tmp_path):
    for length in (2, 5):
        whole = toy.build(tmp_path / f"whole{length}", epochs=3, epoch_length=length)
        whole.run()
        toy.build(tmp_path / f"part{length}", epochs=2, epoch_length=length).run()
        resumed = toy.build(tmp_path / f"part{length}", epochs=3, epoch_length=length)
        resumed.run()
        assert toy.different(toy.everything(whole), toy.everything(resumed)) == []


def batches(seed, epochs, workers=0):
    """What a training sees: epoch -> its batches and a number from the main process."""
    seen = {}
    data = Dataset(toy.cases(), toy.RandDropd("image"))
    net = torch.nn.Conv2d(toy.MODALITIES, 2, 1)
    trainer = SupervisedTrainer(
        "cpu",
        epochs,
        DataLoader(data, batch_size=2, shuffle=True, num_workers=workers),
        net,
        torch.optim.SGD(net.parameters(), lr=0.1),
        toy.ToyLoss(),
        decollate=False,
        train_handlers=[EpochSeedHandler(seed)],
    )

    @trainer.on(Events.ITERATION_COMPLETED)
    def note(engine):
        batch = engine.state.batch
        seen.setdefault(engine.state.epoch, []).append((batch["case"], batch["image"].sum().item(), random.random()))

    trainer.run()
    return seen


def test_epochs_and_seeds_differ_in_order_and_in_transforms():
    first, other = batches(0, epochs=3), batches(1, epochs=1)
    assert first == batches(0, epochs=3)
    kinds = {str(what) for what in (first[1], first[2], first[3], other[1])}
    assert len(kinds) == 4
    orders = {str([case for case, _, _ in epoch]) for epoch in first.values()}
    assert len(orders) > 1


def test_a_generator_of_the_loader_is_seeded_by_the_epoch():
    loader = DataLoader(Dataset(toy.cases()), shuffle=True, generator=torch.Generator())
    net = torch.nn.Conv2d(toy.MODALITIES, 2, 1)
    trainer = SupervisedTrainer("cpu", 1, loader, net, torch.optim.SGD(net.parameters()), toy.ToyLoss())
    handler, orders = EpochSeedHandler(), []
    for noise in (1, 2):
        loader.generator.manual_seed(noise)
        handler(trainer)
        orders.append([batch["case"] for batch in trainer._dataloader_iter])
    assert orders[0] == orders[1]


def test_persistent_workers_are_refused():
    loader = DataLoader(Dataset(toy.cases()), num_workers=1, persistent_workers=True)
    net = torch.nn.Conv2d(toy.MODALITIES, 2, 1)
    with pytest.raises(UsageError, match="persistent_workers"):
        SupervisedTrainer(
            "cpu",
            1,
            loader,
            net,
            torch.optim.SGD(net.parameters()),
            toy.ToyLoss(),
            train_handlers=[EpochSeedHandler()],
        )


SCHEDULES = {
    "polynomial": lambda optimizer, epochs: torch.optim.lr_scheduler.PolynomialLR(optimizer, epochs, 0.9),
    "cosine": lambda optimizer, epochs: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
    "steps": lambda optimizer, epochs: torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2], 0.1),
}


def scheduled(folder, epochs, schedule, lr=0.05, **options):
    """A trainer with this schedule over ``epochs``; what it saves can be told from the toy's own."""
    net = toy.Net()
    weight_decay, fused = options.get("weight_decay", 0.1), options.get("fused")
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay, fused=fused)
    rates = SCHEDULES[schedule](optimizer, epochs)
    trainer = SupervisedTrainer(
        "cpu",
        options.get("run", epochs),
        DataLoader(Dataset(toy.cases()), batch_size=options.get("batch_size", 2)),
        net,
        optimizer,
        toy.ToyLoss(),
        decollate=False,
        train_handlers=[
            CheckpointHandler(folder, {"model": net, "optimizer": optimizer, "schedule": rates}),
            LrScheduleHandler(rates, print_lr=False),
        ],
    )
    return trainer, optimizer


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("epochs", "lr"), [(8, 0.05), (4, 0.02), (8, 0.02)])
def test_more_epochs_or_another_rate_follow_the_schedule_as_if_from_the_start(tmp_path, schedule, epochs, lr, caplog):
    scheduled(tmp_path / "part", 4, schedule, run=2)[0].run()
    resumed, rate_here = scheduled(tmp_path / "part", epochs, schedule, lr=lr, run=3)
    resumed.run()
    whole, rate_there = scheduled(tmp_path / "whole", epochs, schedule, lr=lr, run=3)
    whole.run()
    assert rate_here.param_groups[0]["lr"] == pytest.approx(rate_there.param_groups[0]["lr"])
    assert "other settings" in caplog.text
    assert "at learning rate" in caplog.text


def test_a_complete_training_goes_on_with_more_epochs_at_a_rate_above_zero(tmp_path):
    first, optimizer = scheduled(tmp_path, 2, "polynomial")
    first.run()
    assert optimizer.param_groups[0]["lr"] == 0
    more, optimizer = scheduled(tmp_path, 6, "polynomial", run=3)
    more.run()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * (1 - 3 / 6) ** 0.9)


def test_an_optimizer_goes_on_in_the_form_that_it_began_with(tmp_path, caplog):
    scheduled(tmp_path, 4, "polynomial", run=2)[0].run()
    resumed, optimizer = scheduled(tmp_path, 4, "polynomial", fused=True)
    resumed.run()
    assert not optimizer.param_groups[0]["fused"]
    assert "other settings" not in caplog.text


def test_other_settings_of_the_optimizer_are_those_of_now(tmp_path, caplog):
    scheduled(tmp_path, 4, "polynomial", run=1)[0].run()
    resumed, optimizer = scheduled(tmp_path, 4, "polynomial", run=2, weight_decay=0.3)
    resumed.run()
    assert optimizer.param_groups[0]["weight_decay"] == 0.3
    assert "weight_decay was 0.1, now 0.3" in caplog.text


def test_another_patience_is_that_of_now():
    settings = []
    for patience in (1, 5):
        net = toy.Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1 * patience)
        rates = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=patience)
        objects = {"model": net, "optimizer": optimizer, "schedule": rates}
        settings.append((objects, read_settings(objects)))
    (old, _), (new, wanted) = settings
    for _ in range(3):
        old["schedule"].step(1.0)
    for name, thing in new.items():
        thing.load_state_dict(old[name].state_dict())
    rate = old["optimizer"].param_groups[0]["lr"]
    assert apply_settings(new, wanted)
    assert new["schedule"].patience == 5
    assert new["schedule"].num_bad_epochs == old["schedule"].num_bad_epochs
    assert new["optimizer"].param_groups[0]["lr"] == pytest.approx(5 * rate)


def test_another_batch_size_is_refused_by_name(tmp_path):
    scheduled(tmp_path, 2, "polynomial", run=1)[0].run()
    with pytest.raises(WeightsError, match="batch size is 2 there and 3 here"):
        scheduled(tmp_path, 2, "polynomial", batch_size=3)[0].run()
