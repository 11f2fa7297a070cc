from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from monai_passion.errors import UsageError
from monai_passion.handlers import GradientModulationHandler, MetaStepHandler


def train(network, handler, epochs, add=1.0):
    def step(engine, batch):
        with torch.no_grad():
            for p in network.parameters():
                p += add

    engine = Engine(step)
    handler.attach(engine)
    engine.run(range(4), max_epochs=epochs)


def test_every_cycle_keeps_a_share_of_its_change_that_grows_over_the_epochs():
    network = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(network.weight)
    train(network, MetaStepHandler(network, every=2, epochs=2, first=0.2), epochs=2)
    # Two cycles of two steps of 1 in each epoch: 0.2 of it in the first, 0.6 in the second.
    torch.testing.assert_close(network.weight.detach(), torch.full((1, 1), 2 * 2 * 0.2 + 2 * 2 * 0.6))


def test_the_slow_weights_are_state():
    network = torch.nn.Linear(2, 1)
    handler = MetaStepHandler(network, every=2, epochs=2)
    train(network, handler, epochs=1)
    other = MetaStepHandler(torch.nn.Linear(2, 1), every=2, epochs=2)
    other.load_state_dict(handler.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.slow, handler.slow, strict=True))


def engine_of_a_trainer():
    engine = Engine(lambda engine, batch: None)
    engine.register_events(*IterationEvents)
    return engine


@pytest.mark.parametrize(
    ("make", "attributes", "told"),
    [
        (lambda: MetaStepHandler(torch.nn.Linear(1, 1), 2, 2), {"accumulation_steps": 2}, "accumulate is 2"),
        (lambda: MetaStepHandler(torch.nn.Linear(1, 1), 2, 2), {"data_loader": SimpleNamespace(batch_size=3)}, "is 3"),
        (lambda: GradientModulationHandler(None, None), {"accumulation_steps": 4}, "ogm_ge .* accumulate is 4"),
    ],
)
def test_methods_that_count_steps_refuse_what_changes_them(make, attributes, told):
    engine = engine_of_a_trainer()
    make().attach(engine)
    vars(engine).update(attributes)  # as trainers do, after their handlers are attached
    with pytest.raises(UsageError, match=told):
        engine.run([0])


@pytest.mark.parametrize(
    "make", [lambda: MetaStepHandler(torch.nn.Linear(1, 1), 2, 2), lambda: GradientModulationHandler(None, None)]
)
def test_they_refuse_several_processes(make, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    engine = engine_of_a_trainer()
    make().attach(engine)
    with pytest.raises(UsageError, match="one process, and there are 2"):
        engine.run([0])
