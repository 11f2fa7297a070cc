"""Images for tests."""

import numpy as np
from scipy import ndimage


def smooth_noise(shape, seed=0, mean=1.5, deviation=0.3):
    """As noise, but alike over some voxels: what untrained weights make of it has few pieces, quick to measure."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3, mode="wrap")
    return (mean + deviation * noise / noise.std()).astype(np.float32)
