import pytest
import torch
from ignite.engine import Engine

from monai_passion.handlers import AbsentGradientsHandler
from tests.losses import toy


def step(gradients, momentum_steps=2):
    """How far Adam moves the encoder of a modality after its last batch, and of one that is there."""
    net = toy.network(unimodal="off")
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.0, amsgrad=True, fused=True)
    handler = AbsentGradientsHandler(net.backbone, gradients)
    engine = Engine(lambda *_: None)
    for present in [[1, 1, 1]] + [[1, 1, 0]] * momentum_steps:
        before = [[p.detach().clone() for p in net.backbone.modality_parameters(m)] for m in (0, 2)]
        image, available, _ = toy.batch([present])
        optimizer.zero_grad(set_to_none=True)
        net(image, available).fused.logits[0].square().sum().backward()
        if gradients == "zero":
            handler(engine)
        optimizer.step()
    after = [list(net.backbone.modality_parameters(m)) for m in (0, 2)]
    return [
        sum((a - b).abs().sum().item() for a, b in zip(old, new, strict=True))
        for old, new in zip(before, after, strict=True)
    ]


def test_skip_leaves_the_encoder_of_an_absent_modality_where_it_is():
    there, absent = step("skip")
    assert there > 0
    assert absent == 0


def test_zero_lets_the_optimizer_step_on_as_in_the_released_code():
    there, absent = step("zero")
    assert there > 0
    assert absent > 0


def test_the_fused_optimizer_of_a_training_makes_the_steps_of_the_plain_one_also_without_gradients():
    plain, fused = ([torch.nn.Parameter(torch.ones(50)) for _ in range(3)] for _ in range(2))
    options = {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}
    optimizers = [torch.optim.AdamW(plain, **options), torch.optim.AdamW(fused, **options, fused=True)]
    for n in range(12):
        for m, (p, q) in enumerate(zip(plain, fused, strict=True)):
            p.grad = None if (n + m) % 3 == 0 else torch.randn(50) * (m != 1 or n % 2)
            q.grad = None if p.grad is None else p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(plain, fused, strict=True):
        assert (p - 1).abs().min() > 0
        torch.testing.assert_close(q, p)


def test_one_gradient_moves_a_rare_encoder_farther_by_the_root_of_its_rate():
    moved = {}
    for gradients in ("skip", "zero"):
        parameter = torch.nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.0)
        for n in range(10000):
            present = n % 5 == 0
            parameter.grad = torch.ones(()) if present else torch.zeros(()) if gradients == "zero" else None
            optimizer.step()
        moved[gradients] = -parameter.item()
    assert moved["zero"] / moved["skip"] == pytest.approx(5**0.5, rel=0.05)


def test_what_is_wanted_must_be_said():
    with pytest.raises(ValueError, match="'skip' or 'zero'"):
        AbsentGradientsHandler(toy.network().backbone, "none")
