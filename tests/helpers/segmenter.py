"""A segmenter that is none, for tests of what stands around a network."""

import numpy as np

from monai_passion.prediction.segmenter import Segmentation


class Threshold:
    """In place of `Segmenter`: ``label``, of a subclass, makes labels of the voxels of the first image."""

    settings = {"roi_size": [16, 16, 16], "overlap": 0.5, "precision": "fp32", "mirror_axes": []}  # noqa: RUF012
    facts: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, bundle, *, weights, **rest):
        self.bundle, self.weights = bundle, weights

    def segment(self, volumes, decode, probabilities, progress):
        first = next(volume for volume in volumes if volume is not None)
        return Segmentation(self.label(first.data).astype(np.uint8), None, {}, {})
