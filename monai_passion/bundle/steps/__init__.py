"""The named steps of a training, an evaluation, an inference: all that the configurations of bundles call."""

from monai_passion import __version__
from monai_passion.bundle.steps.data import (
    crop_shares,
    evaluation_data,
    inference_data,
    prepare_batch,
    presence_facts,
    training_data,
    training_donors,
    with_healthy,
)
from monai_passion.bundle.steps.networks import initial_network, load_network, load_teacher, objective
from monai_passion.bundle.steps.results import describe_run, keep_summary, result_name
from monai_passion.bundle.steps.startup import find_bundle_root, keep_log, start
from monai_passion.bundle.weights import find_weights
from monai_passion.data.cache import cached
from monai_passion.data.geometry import NEAR
from monai_passion.data.sampling import combination_items

__all__ = [
    "NEAR",
    "__version__",
    "cached",
    "combination_items",
    "crop_shares",
    "describe_run",
    "evaluation_data",
    "find_bundle_root",
    "find_weights",
    "inference_data",
    "initial_network",
    "keep_log",
    "keep_summary",
    "load_network",
    "load_teacher",
    "objective",
    "prepare_batch",
    "presence_facts",
    "result_name",
    "start",
    "training_data",
    "training_donors",
    "with_healthy",
]
