"""Arithmetic and memory traffic of a PASSION step, and the time they take at what this machine can do at best."""

import statistics
import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from monai_passion.system.memory import keep_freed_memory
from tests.benchmarks.published import STEPS, training
from tests.benchmarks.test_training_bench import BACKBONES, SIZE

EVERYTHING = torch.ones(1, 4).bool()


class _Traffic(TorchDispatchMode):
    """Bytes that operations read and write, each tensor once per operation; what only looks at memory moves none."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view and "empty" not in function.__name__ and "detach" not in function.__name__:
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, result)) if torch.is_tensor(leaf))
        return result


def seconds_of(run, repeats=5):
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


@pytest.fixture(scope="module")
def machine():
    """Operations per second of a large product of matrices, fp32 and bf16, and bytes per second of a large copy."""
    keep_freed_memory()
    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    half, other_half = a.bfloat16(), b.bfloat16()
    source, target = torch.randn(2**26), torch.empty(2**26)
    peaks = {"fp32": 2 * n**3 / seconds_of(lambda: a @ b), "bf16": 2 * n**3 / seconds_of(lambda: half @ other_half)}
    return peaks, 2 * source.nbytes / seconds_of(lambda: target.copy_(source))


@pytest.mark.bench
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_against_the_roofline(backbone, name, machine):
    peaks, bandwidth = machine
    peak = peaks["bf16" if "bf16" in name else "fp32"]
    network, loss, image, label = training(BACKBONES[backbone], SIZE)

    def step():
        network.zero_grad()
        STEPS[name](network, loss, image, EVERYTHING, label)

    with FlopCounterMode(display=False) as counter:
        step()
    with _Traffic() as traffic:
        step()
    seconds = seconds_of(step, 2)
    flops = counter.get_total_flops()
    print(
        f"\n{backbone}, {SIZE}^3, all four, {name}: {flops / 1e9:.0f} GFLOP, {traffic.bytes / 1e9:.1f} GB; at the peak "
        f"({peak / 1e9:.0f} GFLOP/s) {flops / peak:.2f} s, at the bandwidth ({bandwidth / 1e9:.1f} GB/s) "
        f"{traffic.bytes / bandwidth:.2f} s; measured {seconds:.2f} s, {flops / seconds / 1e9:.0f} GFLOP/s"
    )
    assert flops > 0
    assert traffic.bytes > 0
    assert seconds > flops / peak * 0.5
