"""The cost of the loss terms of a PASSION step at 80^3: 4 modalities, 4 classes, the five outputs of RFNet."""

import multiprocessing
import os
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from monai_passion.losses import PassionLoss, distillation
from monai_passion.losses.fused import pixel_distillation, prototype_distillation
from monai_passion.losses.segmentation import make_target
from monai_passion.networks import RFNet, SelfDistillationNet
from monai_passion.networks.backbone import Decoded
from tests.benchmarks.published import one_by_one

SIZE, M, K, CHANNELS = 80, 4, 4, 8
LEVELS = (80, 80, 40, 20, 10)
TEMPERATURE = 4.0


def decoded(rows):
    logits = tuple((3 * torch.randn(rows, K, n, n, n)).requires_grad_() for n in LEVELS)
    return Decoded(logits, torch.randn(rows, CHANNELS, SIZE, SIZE, SIZE).requires_grad_())


def blocks_of_labels():
    """A background with three nested cubes, (1, 1, 80, 80, 80)."""
    label = torch.zeros(1, 1, SIZE, SIZE, SIZE, dtype=torch.long)
    for k, margin in ((1, 20), (2, 26), (3, 32)):
        label[..., margin:-margin, margin:-margin, margin:-margin] = k
    return label


def transcription(student, teacher, label):
    """Equations 3 to 8 as they are written, one modality after another: (L_pixel, L_proto, D), each (M,)."""
    target = make_target(label, K)
    part = *target[1:], target.voxels[0] > 0
    levels = zip(student.logits, teacher.logits, strict=True)
    pixel = sum(one_by_one(distillation.pixel_distillation)(z_m, z, TEMPERATURE) for z_m, z in levels)
    return pixel, *one_by_one(distillation.prototype_distillation)(student.features, teacher.features, *part)


def ours(student, teacher, label):
    target = make_target(label, K)
    levels = zip(student.logits, teacher.logits, strict=True)
    pixel = sum(pixel_distillation(z_m, z, TEMPERATURE) for z_m, z in levels)
    present = target.voxels[0] > 0
    return pixel, *prototype_distillation(student.features, teacher.features, *target[1:], present)


def step(terms, *data):
    """Forward and backward; seconds, the terms, and the gradients of the student."""
    leaves = [*data[0].logits, data[0].features]
    start = time.perf_counter()
    pixel, proto, gap = terms(*data)
    gradients = torch.autograd.grad((pixel + proto).sum(), leaves)
    return time.perf_counter() - start, (pixel, proto, gap), gradients


def peak_memory(name):
    """The most resident memory during a step above that before it, in MB; for a process of its own, with a new heap."""
    torch.set_num_threads(1)
    data = decoded(M), decoded(1), blocks_of_labels()
    done, seen = threading.Event(), [resident()]

    def watch():
        while not done.wait(0.001):
            seen.append(resident())

    thread = threading.Thread(target=watch)
    thread.start()
    step(CONTENDERS[name], *data)
    done.set()
    thread.join()
    return (max(seen) - seen[0]) / 1e6


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


CONTENDERS = {"transcription": transcription, "ours": ours}


@pytest.mark.bench
def test_distillation_is_three_times_faster_in_half_the_memory_of_a_direct_transcription():
    data = decoded(M), decoded(1), blocks_of_labels()
    seconds = {name: [] for name in CONTENDERS}
    results = {}
    for _ in range(5):
        for name, terms in CONTENDERS.items():
            duration, *results[name] = step(terms, *data)
            seconds[name].append(duration)
    memory = {}
    for name in CONTENDERS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            memory[name] = pool.submit(peak_memory, name).result()
    torch.testing.assert_close(results["ours"], results["transcription"], rtol=1e-3, atol=1e-6)
    slow, fast = (statistics.median(seconds[name]) for name in CONTENDERS)
    print(f"\nseconds {slow:.3f} and {fast:.3f}, ratio {slow / fast:.1f}; peak MB {memory}")
    assert slow / fast >= 3
    assert memory["ours"] <= 0.5 * memory["transcription"]


@pytest.mark.bench
def test_all_loss_terms_cost_at_most_a_quarter_of_a_step():
    network, loss = SelfDistillationNet(RFNet()), PassionLoss(M, K, [0.6, 0.4, 0.2, 0.8])
    image, available = torch.randn(1, M, SIZE, SIZE, SIZE), torch.ones(1, M).bool()
    label = blocks_of_labels()
    shares = []
    for _ in range(3):
        start = time.perf_counter()
        output = network(image, available)
        # A copy cut from the network's graph, to time the backward pass of the loss and of the network apart.
        leaves = [x.detach().requires_grad_() for d in (output.fused, output.unimodal) for x in (*d.logits, d.features)]
        half = len(leaves) // 2
        cut = [Decoded(tuple(part[:-1]), part[-1]) for part in (leaves[:half], leaves[half:])]
        network_forward = time.perf_counter()
        value = loss(output._replace(fused=cut[0], unimodal=cut[1]), label)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        losses = time.perf_counter()
        outputs = [x for d in (output.fused, output.unimodal) for x in (*d.logits, d.features)]
        taking_part = [(x, g) for x, g in zip(outputs, gradients, strict=True) if g is not None]
        torch.autograd.backward(*zip(*taking_part, strict=True))
        end = time.perf_counter()
        shares.append((losses - network_forward) / (end - start))
        print(f"\nstep {end - start:.1f} s, losses {losses - network_forward:.2f} s")
        network.zero_grad()
    assert statistics.median(shares) <= 0.25
