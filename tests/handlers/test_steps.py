from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from monai_passion.errors import UsageError
from monai_passion.handlers import GradientModulationHandler, MetaStepHandler, PlainStepsHandler


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
        (lambda: PlainStepsHandler("passion_released"), {"accumulation_steps": 4}, "passion_released .* is 4"),
    ],
)
def test_methods_that_count_steps_refuse_what_changes_them(make, attributes, told):
    engine = engine_of_a_trainer()
    make().attach(engine)
    vars(engine).update(attributes)  # as trainers do, after their handlers are attached
    with pytest.raises(UsageError, match=told):
        engine.run([0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: MetaStepHandler(torch.nn.Linear(1, 1), 2, 2),
        lambda: GradientModulationHandler(None, None),
        lambda: PlainStepsHandler("passion_released"),
    ],
)
def test_they_refuse_several_processes(make, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    engine = engine_of_a_trainer()
    make().attach(engine)
    with pytest.raises(UsageError, match="one process, and there are 2"):
        engine.run([0])
