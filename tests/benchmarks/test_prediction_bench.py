"""One patient through `Segmenter`, against MONAI's plain sliding window of the same network over the whole volume.

The plain way has the same windows and overlap, runs every encoder on every window, and sees no head: it neither crops
nor leaves out windows. ``MONAI_PASSION_BENCH_ROI=32`` makes the windows smaller, see also `tests.benchmarks.plain`.
"""

import os
import statistics
from pathlib import Path

import pytest
import torch

from monai_passion.bundle.facts import find_bundle
from monai_passion.networks.precision import has_bfloat16_units
from monai_passion.prediction.segmenter import Segmenter
from monai_passion.system.memory import keep_freed_memory, peak_memory_mb
from tests.benchmarks.plain import SIZE, patient, plainly
from tests.benchmarks.turns import take_turns

ROI = int(os.environ.get("MONAI_PASSION_BENCH_ROI", "80"))
ROUNDS = 3
ONE_MM = Path(__file__).parents[2] / "releases/brats_whole/rfnet_width8_1mm.safetensors"
PRECISIONS = ["fp32", "bf16"] if has_bfloat16_units(torch.device("cpu")) else ["fp32"]


@pytest.fixture(autouse=True)
def as_a_program_starts():
    keep_freed_memory()


def compare(opened, given, plain_ways):
    """Print seconds of each segmenter beside those of plain windows; labels by name, and first plain way / fp32.

    Medians of alternating runs; and each segmenter's first run, as `predict` has it, in which memory is not there yet.
    """
    volumes, network = patient(given), opened["fp32"].network
    ours = {name: lambda segmenter=segmenter: segmenter.segment(volumes).labels for name, segmenter in opened.items()}
    plain = {name: lambda ways=ways: plainly(network, volumes, *ways) for name, ways in plain_ways.items()}
    first, _ = take_turns(ours, 1)
    peak = peak_memory_mb()
    times, maps = take_turns({**ours, **plain}, ROUNDS)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    said = ", ".join(
        f"{name} {value:.1f} s" + "".join(f", ratio {value / seconds[p]:.2f} ({p})" for p in opened if name in plain)
        for name, value in seconds.items()
    )
    print(f"\n{SIZE}, {given} of 4 modalities, {torch.get_num_threads()} threads: {said}; our peak {peak:.0f} MB")
    print("first runs: " + ", ".join(f"{name} {once:.1f} s" for name, (once,) in first.items()))
    return maps, seconds[next(iter(plain))] / seconds["fp32"]


@pytest.mark.bench
@pytest.mark.parametrize(("given", "wanted"), [(4, 1.5), (1, 3.0)])
def test_predict_is_faster_than_a_plain_sliding_window(weights, given, wanted):
    opened = {
        p: Segmenter(find_bundle(), weights=weights, device="cpu", roi_size=[ROI], overlap=0.5, precision=p)
        for p in PRECISIONS
    }
    opened["by default"] = Segmenter(find_bundle(), weights=weights, device="cpu", roi_size=[ROI])
    opened["windows as large as memory allows"] = Segmenter(find_bundle(), weights=weights, device="cpu", roi_size=-1)
    maps, ratio = compare(opened, given, {"plain": ((ROI,) * 3,), "plain, head alone": ((ROI,) * 3, 1, True)})
    assert maps["fp32"].shape == maps["plain"].shape
    assert ratio >= wanted


@pytest.mark.bench
@pytest.mark.parametrize("given", [4, 1])
def test_the_shipped_weights_see_a_head_at_2_mm(given):
    opened = {p: Segmenter(find_bundle(), device="cpu", precision=p) for p in PRECISIONS}
    window = opened["fp32"].settings["roi_size"]
    _, ratio = compare(opened, given, {f"plain at {step} mm": (window, step) for step in (2, 1)})
    assert ratio > 1


@pytest.mark.bench
@pytest.mark.parametrize("given", [4, 1])
def test_the_weights_at_1_mm(given):
    opened = {p: Segmenter(find_bundle(), weights=ONE_MM, device="cpu", precision=p) for p in PRECISIONS}
    plain = {"plain": ((ROI,) * 3,), "plain, head alone": ((ROI,) * 3, 1, True)}
    _, ratio = compare(opened, given, plain)
    assert ratio > 1
