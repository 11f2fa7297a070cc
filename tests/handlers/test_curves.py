import csv
import errno
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from monai_passion.handlers import CurvesHandler, PreferenceHandler
from monai_passion.handlers.curves import _Curves
from monai_passion.losses import LossTerms, PassionLoss


def run(folder, epochs, resume_at=0, pixel=4.0, validate_at=(), bad=()):
    loss = PassionLoss(2, 2, missing_rates=[0.5, 0.0])

    def step(engine, batch):
        values = torch.tensor([[2.0, 0.0], [pixel, 6.0]])
        available = torch.tensor([[1, 0], [1, 1]]).bool()
        modal = dict.fromkeys(("pixel", "prototype", "gap"), values)
        several = torch.tensor([[0, 0], [1, 1]]).bool()
        loss.terms = LossTerms(torch.tensor([1.0, 3.0]), available, modal, dict.fromkeys(modal, several))
        loss.observe(loss.terms)
        return {"loss": float("nan") if engine.state.iteration in bad else 5.0}

    engine = Engine(step)
    engine.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.25)

    @engine.on(Events.STARTED)
    def resume(engine):
        engine.state.epoch, engine.state.iteration = resume_at, 3 * resume_at

    evaluator = Engine(lambda engine, batch: None)
    evaluator.add_event_handler(Events.COMPLETED, lambda: evaluator.state.metrics.update(mean_dice=0.5))

    @engine.on(Events.EPOCH_COMPLETED)
    def validate(engine):  # as MONAI's ValidationHandler
        if engine.state.epoch in validate_at:
            evaluator.state.max_epochs = None
            evaluator.run([0], max_epochs=1)
            evaluator.state.epoch = engine.state.epoch

    PreferenceHandler(loss, ["a", "b"]).attach(engine)
    CurvesHandler(loss, ["a", "b"], folder, evaluator).attach(engine)
    engine.run(range(3), max_epochs=epochs, epoch_length=3)
    with (folder / "curves.csv").open() as file:
        return list(csv.DictReader(file))


def value(rows, epoch, name, modality=""):
    (found,) = [r["value"] for r in rows if (r["epoch"], r["name"], r["modality"]) == (str(epoch), name, modality)]
    return float(found)


def test_terms_are_averaged_over_the_samples_that_have_the_modality_and_another(tmp_path):
    rows = run(tmp_path, 2)
    assert value(rows, 1, "loss/pixel", "a") == pytest.approx(4.0)  # the first sample is its own teacher
    assert value(rows, 1, "loss/pixel", "b") == pytest.approx(6.0)
    assert value(rows, 2, "loss/segmentation") == pytest.approx(2.0)
    assert value(rows, 1, "loss/total") == pytest.approx(5.0)
    assert value(rows, 1, "learning_rate") == pytest.approx(0.25)
    assert not any(r["name"] == "loss/separate" for r in rows)


def test_beta_and_preference_of_every_epoch(tmp_path):
    rows = run(tmp_path, 2)
    assert value(rows, 1, "relative_preference", "a") == pytest.approx(0.1)  # (0 + 0.2) / 2 samples
    assert value(rows, 1, "relative_preference", "b") == pytest.approx(-0.2)
    assert value(rows, 2, "beta", "b") == pytest.approx(1 + 2 * 0.01 * 0.2, abs=1e-4)


def test_a_resumed_training_replaces_the_epochs_that_it_repeats(tmp_path):
    run(tmp_path, 3)
    rows = run(tmp_path, 3, resume_at=1, pixel=8.0)
    assert value(rows, 1, "loss/pixel", "a") == pytest.approx(4.0)
    assert value(rows, 2, "loss/pixel", "a") == pytest.approx(8.0)
    assert value(rows, 3, "loss/pixel", "a") == pytest.approx(8.0)


def test_tensorboard_gets_every_unweighted_term(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, 1)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "iteration/loss/pixel/a",
        "iteration/loss/prototype/b",
        "epoch/beta/a",
        "epoch/relative_preference/b",
    } <= tags
    assert len(events.Scalars("iteration/loss/pixel/a")) == 3


def test_scores_of_a_validation_belong_to_its_epoch_in_the_table_and_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = run(tmp_path, 3, validate_at=[2])
    assert [row["epoch"] for row in rows if row["name"] == "mean_dice"] == ["2"]
    assert value(rows, 2, "mean_dice") == 0.5
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("epoch/mean_dice")] == [(2, 0.5)]


def test_a_step_that_was_skipped_leaves_no_trace(tmp_path):
    rows = run(tmp_path, 2, bad=(2, 4, 5, 6))
    assert value(rows, 1, "loss/total") == pytest.approx(5.0)
    assert value(rows, 1, "loss/pixel", "a") == pytest.approx(4.0)
    assert not any(r["name"] == "loss/total" for r in rows if r["epoch"] == "2")


class FullDisk:
    """Of the files of a folder: those that are opened for rows, while it lasts."""

    def __init__(self, monkeypatch):
        self.full, plain = True, Path.open

        def refuse(path, mode="r", *rest, **options):
            if self.full and mode == "a":
                plain(path, mode, *rest, **options).write("1,half a r")
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain(path, mode, *rest, **options)

        monkeypatch.setattr(Path, "open", refuse)


def test_what_a_full_disk_does_not_take_is_written_with_the_next_rows(tmp_path, monkeypatch, caplog):
    disk, curves = FullDisk(monkeypatch), _Curves(tmp_path)
    curves.start(0)
    curves.append([(1, "a", "", 1.0)])
    disk.full = False
    curves.append([(2, "a", "", 2.0)])
    assert (tmp_path / "curves.csv").read_text().splitlines() == ["epoch,name,modality,value", "1,a,,1", "2,a,,2"]
    assert "gets its rows later (No space left on device)" in caplog.text
    (tmp_path / "curves.csv").unlink()
    curves.append([(3, "a", "", 3.0)])  # somebody's removing it ends no training
    assert (tmp_path / "curves.csv").read_text().splitlines() == ["epoch,name,modality,value", "3,a,,3"]


@pytest.mark.parametrize("when", ["__init__", "add_scalar", "flush", "close"])
def test_a_training_goes_on_without_tensorboard_where_its_files_cannot_be_written(tmp_path, monkeypatch, caplog, when):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"monai_passion.handlers.curves.SummaryWriter.{when}", refuse)
    assert value(run(tmp_path, 2), 2, "loss/total") == pytest.approx(5.0)
    assert "TensorBoard shows nothing from here on (No space left" in caplog.text
