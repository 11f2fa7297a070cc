"""HD95 on the bounding box against the whole volume, classes against argmax, our inverse of spacing against MONAI's."""

import statistics

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_passion.evaluation.metrics import score_region
from monai_passion.transforms import Spacingd, most_probable_class
from tests.benchmarks.turns import take_turns

SHAPE = (240, 240, 155)
ROUNDS = 5


def full_volume_hd95(result, reference):
    """What medpy's ``hd95`` does: borders and distance maps of the whole volume, once each way."""

    def distances(one, other):
        cross = ndimage.generate_binary_structure(one.ndim, 1)
        one_border = one ^ ndimage.binary_erosion(one, structure=cross, iterations=1)
        other_border = other ^ ndimage.binary_erosion(other, structure=cross, iterations=1)
        return ndimage.distance_transform_edt(~other_border, sampling=(1, 1, 1))[one_border]

    return np.percentile(np.hstack((distances(result, reference), distances(reference, result))), 95)


def tumor_and_prediction():
    """A lobed whole tumor of some 120 mL, and a prediction that is shifted, eroded in places and has islands."""
    grid = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij", sparse=True)

    def ellipsoid(center, radii):
        return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, center, radii, strict=True)) <= 1

    true = ellipsoid((100, 120, 80), (32, 28, 24)) | ellipsoid((112, 135, 90), (20, 30, 22))
    pred = ellipsoid((104, 117, 83), (33, 32, 24))
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), 2)
    return pred ^ ((noise > 1.5 * noise.std()) & ellipsoid((104, 122, 83), (42, 44, 36))), true


@pytest.mark.bench
def test_hd95_is_ten_times_faster_than_on_the_full_volume_with_the_same_number():
    pred, true = tumor_and_prediction()
    contenders = {
        "full volume": lambda: full_volume_hd95(pred, true),
        "bounding box, with Dice, ASSD and NSD": lambda: score_region(pred, true, (1, 1, 1)).hd95,
    }
    seconds, results = take_turns(contenders, ROUNDS)
    slow, fast = (statistics.median(times) for times in seconds.values())
    print(
        f"\n{true.sum() / 1000:.0f} mL of {SHAPE}: "
        + ", ".join(f"{n} {statistics.median(t):.3f} s" for n, t in seconds.items())
    )
    print(f"ratio {slow / fast:.1f}, HD95 {results['full volume']:.4f} mm")
    assert len(set(results.values())) == 1
    assert slow / fast >= 10


@pytest.mark.bench
def test_the_most_probable_class_is_three_times_faster_than_argmax():
    probability = torch.rand(4, *SHAPE)
    contenders = {"argmax": lambda: probability.argmax(0), "ours": lambda: most_probable_class(probability)}
    seconds, results = take_turns(contenders, ROUNDS)
    slow, fast = (statistics.median(times) for times in seconds.values())
    print(f"\n{torch.get_num_threads()} threads: argmax {slow:.2f} s, ours {fast:.2f} s, ratio {slow / fast:.1f}")
    assert torch.equal(*(result.long() for result in results.values()))
    assert slow / fast >= 3


@pytest.mark.bench
def test_probabilities_come_back_to_the_grid_of_the_files_three_times_faster_than_with_monai():
    image = MetaTensor(torch.rand(1, 140, 170, 140), affine=torch.eye(4))

    def back(transform):
        made = transform({"image": image})["image"]
        probability = torch.rand(4, *made.shape[1:], generator=torch.Generator().manual_seed(0))
        history = {"affine": made.affine, "applied_operations": made.applied_operations}
        return lambda: transform.inverse({"image": MetaTensor(probability, **history).clone()})["image"]

    contenders = {kind.__module__.split(".")[0]: back(kind("image", (2, 2, 2))) for kind in (mt.Spacingd, Spacingd)}
    seconds, results = take_turns(contenders, ROUNDS)
    slow, fast = (statistics.median(times) for times in seconds.values())
    print(f"\n{torch.get_num_threads()} threads: MONAI {slow:.2f} s, ours {fast:.3f} s, ratio {slow / fast:.1f}")
    torch.testing.assert_close(*(result.as_tensor() for result in results.values()), atol=1e-4, rtol=0)
    assert slow / fast >= 3
