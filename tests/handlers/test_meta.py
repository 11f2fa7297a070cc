import torch
from ignite.engine import Engine

from monai_passion.handlers import MetaStepHandler


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
