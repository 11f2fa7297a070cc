import pytest
import torch
from ignite.engine import Engine

from monai_passion.handlers import PreferenceHandler
from monai_passion.losses import LossTerms, PassionLoss


def terms(gap, available):
    gap, available = torch.tensor(gap), torch.tensor(available).bool()
    return LossTerms(torch.zeros(len(gap)), available, {"gap": gap}, {})


def test_beta_moves_once_an_epoch_by_the_mean_preference_of_the_samples_that_have_the_modality():
    loss = PassionLoss(2, 2, missing_rates=[0.5, 0.0], gamma=0.1)
    batches = [terms([[3.0, 1.0]], [[1, 1]]), terms([[0.0, 0.0]], [[0, 1]])]
    engine = Engine(lambda engine, batch: loss.observe(batch))
    PreferenceHandler(loss, ["a", "b"]).attach(engine)
    engine.run(batches, max_epochs=1)
    # RP of the first sample is (1 - 3/2, 1 - 1/2); the second has one modality, so 0.
    assert engine.state.preference.tolist() == pytest.approx([-0.5, 0.25])
    assert loss.beta.tolist() == pytest.approx([2 + 0.05, 1 - 0.025])
    engine.run(batches, max_epochs=2)
    assert loss.beta.tolist() == pytest.approx([2 + 0.1, 1 - 0.05])
