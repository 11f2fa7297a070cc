"""All combinations of one patient in one go, against one run a combination as the published evaluation does it.

Of the separate runs three are timed, and their time is multiplied by five. ``MONAI_PASSION_BENCH_SIZE=96,96,96`` makes
the patient smaller; without trained weights windows are half the patient, 80 at most.
"""

import math
import time

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_passion.bundle.facts import find_bundle
from monai_passion.evaluation.combinations import label_maps
from monai_passion.evaluation.metrics import BRATS_REGIONS, CHALLENGE, score_case
from monai_passion.inferers import sliding_window
from monai_passion.modalities import all_masks, combinations
from monai_passion.networks import RFNet
from monai_passion.prediction.segmenter import Segmenter
from monai_passion.system.memory import keep_freed_memory
from tests.benchmarks.plain import SIZE, full_volume_scores, patient, plainly
from tests.benchmarks.published import as_published, encode_everything
from tests.helpers.tasks import BRATS_MRI

ROI = tuple(min(80, math.ceil(n / 16) * 8) for n in SIZE)
NAMES = ["+".join(names) for names in combinations(BRATS_MRI)]
APART = (0, 7, 14)
"""The runs that are timed of the 15: of one, two and four modalities. As published, all cost the same."""
WHOLE = (-1, -1, -1)
WAYS = {"fp32": (ROI, "fp32"), "auto": (ROI, "auto"), "auto, windows as large as memory allows": (WHOLE, "auto")}
"""Of all combinations together: windows and precision."""


def ellipsoid(center, radii):
    """Center and radii are shares of the volume."""
    grid = np.meshgrid(*(np.arange(n) / n for n in SIZE), indexing="ij", sparse=True)
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, center, radii, strict=True)) <= 1


def tumor(shift=0.0):
    labels = np.zeros(SIZE, np.int64)
    for value, radius in ((2, 0.15), (3, 0.1), (1, 0.05)):
        labels[ellipsoid((0.42 + shift, 0.5, 0.52 - shift), (radius, radius * 1.2, radius))] = value
    return labels


@pytest.mark.bench
@torch.no_grad()
def test_all_combinations_are_four_times_faster_than_one_run_each_with_the_same_scores():
    rng = np.random.default_rng(0)
    head = ellipsoid((0.5, 0.5, 0.5), (0.3, 0.37, 0.45))
    image = torch.from_numpy((rng.normal(size=(1, 4, *SIZE)) * head).astype(np.float32))
    network = RFNet(num_modalities=4, num_classes=4, spatial_dims=3, width=8).eval()
    true = tumor()
    # an untrained network segments noise, so what is scored is made up; it is the same for both contenders
    preds = [tumor(0.002 * n) for n in range(len(NAMES))]
    seconds = {"network": 0.0, "scores": 0.0}

    slow_rows, slow_maps = [], []
    for n in APART:
        start = time.perf_counter()
        chosen = torch.tensor(all_masks(BRATS_MRI)[n])[None]

        def predict(windows, chosen=chosen):  # all encoders run on zeros, too, as published
            return network.decode(encode_everything(network, windows), chosen).logits[0].softmax(dim=1)

        given = image * chosen.view(1, 4, 1, 1, 1)
        with as_published():
            labels = SlidingWindowInferer(ROI, 1, 0.5, mode="constant")(given, predict)[0].argmax(dim=0)
        seconds["network"] += (time.perf_counter() - start) * len(NAMES) / len(APART)
        slow_maps.append(labels.to(torch.int16))
        start = time.perf_counter()
        slow_rows += full_volume_scores(preds[n], true)
        seconds["scores"] += (time.perf_counter() - start) * len(NAMES) / len(APART)

    keep_freed_memory()  # as every workflow does when it starts
    together, maps = {}, {}
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in head.nonzero())  # as preprocessing crops
    for name, (roi, precision) in WAYS.items():
        start = time.perf_counter()
        probability = sliding_window(roi, 0.5, combinations=all_masks(BRATS_MRI), precision=precision)(
            image[(..., *box)] if roi == WHOLE else image, network, available=torch.ones(1, 4, dtype=torch.bool)
        )
        maps[name] = label_maps(probability[0], len(NAMES))
        together[name] = time.perf_counter() - start
    start = time.perf_counter()
    rows = [
        row
        for name, pred in zip(NAMES, preds, strict=True)
        for row in score_case(pred, true, BRATS_REGIONS, (1, 1, 1), case="p", combination=name)
        if row["convention"] == "challenge"
    ]
    scores = time.perf_counter() - start

    inside = torch.from_numpy(head)  # windows outside the head are not run together
    for n, slow in zip(APART, slow_maps, strict=True):
        assert (slow[inside] == maps["fp32"][n][inside]).float().mean() > 0.95
    print(f"\n{SIZE}, {torch.get_num_threads()} threads: apart {seconds}, scores together {scores:.1f} s")
    ratios = {name: sum(seconds.values()) / (value + scores) for name, value in together.items()}
    for name, ratio in ratios.items():
        print(f"{name}: network {together[name]:.1f} s, ratio {ratio:.1f}")
    timed = [NAMES[n] for n in APART]
    found = [[row[name] for name in ("dice", "hd95", "assd", "nsd")] for row in rows if row["combination"] in timed]
    np.testing.assert_allclose(found, slow_rows, rtol=1e-9)
    assert ratios["fp32"] >= 4


@pytest.mark.bench
def test_all_combinations_by_the_shipped_weights_are_twelve_times_faster_than_one_run_each():
    """As `score` does it with its defaults, from images in memory to rows, against plain windows at 2 mm in fp32."""
    keep_freed_memory()
    segmenter = Segmenter(find_bundle(), device="cpu")
    volumes, true = patient(4), tumor()
    preds = {name: tumor(0.002 * n) for n, name in enumerate(NAMES)}  # made up, as above
    apart = {"network": 0.0, "scores": 0.0}
    for n in APART:
        given = [v if there else None for v, there in zip(volumes, all_masks(BRATS_MRI)[n], strict=True)]
        start = time.perf_counter()
        plainly(segmenter.network, given, segmenter.settings["roi_size"], step=2)
        apart["network"] += (time.perf_counter() - start) * len(NAMES) / len(APART)
        start = time.perf_counter()
        full_volume_scores(preds[NAMES[n]], true)
        apart["scores"] += (time.perf_counter() - start) * len(NAMES) / len(APART)
    start = time.perf_counter()
    result = segmenter.segment(volumes, "all")
    network = time.perf_counter() - start
    start = time.perf_counter()
    for name, pred in preds.items():
        score_case(pred, true, BRATS_REGIONS, (1, 1, 1), case="p", combination=name, conventions=[CHALLENGE])
    scores = time.perf_counter() - start
    ratio = sum(apart.values()) / (network + scores)
    print(f"\n{SIZE}, {torch.get_num_threads()} threads: apart {apart}")
    print(f"together: network {network:.1f} s, scores {scores:.1f} s, ratio {ratio:.1f}")
    assert len(result.combinations) == len(NAMES) - 1
    assert ratio >= 12
