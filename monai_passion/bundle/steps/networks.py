"""The networks that a bundle trains, learns from and segments with, once it is known that they fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from monai_passion.bundle.arguments import setting_flag
from monai_passion.bundle.weights import check_settings, check_task, trained_unknown
from monai_passion.errors import UsageError, WeightsError
from monai_passion.losses.base import MultiModalLoss
from monai_passion.networks.backbone import strides_of, suits
from monai_passion.networks.weights import load_into, load_weights, unwrapped
from monai_passion.tasks import TaskLike, load_task

__all__ = ["initial_network", "load_network", "load_teacher", "objective"]

logger = logging.getLogger(__name__)


def initial_network(
    network: nn.Module, weights: str | None, modalities: Sequence[str], settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """``network`` as a training starts with it: at random, or with the ``weights`` of another training of its kind.

    Their method, spacing and sizes may be others than here; a checkpoint that is resumed takes precedence.

    Args:
        settings: of the configuration; its crops and windows must suit the network.

    Raises:
        UsageError: they do not.
        WeightsError: damaged weights, or of another network or other modalities.
    """
    _check_windows(network, settings or {})
    if weights:
        _check_modalities(weights, load_into(network, weights), modalities)
        logger.info("starting from the weights %s", weights)
    return network


def load_network(
    network: nn.Module,
    weights: str,
    modalities: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    task: TaskLike | None = None,
) -> nn.Module:
    """``network`` with trained weights, in evaluation mode, once they are known to fit.

    Args:
        settings: of the configuration, which must be those that the weights were trained with.
        task: what is segmented, see `monai_passion.bundle.weights.check_task`.

    Raises:
        UsageError: windows that do not suit the network.
        WeightsError: damaged weights, or of another network, other modalities, settings or another task.
    """
    _check_windows(network, settings or {})
    trained = load_weights(weights)[1]
    if task is not None:
        check_task(weights, trained, load_task(task))
    check_settings(weights, trained, settings or {})
    facts = load_into(network, weights)
    if not facts:
        logger.warning("warning: %s", trained_unknown(weights))
    _check_modalities(weights, facts, modalities)
    return network.eval()


def load_teacher(
    network: nn.Module, weights: str, modalities: Sequence[str], settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """The frozen teacher of a distillation, see `load_network`; of ``settings`` it must have the size of voxels.

    Raises:
        UsageError: no ``weights`` given; the message says how to make them.
    """
    if not weights:
        raise UsageError(
            "no teacher given; train one with every modality (methods/baseline.json and missing/complete.json, in its "
            f"own ckpt_dir), then add {setting_flag('teacher_weights', 'CKPT_DIR/model.pt')}"
        )
    own = {key: value for key, value in (settings or {}).items() if key in ("spacing", "pixel_size", "coarsen")}
    return load_network(network, weights, modalities, own).requires_grad_(False)


def objective(loss: nn.Module, network: nn.Module) -> nn.Module:
    """``loss``, once it is sure that ``network`` computes all that it learns from.

    Raises:
        UsageError: it does not; see `monai_passion.losses.base.MultiModalLoss.check_network`.
    """
    if isinstance(loss, MultiModalLoss):
        loss.check_network(unwrapped(network))
    return loss


def _check_windows(network: nn.Module, settings: Mapping[str, Any]) -> None:
    for name in ("crop_size", "roi_size"):
        if size := settings.get(name):
            strides = strides_of(network, getattr(network, "spatial_dims", len(size)))
            if len(size) != len(strides):
                raise UsageError(f"{name} is {list(size)}; give {len(strides)} numbers, one per axis")
            if not suits(size, strides):
                kind = type(network).__name__
                raise UsageError(f"{name} is {list(size)}; {kind} needs multiples of {strides}, at least twice that")


def _check_modalities(weights: str, facts: Mapping[str, Any], modalities: Sequence[str]) -> None:
    trained_on = facts.get("modalities")
    if trained_on is not None and list(trained_on) != list(modalities):
        raise WeightsError(f"{weights} belong to the modalities {trained_on}, not {list(modalities)}")
