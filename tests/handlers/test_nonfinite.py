import logging
import math

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor, list_data_collate
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from monai_passion.errors import PassionError
from monai_passion.handlers import NonFiniteHandler
from monai_passion.handlers import nonfinite as module
from monai_passion.handlers.nonfinite import case_names
from tests.handlers import toy


def poisoned(folder, bad, epochs):
    """A training whose cases ``bad`` hold NaN, and what each iteration saw: [cases, weights before, weights after]."""
    data = toy.cases()
    for index in bad:
        data[index]["image"][:] = math.nan
    trainer = toy.build(folder, epochs=epochs, data=data, evaluator=None)
    seen = []

    def weights():
        return torch.cat([p.detach().flatten() for p in trainer.network.parameters()]).clone()

    @trainer.on(Events.ITERATION_STARTED)
    def before(engine):
        seen.append([engine.state.batch["case"], weights()])

    @trainer.on(Events.ITERATION_COMPLETED)
    def after(engine):
        seen[-1].append(weights())

    return trainer, seen


def test_a_step_with_nan_is_skipped_and_its_cases_are_named(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    trainer, seen = poisoned(tmp_path, bad=[2], epochs=1)
    trainer.run()
    for cases, before, after in seen:
        assert torch.equal(before, after) == ("case2" in cases)
    (bad,) = [cases for cases, *_ in seen if "case2" in cases]
    said = [r.message for r in caplog.records if "step skipped" in r.message]
    assert len(said) == 1
    assert f"case {', '.join(bad)}" in said[0]


def test_a_skipped_step_leaves_no_trace_in_batch_statistics_and_loss(tmp_path):
    trainer, seen = poisoned(tmp_path, bad=[2], epochs=1)
    trainer.run()
    state = [*trainer.network.state_dict().values(), trainer.loss_function.beta]
    assert all(bool(value.isfinite().all()) for value in state)
    statistics = trainer.network.encoders[0][1].num_batches_tracked
    assert 0 < statistics < len(seen)


def test_all_bad_in_a_row_stops_with_the_cases(tmp_path):
    trainer, seen = poisoned(tmp_path, bad=range(toy.CASES), epochs=9)
    with pytest.raises(PassionError, match="not finite 5 times in a row") as error:
        trainer.run()
    assert len(seen) == 5
    assert all(f"case{i}" in str(error.value) for i in range(toy.CASES))
    assert error.value.exit_code == 1


@pytest.mark.parametrize(("order", "weight"), [("ab", 0.5), ("abc", 2 / 3), ("cab", 2 / 3), ("acb", 2 / 3), ("cc", 1)])
def test_of_gradients_that_are_added_up_for_a_step_the_good_ones_count(order, weight):
    """Of (w x)^2 at w = 1, with rates of 0.1: 1 - 0.1 / n (2 x_a^2 + 2 x_b^2)."""
    values = {"a": 1.0, "b": 2.0, "c": math.nan}
    items = [{"image": torch.tensor([[values[c]]]), "label": torch.zeros(1, 1), "case": [c]} for c in order]
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=items,
        network=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        loss_function=torch.nn.MSELoss(),
        accumulation_steps=len(order),
        train_handlers=[NonFiniteHandler()],
        optim_set_to_none=True,
    )
    if set(order) == {"c"}:
        with pytest.raises(PassionError):
            trainer.run()
    else:
        trainer.run()
    assert net.weight.item() == pytest.approx(weight)


def test_a_training_too_short_for_that_ends_with_an_error_where_no_step_was_taken(tmp_path):
    trainer, seen = poisoned(tmp_path, bad=range(toy.CASES), epochs=1)
    assert len(trainer.data_loader) < 5
    with pytest.raises(PassionError, match="not finite at any step"):
        trainer.run()
    assert len(seen) == len(trainer.data_loader)


def attached(loss=1.0, patience=2):
    """A handler beside a trainer in the middle of an iteration, without the training."""
    net = torch.nn.Linear(2, 1)
    trainer = toy.build("unused", net=net)
    handler = NonFiniteHandler(patience)
    handler.remember(trainer)
    net(torch.ones(1, 2)).sum().backward()
    trainer.state.output = {"loss": torch.tensor(loss)}
    trainer.state.batch = {"case": ["p1"]}
    return handler, trainer, net


def test_good_iterations_between_bad_ones_start_the_count_anew():
    handler, trainer, _ = attached()
    for loss in (math.nan, 1.0, math.inf, 1.0):
        trainer.network(torch.ones(1, 2)).sum().backward()
        trainer.state.output = {"loss": torch.tensor(loss)}
        handler(trainer)
    trainer.state.output = {"loss": torch.tensor(math.nan)}
    handler(trainer)
    with pytest.raises(PassionError):
        handler(trainer)


def test_an_infinite_gradient_of_a_finite_loss_is_caught(caplog):
    handler, trainer, net = attached()
    net.weight.grad[0, 1] = -math.inf
    handler(trainer)
    assert net.weight.grad is None
    assert "the norm of the gradient is inf" in caplog.text


def test_a_good_step_is_left_alone():
    handler, trainer, net = attached()
    before = net.weight.grad.clone()
    handler(trainer)
    assert torch.equal(net.weight.grad, before)


def test_the_scaler_is_shown_nan_gradients_because_it_refuses_a_step_without_any():
    handler, trainer, net = attached(loss=math.nan)
    trainer.scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    trainer.scaler.scale(torch.ones(()))
    before = net.weight.detach().clone()
    handler(trainer)
    trainer.scaler.step(optimizer)
    trainer.scaler.update()
    assert torch.equal(net.weight, before)


def test_the_nan_of_another_process_skips_the_step_here_too(monkeypatch, caplog):
    handler, trainer, net = attached()
    monkeypatch.setattr(module.idist, "all_reduce", lambda value, op: max(value, 1.0) if op == "MAX" else None)
    handler(trainer)
    assert net.weight.grad is None
    assert "another process" in caplog.text


def test_cases_are_named_by_case_or_by_file():
    image = MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": "a/b.nii.gz"})
    assert case_names({"case": ["x", "y"]}) == ["x", "y"]
    assert case_names(list_data_collate([{"image": image}, {"image": image}])) == ["a/b.nii.gz", "a/b.nii.gz"]
    assert case_names((torch.zeros(1), torch.zeros(1))) == ["unknown"]


def test_the_guard_acts_between_backward_and_step(tmp_path):
    trainer = toy.build(tmp_path)
    handler = NonFiniteHandler()
    handler.attach(trainer)
    assert trainer.has_event_handler(handler, IterationEvents.BACKWARD_COMPLETED)


def test_patience_below_one_is_refused():
    with pytest.raises(ValueError, match="patience is 0"):
        NonFiniteHandler(0)
