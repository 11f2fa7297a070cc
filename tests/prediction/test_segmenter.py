import random
import sys

import numpy as np
import pytest
import torch

from monai_passion.errors import UsageError
from monai_passion.prediction.segmenter import DEFAULT_BUNDLE, Segmenter, find_bundle


def state():
    """What a program may set for itself, and a library must not."""
    cudnn = torch.backends.cudnn
    return (
        sys.excepthook,
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        cudnn.deterministic,
        cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
    )


def test_a_segmenter_in_a_notebook_changes_nothing_in_its_host(weights, monkeypatch):
    monkeypatch.setattr("monai_passion.system.memory.keep_freed_memory", lambda: pytest.fail("mallopt was called"))
    before = state()
    segmenter = Segmenter(find_bundle(), weights, "cpu")
    assert segmenter.network is not None
    assert state() == before


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("rfnet", DEFAULT_BUNDLE),
        ("mmformer", "brats_mri_segmentation_mmformer_passion"),
        ("myops_rfnet", "myops_cmr_segmentation_rfnet_passion"),
        ("RFNet", DEFAULT_BUNDLE),
    ],
)
def test_a_bundle_goes_by_a_part_of_its_name(short, full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_bundle(short).name == full


@pytest.mark.parametrize("name", ["passion", "rfnets", "cmr"])
def test_a_name_that_means_none_or_several_is_refused_with_those_there_are(name):
    with pytest.raises(UsageError, match=DEFAULT_BUNDLE):
        find_bundle(name)
