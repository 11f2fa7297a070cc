"""Faults of a training, really caused: what must be left afterwards, and what may be lost."""

import contextlib
import math
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from monai_passion.data.cache import CachedOnDisk
from monai_passion.handlers import newest_checkpoint, read_checkpoint, verify_checkpoint, write_checkpoint
from tests.handlers import toy
from tests.handlers.test_checkpoint import Malicious, flip_bit

pytestmark = pytest.mark.faults

KILLS = 50


@pytest.fixture
def rng():
    seed = random.SystemRandom().randrange(10**6)
    print(f"random moments with seed {seed}")
    return random.Random(seed)


def epoch_of(path: Path | None) -> int:
    return 0 if path is None else int(path.stem.split("=")[1])


def written(folder: Path) -> int:
    return int((folder / "log").read_text().split()[-1]) if (folder / "log").exists() else 0


def write_for_ever(folder: Path, names: str) -> None:
    """Checkpoints of 24 MB, one after another; the log says which were written to the end."""
    torch.set_num_threads(1)
    state = {"a": torch.rand(6_000_000)}
    n = written(folder)
    while True:
        n += 1
        write_checkpoint({**state, "n": n}, folder / names.format(n))
        with open(folder / "log", "a") as log:
            log.write(f"{n}\n")
        if "{}" in names:
            (folder / names.format(n - 2)).unlink(missing_ok=True)


@pytest.mark.parametrize("names", ["checkpoint_epoch={}.pt", "model.pt"])
def test_sigkill_while_writing_always_leaves_a_file_that_verifies(tmp_path, rng, outcome, names):
    write_checkpoint({"n": 0}, tmp_path / names.format(0))
    halfway = 0
    for _ in range(KILLS):
        process = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path, names))
        process.start()
        time.sleep(rng.uniform(0.05, 0.5))
        process.kill()
        process.join()
        halfway += any(tmp_path.glob(".*.tmp"))
        path = newest_checkpoint(tmp_path) if "{}" in names else tmp_path / names
        assert verify_checkpoint(path)
        assert read_checkpoint(path)["n"] >= written(tmp_path)
    assert halfway > KILLS / 4, "hardly any kill hit a write"
    what = "new checkpoints" if "{}" in names else "replacing model.pt"
    outcome(f"SIGKILL, {what}", f"24 MB back to back; {halfway} kills in mid-write", KILLS, "nothing written before")


@pytest.mark.parametrize(
    ("number", "code", "times", "workers"),
    [(signal.SIGKILL, -9, KILLS, 0), (signal.SIGKILL, -9, 10, 2), (signal.SIGTERM, 143, 10, 0)],
)
def test_a_training_stopped_again_and_again_ends_bit_identical(tmp_path, rng, outcome, number, code, times, workers):
    folder = tmp_path / "ckpt"
    for _ in range(times):
        before = epoch_of(newest_checkpoint(folder))
        process = toy.start(folder, epochs=10**6, workers=workers)
        while process.is_alive() and epoch_of(newest_checkpoint(folder)) == before:  # it must get somewhere
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        os.kill(process.pid, number)
        process.join()
        assert process.exitcode == code
        done = int(Path(f"{folder}.log").read_text().split()[-1])
        assert 0 <= done - epoch_of(newest_checkpoint(folder)) <= 1
    epochs = epoch_of(newest_checkpoint(folder)) + 2
    resumed = toy.build(folder, epochs=epochs, workers=workers)
    resumed.run()
    whole = toy.build(tmp_path / "whole", epochs=epochs, workers=workers)
    whole.run()
    assert toy.different(toy.everything(whole), toy.everything(resumed)) == []
    outcome(
        f"{signal.Signals(number).name} in a training, {workers} workers",
        f"random moments of one training of {epochs} epochs",
        times,
        "at most one epoch, running or being saved; the end bit-identical",
    )


