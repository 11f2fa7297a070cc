"""The plain way to segment and to score: MONAI's sliding window over the whole volume, and whole distance maps.

``MONAI_PASSION_BENCH_SIZE=96,96,64`` makes the patient smaller.
"""

import os

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage

from monai_passion.data.nifti import Volume
from monai_passion.evaluation.metrics import BRATS_REGIONS
from tests.helpers.tasks import BRATS_MRI

SIZE = tuple(map(int, os.environ.get("MONAI_PASSION_BENCH_SIZE", "240,240,155").split(",")))
RADII = (0.29, 0.36, 0.45)
"""Of a brain in the grid of BraTS, as parts of it."""


def patient(given):
    return [head(m) if m < given else None for m in range(len(BRATS_MRI))]


def head(seed):
    grid = np.meshgrid(*(np.arange(n) / n - 0.5 for n in SIZE), indexing="ij", sparse=True)
    inside = sum((axis / r) ** 2 for axis, r in zip(grid, RADII, strict=True)) < 1
    values = np.random.default_rng(seed).normal(100, 20, SIZE)
    return Volume(np.where(inside, values, 0).astype(np.float32), np.eye(4), None, ())


@torch.no_grad()
def plainly(network, volumes, roi_size, step=1, head_alone=False):
    """Zero for what is absent, each channel normalized within its head, all four encoders in every window.

    Of voxels ``step`` mm wide. With ``head_alone`` the image is cropped to the head, and what is absent is not encoded.
    """
    channels = [np.zeros(SIZE, np.float32) if v is None else v.data.copy() for v in volumes]
    for channel in channels:
        inside = channel != 0
        if inside.any():
            channel[inside] = (channel[inside] - channel[inside].mean()) / channel[inside].std()
    encoded = torch.tensor([[v is not None or not head_alone for v in volumes]])
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.any(channels, axis=0).nonzero())

    def predict(windows):
        return network(windows, encoded.expand(len(windows), -1)).softmax(dim=1)

    stacked = np.stack(channels)[(slice(None), *box)] if head_alone else np.stack(channels)
    image = torch.from_numpy(stacked[:, ::step, ::step, ::step].copy())[None]
    return sliding_window_inference(image, roi_size, 1, predict, overlap=0.5, mode="constant")[0].argmax(0).numpy()


def full_volume_scores(pred, true):
    """Dice, HD95, ASSD and NSD from distance maps of the whole volume, a pair for each region."""
    cross = ndimage.generate_binary_structure(3, 1)
    scores = []
    for labels in BRATS_REGIONS.values():
        p, t = np.isin(pred, labels), np.isin(true, labels)
        borders = [region ^ ndimage.binary_erosion(region, cross) for region in (p, t)]
        maps = [ndimage.distance_transform_edt(~border, sampling=(1, 1, 1)) for border in borders]
        d = np.hstack((maps[1][borders[0]], maps[0][borders[1]]))
        dice = 2 * (p & t).sum() / (p.sum() + t.sum())
        scores.append((dice, np.percentile(d, 95), d.mean(), np.mean(d <= 1)))
    return scores
