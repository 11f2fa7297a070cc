"""A PASSION step against the same step as published: everything encoded, every modality decoded, one by one.

``MONAI_PASSION_BENCH_CROP=48`` makes the crops smaller.
"""

import multiprocessing
import os
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
import torch

from monai_passion.data.presence import draw_presence
from monai_passion.networks import M2FTrans, MMFormer, RFNet
from tests.benchmarks.published import STEPS, as_published, training

SIZE = int(os.environ.get("MONAI_PASSION_BENCH_CROP", "80"))
BACKBONES = {
    "RFNet": RFNet,
    "mmFormer": partial(MMFormer, roi_size=SIZE, dropout=0.0),
    "M2FTrans": partial(M2FTrans, roi_size=SIZE, dropout=0.0),
}
RATES = {"flair": 0.6, "t1c": 0.4, "t1": 0.2, "t2": 0.8}
MASKS = draw_presence(6, RATES).tolist()
"""Combinations as frequent as at missing rates (0.2, 0.4, 0.6, 0.8) for T1, T1c, Flair, T2."""


def time_steps(backbone, masks):
    """Seconds of each step, alternating; their losses agree."""
    network, loss, image, label = training(BACKBONES[backbone], SIZE)
    seconds = {name: [] for name in STEPS}
    for mask in masks[:1] + masks:  # the first warms up
        values = []
        for name, step in STEPS.items():
            network.zero_grad()
            start = time.perf_counter()
            values.append(step(network, loss, image, torch.tensor([mask]), label))
            seconds[name].append(time.perf_counter() - start)
        assert values[0] == pytest.approx(values[1], rel=1e-3)
    return {name: times[1:] for name, times in seconds.items()}


def peak_memory(backbone, name, mask):
    """GiB of a process of its own that does two steps."""
    network, loss, image, label = training(BACKBONES[backbone], SIZE)
    for _ in range(2):
        network.zero_grad()
        STEPS[name](network, loss, image, torch.tensor([mask]), label)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@pytest.mark.bench
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_takes_a_third_of_the_time_with_missing_modalities_and_two_thirds_without(backbone):
    missing, full = time_steps(backbone, MASKS), time_steps(backbone, [[True] * 4] * 2)
    ratio = sum(missing["published"]) / sum(missing["ours"])
    ratio_full = statistics.median(full["published"]) / statistics.median(full["ours"])
    print(
        f"\n{backbone}, {SIZE}^3, seconds a step as published and ours: missing rates "
        f"{statistics.mean(missing['published']):.2f} {statistics.mean(missing['ours']):.2f} ratio {ratio:.1f}; "
        f"all four {statistics.median(full['published']):.2f} {statistics.median(full['ours']):.2f} "
        f"ratio {ratio_full:.1f}"
    )
    assert ratio >= 3
    assert ratio_full >= 1.5


@pytest.mark.bench
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_needs_at_most_60_percent_of_the_memory(backbone):
    gigabytes = {}
    for name in STEPS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            gigabytes[name] = pool.submit(peak_memory, backbone, name, [True] * 4).result()
    print(f"\n{backbone}, {SIZE}^3, all four modalities, peak GiB {gigabytes}")
    assert gigabytes["ours"] <= 0.6 * gigabytes["published"]


@pytest.mark.bench
@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_fifteen_combinations_of_a_window_are_faster_than_fifteen_forwards(backbone):
    network = BACKBONES[backbone]().eval()
    image, everything = torch.randn(1, 4, SIZE, SIZE, SIZE), torch.ones(1, 4).bool()
    masks = [torch.tensor([[bool(n >> m & 1) for m in range(4)]]) for n in range(1, 16)]
    seconds = {"published": 0.0, "ours": 0.0}
    with as_published():
        start = time.perf_counter()
        apart = [network.decode(network.encode(image, everything), mask).logits[0] for mask in masks]
        seconds["published"] = time.perf_counter() - start
    start = time.perf_counter()
    features = network.encode(image, everything)
    together = [network.decode(features, mask).logits[0] for mask in masks]
    seconds["ours"] = time.perf_counter() - start
    for a, b in zip(apart, together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
    ratio = seconds["published"] / seconds["ours"]
    print(f"\n{backbone}, {SIZE}^3, 15 combinations: seconds {seconds}, ratio {ratio:.1f}")
    assert ratio >= 2.5