class DiskFull:
    """From the end of an epoch on, no file may grow beyond 4 kB."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=self.epoch), self)

    def __call__(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@pytest.mark.parametrize("epoch", [2, 5])
def test_a_full_disk_ends_with_5_and_costs_only_what_was_not_saved(tmp_path, outcome, epoch):
    folder = tmp_path / "ckpt"
    process = toy.start(folder, epochs=50, handlers=[DiskFull(epoch)])
    process.join(60)
    assert process.exitcode == 5
    assert epoch_of(newest_checkpoint(folder)) == epoch - 1
    assert not list(folder.glob(".*")), "something half-written is left"
    resumed = toy.build(folder, epochs=epoch + 4)
    resumed.run()
    whole = toy.build(tmp_path / "whole", epochs=epoch + 4)
    whole.run()
    assert toy.different(toy.everything(whole), toy.everything(resumed)) == []
    outcome(
        "disk full", f"RLIMIT_FSIZE from epoch {epoch} on", "3 saves", "what could not be saved; exit 5 at the third"
    )


def test_every_truncation_and_bit_flip_is_found(tmp_path, rng, outcome):
    path = tmp_path / "checkpoint_epoch=1.pt"
    write_checkpoint({"a": torch.rand(5000)}, path)
    whole = path.read_bytes()
    for _ in range(100):
        path.write_bytes(whole[: rng.randrange(len(whole))])
        assert not verify_checkpoint(path)
    for _ in range(500):
        path.write_bytes(whole)
        flip_bit(path, rng.random())
        assert not verify_checkpoint(path)
    path.write_bytes(whole)
    assert verify_checkpoint(path)
    outcome("truncated checkpoint", "cut at random lengths", 100, "found each time; the one before is used")
    outcome("bit-flipped checkpoint", "one random bit", 500, "found each time; the one before is used")


def test_every_damage_of_a_cached_item_is_found_and_it_is_computed_again(tmp_path, rng, outcome, caplog):
    made = []
    transform = CachedOnDisk([lambda item: {**item, "image": torch.full((500,), float(len(item["case"])))}], tmp_path)
    expected = transform({"case": "a"})["image"]
    (path,) = tmp_path.iterdir()
    whole, times = path.read_bytes(), 100
    for number in range(times):
        path.write_bytes(whole)
        flip_bit(path, rng.random()) if number % 2 else path.write_bytes(whole[: rng.randrange(len(whole))])
        caplog.clear()
        assert torch.equal(transform({"case": "a"})["image"], expected)
        made.append(len(caplog.records))
        assert torch.equal(transform({"case": "a"})["image"], expected)
    assert made == [1] * times
    outcome("corrupted item of the cache", "cut, or one random bit", times, "nothing; computed again, one warning")


def test_a_planted_pickle_is_not_run_and_the_training_goes_on_from_the_one_before(tmp_path, outcome):
    folder, harm = tmp_path / "ckpt", tmp_path / "harm"
    toy.build(folder, epochs=2).run()
    for name in ("checkpoint_epoch=2.pt", "model.pt", "model_last.pt"):
        torch.save({"model": Malicious(harm)}, folder / name)
    process = toy.start(folder, epochs=3)
    process.join(60)
    assert process.exitcode == 0
    assert Path(f"{folder}.log").read_text() == "2\n3\n"
    assert not harm.exists()
    outcome("malicious pickle", "in place of the newest checkpoint and both models", 1, "one epoch; nothing was run")


def test_no_intact_checkpoint_and_wrong_network_end_with_4(tmp_path, outcome):
    folder = tmp_path / "ckpt"
    toy.build(folder, epochs=2).run()
    process = toy.start(folder, epochs=3, net=toy.Net(modalities=4))
    process.join(60)
    assert process.exitcode == 4
    outcome("checkpoint of another network", "M = 3 there, 4 here", 1, "nothing; exit 4 with the differences")
    for path in folder.glob("checkpoint*.pt"):
        flip_bit(path)
    process = toy.start(folder, epochs=3)
    process.join(60)
    assert process.exitcode == 4
    outcome("no intact checkpoint", "a bit flipped in each", 1, "nothing more; exit 4, never starts over")


def test_a_second_training_in_the_folder_ends_with_2(tmp_path, outcome):
    first = toy.start(tmp_path / "ckpt", epochs=10**6)
    while newest_checkpoint(tmp_path / "ckpt") is None:
        time.sleep(0.01)
    second = toy.start(tmp_path / "ckpt", epochs=10**6)
    second.join(60)
    assert second.exitcode == 2
    assert first.is_alive()
    first.kill()
    first.join()
    third = toy.start(tmp_path / "ckpt", epochs=1)
    third.join(60)
    assert third.exitcode == 0
    outcome("two trainings in one folder", "started side by side", 1, "nothing; the second exits 2")
    outcome("stale lock", "its training SIGKILLed", 1, "nothing; taken over")


def test_a_loss_that_stays_nan_ends_with_1_and_keeps_the_good_checkpoints(tmp_path, outcome):
    toy.build(tmp_path / "ckpt", epochs=2).run()
    data = toy.cases()
    for case in data:
        case["image"][:] = math.nan
    process = toy.start(tmp_path / "ckpt", epochs=9, data=data)
    process.join(60)
    assert process.exitcode == 1
    kept = read_checkpoint(newest_checkpoint(tmp_path / "ckpt"))
    assert all(bool(value.isfinite().all()) for name in ("model", "loss") for value in kept[name].values())
    outcome("loss is NaN for good", "every image NaN", 1, "nothing; exit 1 at the fifth, cases named")


def test_a_killed_worker_ends_the_training_with_5_and_it_resumes_bit_identical(tmp_path, rng, outcome):
    folder = tmp_path / "ckpt"
    times = 8
    for _ in range(times):
        before = epoch_of(newest_checkpoint(folder))
        process = toy.start(folder, epochs=10**6, workers=2)
        while process.is_alive() and epoch_of(newest_checkpoint(folder)) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        end = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < end:
            workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for worker in workers[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(worker), signal.SIGKILL)
            process.join(0.02)
        assert process.exitcode == 5
        said = Path(f"{folder}.error").read_text()
        assert said.count("\n") == 1
        assert "a worker of the data loader was killed in epoch" in said
        assert "num_workers" in said
    epochs = epoch_of(newest_checkpoint(folder)) + 2
    resumed = toy.build(folder, epochs=epochs, workers=2)
    resumed.run()
    whole = toy.build(tmp_path / "whole", epochs=epochs, workers=2)
    whole.run()
    assert toy.different(toy.everything(whole), toy.everything(resumed)) == []
    outcome(
        "data loader worker killed",
        "SIGKILL to a worker at random moments",
        times,
        "the running epoch; exit 5; the end bit-identical",
    )
