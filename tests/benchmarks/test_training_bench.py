"""A PASSION step of RFNet against the schedule that the equations suggest: everything again for every modality."""

import statistics
import time

import pytest
import torch

from monai_passion.losses import PassionLoss
from monai_passion.networks import RFNet, SelfDistillationNet
from monai_passion.networks.backbone import Decoded
from monai_passion.networks.self_distillation import SelfDistillationOutput

SIZE, M, K = 48, 4, 4
AVAILABLE = [0, 1, 1, 0]
"""T1 and T1c: at missing rates (0.2, 0.4, 0.6, 0.8) the most frequent combination, of two as on average."""


def naive(network, image, available):
    """Encode M + 1 times, absent modalities too, decode each modality alone, one by one; absent ones count zero."""
    everything = torch.ones_like(available)
    fused = network.backbone.decode(network.backbone.encode(image, everything), available)
    alone, wasted = [], image.new_zeros(())
    for m in range(M):
        mask = torch.zeros_like(available)
        mask[:, m] = True
        decoded = network.backbone.decode(network.backbone.encode(image, everything), mask)
        if AVAILABLE[m]:
            alone.append(decoded)
        else:
            wasted = wasted + 0 * (sum(level.sum() for level in decoded.logits) + decoded.features.sum())
    unimodal = Decoded(
        tuple(map(torch.cat, zip(*(d.logits for d in alone), strict=True))), torch.cat([d.features for d in alone])
    )
    pairs = tuple((0, m) for m in range(M) if AVAILABLE[m])
    return SelfDistillationOutput(fused, unimodal, pairs, None, (), available), wasted


def ours(network, image, available):
    return network(image, available), 0


@pytest.mark.bench
def test_a_training_step_is_at_least_twice_as_fast_as_the_naive_schedule():
    network, loss = SelfDistillationNet(RFNet()), PassionLoss(M, K, [0.6, 0.4, 0.2, 0.8])
    available = torch.tensor([AVAILABLE]).bool()
    image = torch.randn(1, M, SIZE, SIZE, SIZE) * available[..., None, None, None]
    label = torch.randint(0, K, (1, 1, SIZE, SIZE, SIZE))
    seconds, values = {naive: [], ours: []}, {}
    for _ in range(5):
        for schedule, times in seconds.items():
            network.zero_grad()
            start = time.perf_counter()
            output, wasted = schedule(network, image, available)
            value = loss(output, label) + wasted
            value.backward()
            times.append(time.perf_counter() - start)
            values[schedule] = value.item()
    slow, fast = (statistics.median(times) for times in seconds.values())
    print(f"\nseconds {slow:.2f} and {fast:.2f}, ratio {slow / fast:.1f}")
    assert values[ours] == pytest.approx(values[naive], rel=1e-4)
    assert slow / fast >= 2
