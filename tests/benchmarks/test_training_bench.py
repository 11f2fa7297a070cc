"""A PASSION step against the same step as published: everything encoded, every modality decoded, one by one.

``MONAI_PASSION_BENCH_CROP=48`` makes the crops smaller.
"""

import math
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
import torch

from monai_passion.networks import M2FTrans, MMFormer, RFNet
from monai_passion.system.memory import keep_freed_memory, peak_memory_mb
from tests.benchmarks.published import STEPS, as_published, encode_everything, training

SIZE = int(os.environ.get("MONAI_PASSION_BENCH_CROP", "80"))
BACKBONES = {
    "RFNet": RFNet,
    "mmFormer": partial(MMFormer, roi_size=SIZE, dropout=0.0),
    "M2FTrans": partial(M2FTrans, roi_size=SIZE, dropout=0.0),
}
RATES = (0.6, 0.4, 0.2, 0.8)
"""Missing rates of Flair, T1c, T1, T2 in the table mr2468."""
MASKS = [[bool(n >> m & 1) for m in range(4)] for n in range(1, 16)]
FREQUENCY = [math.prod(1 - rate if there else rate for there, rate in zip(mask, RATES, strict=True)) for mask in MASKS]
"""Of each combination at these rates, up to a factor."""


@pytest.fixture(autouse=True)
def as_a_training_starts():
    keep_freed_memory()


def time_steps(backbone, masks):
    """Seconds of each step, alternating; their losses agree."""
    network, loss, image, label = training(BACKBONES[backbone], SIZE)
    seconds = {name: [] for name in STEPS}
    for mask in [[True] * 4] * 2 + masks:  # the first two warm up
        values = []
        for name, step in STEPS.items():
            network.zero_grad()
            start = time.perf_counter()
            values.append(step(network, loss, image, torch.tensor([mask]), label))
            seconds[name].append(time.perf_counter() - start)
        assert values[1] == pytest.approx(values[0], rel=1e-3)
        assert values[2:] == pytest.approx(values[:1] * len(values[2:]), rel=1e-2)
    return {name: times[2:] for name, times in seconds.items()}


def at_missing_rates(seconds):
    """The mean step where patients lack modalities at `RATES`."""
    return sum(w * s for w, s in zip(FREQUENCY, seconds, strict=True)) / sum(FREQUENCY)


def on_its_own(backbone, name, keep=True, steps=2):
    """Seconds of the steps after the first, with all four modalities, and peak GiB, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(do_steps, backbone, name, keep, steps).result()


def do_steps(backbone, name, keep, steps):
    if keep:
        keep_freed_memory()
    network, loss, image, label = training(BACKBONES[backbone], SIZE)
    seconds = []
    for _ in range(steps):
        network.zero_grad()
        start = time.perf_counter()
        STEPS[name](network, loss, image, torch.ones(1, 4).bool(), label)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), peak_memory_mb() * 1e6 / 2**30


@pytest.mark.bench
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_takes_a_third_of_the_time_with_missing_modalities_and_two_thirds_without(backbone):
    seconds = time_steps(backbone, MASKS + [MASKS[-1]] * 2)
    missing = {name: at_missing_rates(times[: len(MASKS)]) for name, times in seconds.items()}
    full = {name: statistics.median(times[len(MASKS) - 1 :]) for name, times in seconds.items()}
    print(f"\n{backbone}, {SIZE}^3, seconds per step, and how many times as fast as published:")
    for name in STEPS:
        print(
            f"{name}: missing rates {RATES} {missing[name]:.2f} ({missing['published'] / missing[name]:.2f}); "
            f"all four {full[name]:.2f} ({full['published'] / full[name]:.2f})"
        )
    assert missing["published"] / missing["ours"] >= 3
    assert full["published"] / full["ours"] >= 1.5
    if "ours in bf16" in STEPS:
        assert missing["published"] / missing["ours in bf16"] >= 4


@pytest.mark.bench
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_needs_at_most_60_percent_of_the_memory(backbone):
    gigabytes = {name: on_its_own(backbone, name)[1] for name in STEPS}
    print(f"\n{backbone}, {SIZE}^3, all four modalities, peak GiB {gigabytes}")
    assert gigabytes["ours"] <= 0.6 * gigabytes["published"]


@pytest.mark.bench
@pytest.mark.parametrize("backbone", BACKBONES)
def test_keeping_freed_memory_makes_a_step_faster(backbone):
    (kept, more), (returned, less) = (on_its_own(backbone, "ours", keep, steps=5) for keep in (True, False))
    print(
        f"\n{backbone}, {SIZE}^3, all four modalities, freed memory given back and kept: seconds {returned:.2f} "
        f"{kept:.2f} ratio {returned / kept:.2f}; peak GiB {less:.2f} {more:.2f} ratio {more / less:.2f}"
    )
    assert kept < returned


@pytest.mark.bench
@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_fifteen_combinations_of_a_window_are_faster_than_fifteen_forwards(backbone):
    network = BACKBONES[backbone]().eval()
    image, everything = torch.randn(1, 4, SIZE, SIZE, SIZE), torch.ones(1, 4).bool()
    masks = [torch.tensor([mask]) for mask in MASKS]
    seconds = {"published": 0.0, "ours": 0.0}
    with as_published():
        start = time.perf_counter()
        apart = [network.decode(encode_everything(network, image), mask).logits[0] for mask in masks]
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
