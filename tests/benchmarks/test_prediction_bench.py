"""One patient through `Segmenter`, against MONAI's plain sliding window of the same network over the whole volume.

The plain way has the same windows and overlap, runs every encoder on every window, and sees no head: it neither crops
nor leaves out windows. ``MONAI_PASSION_BENCH_SIZE=96,96,64`` makes the patient smaller, ``MONAI_PASSION_BENCH_ROI=32``
the windows.
"""

import os
import time

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from monai_passion.data.nifti import Volume
from monai_passion.prediction.segmenter import Segmenter, find_bundle
from monai_passion.system.memory import peak_memory_mb
from tests.helpers.tasks import BRATS_MRI

SIZE = tuple(map(int, os.environ.get("MONAI_PASSION_BENCH_SIZE", "240,240,155").split(",")))
ROI = int(os.environ.get("MONAI_PASSION_BENCH_ROI", "80"))
RADII = (0.29, 0.36, 0.45)
"""Of a brain in the grid of BraTS, as parts of it."""


@pytest.fixture(scope="module")
def segmenter(weights):
    return Segmenter(find_bundle(), weights, "cpu", [ROI], 0.5)


def head(seed):
    grid = np.meshgrid(*(np.arange(n) / n - 0.5 for n in SIZE), indexing="ij", sparse=True)
    inside = sum((axis / r) ** 2 for axis, r in zip(grid, RADII, strict=True)) < 1
    values = np.random.default_rng(seed).normal(100, 20, SIZE)
    return Volume(np.where(inside, values, 0).astype(np.float32), np.eye(4), None, ())


@torch.no_grad()
def plainly(network, volumes, roi_size=(ROI,) * 3, step=1):
    """Zero for what is absent, each channel normalized within its head, all four encoders in every window.

    Of voxels ``step`` mm wide.
    """
    channels = [np.zeros(SIZE, np.float32) if v is None else v.data for v in volumes]
    for channel in channels:
        inside = channel != 0
        if inside.any():
            channel[inside] = (channel[inside] - channel[inside].mean()) / channel[inside].std()
    everything = torch.ones(1, len(volumes), dtype=torch.bool)

    def predict(windows):
        return network(windows, everything.expand(len(windows), -1)).softmax(dim=1)

    image = torch.from_numpy(np.stack(channels)[:, ::step, ::step, ::step].copy())[None]
    return sliding_window_inference(image, roi_size, 1, predict, overlap=0.5, mode="constant")[0].argmax(0).numpy()


@pytest.mark.bench
@pytest.mark.parametrize(("given", "wanted"), [(4, 1.5), (1, 3.0)])
def test_predict_is_faster_than_a_plain_sliding_window(segmenter, given, wanted):
    def patient():
        return [head(m) if m < given else None for m in range(len(BRATS_MRI))]

    seconds = {}
    volumes = patient()
    began = time.perf_counter()
    labels = segmenter.segment(volumes).labels
    seconds["ours"], peak = time.perf_counter() - began, peak_memory_mb()
    volumes = patient()
    began = time.perf_counter()
    plain = plainly(segmenter.network, volumes)
    seconds["plain"] = time.perf_counter() - began
    ratio = seconds["plain"] / seconds["ours"]
    print(
        f"\n{SIZE}, windows of {ROI}, {given} of 4 modalities, {torch.get_num_threads()} threads: "
        f"{', '.join(f'{name} {value:.1f} s' for name, value in seconds.items())}, ratio {ratio:.2f}, "
        f"our peak {peak:.0f} MB"
    )
    assert labels.shape == plain.shape
    assert ratio >= wanted


@pytest.mark.bench
@pytest.mark.parametrize("given", [4, 1])
def test_the_shipped_weights_see_a_head_at_2_mm(given):
    segmenter = Segmenter(find_bundle(), None, "cpu")
    assert segmenter.network is not None

    def patient():
        return [head(m) if m < given else None for m in range(len(BRATS_MRI))]

    volumes = patient()
    began = time.perf_counter()
    segmenter.segment(volumes)
    seconds = {"ours": time.perf_counter() - began}
    peak = peak_memory_mb()
    for step in (2, 1):
        volumes = patient()
        began = time.perf_counter()
        plainly(segmenter.network, volumes, segmenter.settings["roi_size"], step)
        seconds[f"plain at {step} mm"] = time.perf_counter() - began
    ours = seconds["ours"]
    print(
        f"\n{SIZE}, shipped weights, {given} of 4 modalities, {torch.get_num_threads()} threads: "
        + ", ".join(f"{name} {value:.1f} s (ratio {value / ours:.1f})" for name, value in seconds.items())
        + f", our peak {peak:.0f} MB"
    )
    assert seconds["plain at 1 mm"] > ours
