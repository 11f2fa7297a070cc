"""Inference with missing modalities: encode each window once, decode any combinations of the available modalities."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from itertools import combinations as subsets_of_size
from typing import Any

import torch
from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer
from monai.utils import BlendMode, convert_to_dst_type, ensure_tuple
from torch import Tensor, nn

from monai_passion.networks.backbone import MultiModalBackbone, strides_of
from monai_passion.networks.precision import autocast, to_single
from monai_passion.networks.weights import unwrapped

__all__ = [
    "IncompleteModalityInferer",
    "PrecisionInferer",
    "count_windows",
    "find_available",
    "largest_window",
    "sliding_window",
]

Combinations = Sequence[Sequence[bool]]

MEMORY = 4e9
"""Most bytes that a window of the largest size may need."""
MAPS_PER_MODALITY, MAPS_OF_DECODER = 3, 20
"""Maps, in units of the first level's, that a backbone holds at once per modality, and while it decodes.

Together 32 for four modalities, where RFNet was seen to need 29, HeteroModalUNet 25, mmFormer 24 and M2FTrans 21.
"""


def find_available(image: Tensor) -> Tensor:
    """The channels of an image (M, *spatial) that hold a modality: those that are not constant over the volume.

    Use it only for images without ``available``, and never for a window, which may lie outside the head.

    Returns:
        (M,) bool.
    """
    flat = image.flatten(1)
    return flat.amax(dim=1) > flat.amin(dim=1)


class PrecisionInferer(Inferer):
    """One pass of the network, in which convolutions and products of matrices are computed in ``precision``.

    It always returns float32, so losses are in single precision.

    Args:
        precision: see `monai_passion.networks.precision.choose_precision`.
    """

    def __init__(self, precision: str = "fp32") -> None:
        super().__init__()
        self.precision = precision

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with autocast(self.precision, inputs.device):
            return to_single(network(inputs, *args, **kwargs))


class IncompleteModalityInferer(Inferer):
    """Wraps any MONAI inferer for networks that take ``(image, available)``.

    Windows in which every available channel is zero lie outside the head; they become background without being
    computed.

    Args:
        inferer: runs the network over an image; usually a `monai.inferers.SlidingWindowInferer`. A size in its
            ``roi_size`` that is not positive stands for a window as large as the image and memory allow
            (`largest_window`); if there are several such windows, their centers weigh more than their edges.
        combinations: None to fuse all available modalities (the output has K channels), or C masks of M bools: each
            sample is encoded once and decoded with each of them (C * K channels, combination-major). A combination with
            a modality that the sample lacks gives NaN.
        skip_empty: do not compute windows that are zero everywhere.
        precision: of the network, see `monai_passion.networks.precision.choose_precision`.
        mirror_axes: spatial axes along which the image is mirrored too, and the results averaged (test-time
            augmentation): n axes take 2^n times as long.

    The result holds softmax probabilities averaged over overlapping windows, (B, K or C * K, *spatial), float32.
    """

    def __init__(
        self,
        inferer: Inferer,
        combinations: Combinations | None = None,
        skip_empty: bool = True,
        precision: str = "fp32",
        mirror_axes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.inferer = inferer
        self.mirror_axes = tuple(mirror_axes)
        self.combinations = combinations
        self.skip_empty = skip_empty
        self.precision = precision

    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: nn.Module,
        *,
        available: Tensor | None = None,
        combinations: Combinations | None = None,
        roi_size: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Callable[[float], object] = lambda share: None,
        **others: Any,
    ) -> Tensor:
        """Segment a batch of images.

        Args:
            inputs: (B, M, *spatial).
            network: a `MultiModalBackbone`, or without ``combinations`` any network called as (image, available).
            available: (B, M) bool; where it is None a channel that is constant over the volume counts as absent.
            combinations, roi_size, batch_size: for this call, in place of the inferer's own.
            progress: called with the share of the windows that is done, in (0, 1], after each batch of them.
            others: other keys of an item, which MONAI Deploy passes; not used.

        Raises:
            ValueError: a sample has no modality at all.
        """
        image = inputs.as_subclass(Tensor) if type(inputs) is not Tensor else inputs
        combinations = self.combinations if combinations is None else combinations
        inferer = self._sized(image, network, combinations, roi_size, batch_size)
        roi_size = getattr(inferer, "roi_size", image.shape[2:])
        sizes = range(len(self.mirror_axes) + 1)
        flips = chain.from_iterable(subsets_of_size(self.mirror_axes, size) for size in sizes)
        views = [tuple(2 + axis for axis in axes) for axes in flips]
        total = len(views) * len(image) * count_windows(image.shape[2:], roi_size, getattr(inferer, "overlap", 0.0))
        done = 0

        def predict(available: Tensor, windows: Tensor) -> Tensor:
            nonlocal done
            result = self._run_filled(network, windows, available.to(windows.device), combinations)
            done += len(windows)
            progress(min(done / total, 1.0))
            return result

        results = []
        for b in range(image.shape[0]):
            sample = image[b : b + 1]
            has = find_available(sample[0]) if available is None else torch.as_tensor(available[b]).bool()
            has = has.to(image.device)
            if not bool(has.any()):
                raise ValueError("this image has no modality: every channel is constant or marked as absent")
            sample = sample * has.reshape(1, -1, *(1,) * (sample.ndim - 2)) if not bool(has.all()) else sample
            seen = (inferer(sample.flip(view), partial(predict, has)).flip(view) for view in views)
            results.append(torch.stack(list(seen)).mean(dim=0) if len(views) > 1 else next(seen))
        result = torch.cat(results) if len(results) > 1 else results[0]
        # As MONAI's own inferers do: without the image's history `Invertd` would leave the result as it is.
        return convert_to_dst_type(result, inputs, dtype=result.dtype, device=result.device)[0]

    def _sized(
        self,
        image: Tensor,
        network: nn.Module,
        combinations: Combinations | None,
        roi_size: Sequence[int] | None,
        batch_size: int | None,
    ) -> Any:
        """The inferer with windows for this image."""
        inferer: Any = copy.copy(self.inferer)
        if batch_size is not None:
            inferer.sw_batch_size = batch_size
        if roi_size is not None:
            _set_window(inferer, roi_size)
        wanted = ensure_tuple(getattr(inferer, "roi_size", 1))
        if min(wanted) > 0:
            return inferer
        shape = tuple(image.shape[2 : 2 + len(wanted)])
        decodes = 1 if combinations is None else len(combinations)
        _set_window(inferer, largest_window(shape, _backbone(network), inferer.overlap, decodes, roi_size=wanted))
        if count_windows(shape, inferer.roi_size, inferer.overlap) > 1:
            inferer.mode = BlendMode.GAUSSIAN
        return inferer

    def _run_filled(
        self, network: nn.Module, windows: Tensor, available: Tensor, combinations: Combinations | None
    ) -> Tensor:
        """`_run` on the windows that are not empty, background for the others, also of each combination."""
        if not self.skip_empty:
            return self._run(network, windows, available, combinations)
        shown = windows.flatten(2).any(dim=2) & available
        if bool(shown[:, available].all()):
            return self._run(network, windows, available, combinations)
        run, classes = shown.any(dim=1), _backbone(network).num_classes
        masks = [available.tolist()] if combinations is None else combinations
        result = windows.new_zeros(len(windows), len(masks) * classes, *windows.shape[2:])
        if bool(run.any()):
            result[run] = self._run(network, windows[run], available, combinations).to(result.dtype)
        for k, mask in enumerate(masks):
            own = result[:, k * classes : (k + 1) * classes]
            if not _has_all(mask, available):
                own[:] = torch.nan
                continue
            empty = ~shown[:, list(mask)].any(dim=1)
            own[empty] = 0
            own[empty, 0] = 1
        return result

    def _run(self, network: nn.Module, windows: Tensor, available: Tensor, combinations: Combinations | None) -> Tensor:
        has = available.expand(len(windows), -1)
        with autocast(self.precision, windows.device):
            if combinations is None:
                return to_single(network(windows, has)).softmax(dim=1)
            assert isinstance(network, MultiModalBackbone)
            features = network.encode(windows, has)
            decoded = []
            for combination in combinations:
                mask = torch.tensor(combination, device=windows.device)
                if not _has_all(combination, available):
                    decoded.append(windows.new_full((len(windows), network.num_classes, *windows.shape[2:]), torch.nan))
                else:
                    logits = network.decode(features, mask.expand(len(windows), -1)).logits[0]
                    decoded.append(to_single(logits).softmax(dim=1))
            return torch.cat(decoded, dim=1)


def _set_window(inferer: Any, roi_size: Sequence[int]) -> None:
    inferer.roi_size = tuple(roi_size)
    if hasattr(inferer, "orig_roi_size"):  # what MONAI's `SliceInferer` goes by
        inferer.orig_roi_size = tuple(roi_size)


def _has_all(combination: Sequence[bool], available: Tensor) -> bool:
    """Whether a patient with the modalities ``available`` (M,) has all of a combination."""
    return not any(wanted and not has for wanted, has in zip(combination, available.tolist(), strict=True))


def _backbone(network: nn.Module) -> Any:
    """The network itself, which must say how many classes it has."""
    backbone = unwrapped(network)
    if not isinstance(getattr(backbone, "num_classes", None), int):
        raise ValueError(f"{type(network).__name__} does not say its num_classes; use skip_empty=False")
    return backbone


def largest_window(
    shape: Sequence[int],
    network: MultiModalBackbone,
    overlap: float,
    decodes: int = 1,
    memory: float | None = None,
    roi_size: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """The largest window for an image (*spatial) that needs at most ``memory`` bytes: the image or overlapping halves.

    Sizes are multiples of the network's stride, at least twice that; a window may be larger than the image, which the
    sliding window pads. The estimate counts the maps that the network holds at once, and the results: per voxel
    (`MAPS_PER_MODALITY` M + `MAPS_OF_DECODER`) channels of the first level and 3 values per class and decode.

    Args:
        memory: `MEMORY` by default.
        roi_size: positive sizes are kept on their axes.
    """
    memory = MEMORY if memory is None else memory
    kept = tuple(roi_size or (-1,) * len(shape))
    strides = strides_of(network, len(shape))
    maps = MAPS_PER_MODALITY * network.num_modalities + MAPS_OF_DECODER
    values = network.encoder_channels[0] * maps + 3 * decodes * network.num_classes

    def fit(size: float, step: int) -> int:
        return max(math.ceil(size / step), 2) * step

    window = [keep if keep > 0 else fit(size, step) for size, step, keep in zip(shape, strides, kept, strict=True)]
    while 4 * values * math.prod(window) > memory:
        smaller = {
            axis: fit(size / (2 - overlap), strides[axis])
            for axis, (size, keep) in enumerate(zip(window, kept, strict=True))
            if keep <= 0 and fit(size / (2 - overlap), strides[axis]) < size
        }
        if not smaller:
            break
        longest = max(smaller, key=lambda axis: window[axis])
        window[longest] = smaller[longest]
    return tuple(window)


def sliding_window(
    roi_size: Sequence[int],
    overlap: float = 0.5,
    batch_size: int = 1,
    combinations: Combinations | None = None,
    precision: str = "fp32",
    mirror_axes: Sequence[int] = (),
    device: torch.device | str | None = None,
    sw_device: torch.device | str | None = None,
) -> IncompleteModalityInferer:
    """The inferer of the bundles: overlapping windows of ``roi_size`` voxels, equally weighted as published.

    A ``roi_size`` of two values is for networks that see slices: images are still volumes, their slices along the third
    axis are inferred one by one, and the result is a volume. Sizes of -1 are for windows as large as memory allows.
    ``device`` holds the result and ``sw_device`` the windows; by default both are the image's.
    """
    windows: dict[str, Any] = {
        "roi_size": tuple(roi_size),
        "sw_batch_size": batch_size,
        "overlap": overlap,
        "mode": "constant",
        "device": device,
        "sw_device": sw_device,
    }
    inner = SliceInferer(spatial_dim=2, **windows) if len(roi_size) == 2 else SlidingWindowInferer(**windows)
    return IncompleteModalityInferer(inner, combinations, precision=precision, mirror_axes=mirror_axes)


def count_windows(shape: Sequence[int], roi_size: Sequence[int], overlap: float) -> int:
    """The number of windows of an image (X, Y, Z); with a ``roi_size`` of two values, of all its slices together."""
    windows = math.prod(shape[len(roi_size) :])
    for size, roi in zip(shape, roi_size, strict=False):
        windows *= 1 + math.ceil(max(size - roi, 0) / max(int(roi * (1 - overlap)), 1))
    return windows
