"""Inference with missing modalities: encode a patient's windows once, decode any combinations of what is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer
from monai.utils import convert_to_dst_type
from torch import Tensor, nn

from monai_passion.networks.backbone import MultiModalBackbone

__all__ = ["IncompleteModalityInferer", "count_windows", "find_available", "sliding_window"]


def find_available(image: Tensor) -> Tensor:
    """Which channels of an image (M, *spatial) hold a modality: those that are not constant over the whole volume.

    Only for images that come without ``available``; never judge a window, which may lie outside the head.

    Returns:
        (M,) bool.
    """
    flat = image.flatten(1)
    return flat.amax(dim=1) > flat.amin(dim=1)


class IncompleteModalityInferer(Inferer):
    """Wraps any MONAI inferer for networks that take ``(image, available)``, whatever each sample lacks.

    Windows in which every available channel is zero lie outside the head: they are background, and not computed.

    Args:
        inferer: runs the network over an image; a `monai.inferers.SlidingWindowInferer` most of the time.
        combinations: None to fuse all that is available (the output has K channels), or C masks of M bools: each
            sample is encoded once and decoded with each of them (C * K channels, combination-major). A combination
            with a modality that the sample lacks gives NaN.
        skip_empty: leave out the windows that are zero everywhere.
        on_windows: called with the number of windows that were just done or left out; see `count_windows`.

    The result holds softmax probabilities averaged over overlapping windows, (B, K or C * K, *spatial).
    """

    def __init__(
        self,
        inferer: Inferer,
        combinations: Sequence[Sequence[bool]] | None = None,
        skip_empty: bool = True,
        on_windows: Callable[[int], object] = lambda done: None,
    ) -> None:
        super().__init__()
        self.on_windows = on_windows
        self.inferer = inferer
        self.combinations = combinations
        self.skip_empty = skip_empty

    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, *args: Any, available: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """
        Args:
            inputs: (B, M, *spatial).
            network: a `MultiModalBackbone`, or without ``combinations`` any network called as (image, available).
            available: (B, M) bool; where it is None a channel that is constant over the volume counts as absent.

        Raises:
            ValueError: a sample has no modality at all.
        """
        image = inputs.as_subclass(Tensor) if type(inputs) is not Tensor else inputs
        results = []
        for b in range(image.shape[0]):
            sample = image[b : b + 1]
            has = find_available(sample[0]) if available is None else torch.as_tensor(available[b]).bool()
            has = has.to(image.device)
            if not bool(has.any()):
                raise ValueError("this image has no modality: every channel is constant or marked as absent")
            sample = sample * has.reshape(1, -1, *(1,) * (sample.ndim - 2)) if not bool(has.all()) else sample
            results.append(self.inferer(sample, self._predictor(network, has), *args, **kwargs))
        result = torch.cat(results) if len(results) > 1 else results[0]
        # As MONAI's own inferers do: without the image's history `Invertd` would leave the result as it is.
        return convert_to_dst_type(result, inputs, dtype=result.dtype, device=result.device)[0]

    def _predictor(self, network: nn.Module, available: Tensor) -> Any:
        """A function of windows (n, M, *roi) alone, with this sample's modalities bound to it."""

        def predict(windows: Tensor) -> Tensor:
            result = self._run_filled(network, windows, available.to(windows.device))
            self.on_windows(len(windows))
            return result

        return predict

    def _run_filled(self, network: nn.Module, windows: Tensor, available: Tensor) -> Tensor:
        """`_run` on the windows that are not empty, background for the others."""
        run = windows[:, available].flatten(1).any(dim=1) if self.skip_empty else windows.new_ones(len(windows)).bool()
        if bool(run.all()):
            return self._run(network, windows, available)
        channels = network_classes(network) * (1 if self.combinations is None else len(self.combinations))
        result = windows.new_zeros(len(windows), channels, *windows.shape[2:])
        result[:, :: network_classes(network)] = 1.0
        if bool(run.any()):
            result[run] = self._run(network, windows[run], available).to(result.dtype)
        return result

    def _run(self, network: nn.Module, windows: Tensor, available: Tensor) -> Tensor:
        has = available.expand(len(windows), -1)
        if self.combinations is None:
            return network(windows, has).softmax(dim=1)
        assert isinstance(network, MultiModalBackbone)
        features = network.encode(windows, has)
        decoded = []
        for combination in self.combinations:
            mask = torch.tensor(combination, device=windows.device)
            if bool((mask & ~available).any()):
                decoded.append(windows.new_full((len(windows), network.num_classes, *windows.shape[2:]), torch.nan))
            else:
                decoded.append(network.decode(features, mask.expand(len(windows), -1)).logits[0].softmax(dim=1))
        return torch.cat(decoded, dim=1)


def network_classes(network: nn.Module) -> int:
    """K of a network that may be wrapped (DataParallel, compiled)."""
    for candidate in (network, getattr(network, "module", None), getattr(network, "_orig_mod", None)):
        classes = getattr(candidate, "num_classes", None)
        if isinstance(classes, int):
            return classes
    raise ValueError(f"{type(network).__name__} does not say its num_classes; use skip_empty=False")


def sliding_window(
    roi_size: Sequence[int],
    overlap: float = 0.5,
    batch_size: int = 1,
    combinations: Sequence[Sequence[bool]] | None = None,
    device: torch.device | str | None = None,
    sw_device: torch.device | str | None = None,
) -> IncompleteModalityInferer:
    """The inferer of the bundles: overlapping windows of ``roi_size`` voxels, equally weighted as published.

    The result is put together on ``device``, the windows are computed on ``sw_device``; both default to the image's.

    A ``roi_size`` of two values is for networks that see slices: then images are volumes all the same, their slices
    along the third axis are inferred one by one, and the result is a volume again.
    """
    windows = {"roi_size": tuple(roi_size), "sw_batch_size": batch_size, "overlap": overlap, "mode": "constant"}
    windows |= {"device": device, "sw_device": sw_device}
    inner = SliceInferer(spatial_dim=2, **windows) if len(roi_size) == 2 else SlidingWindowInferer(**windows)
    return IncompleteModalityInferer(inner, combinations)


def count_windows(shape: Sequence[int], roi_size: Sequence[int], overlap: float) -> int:
    """How many windows an image (X, Y, Z) has; with a ``roi_size`` of two values, on all its slices together."""
    windows = math.prod(shape[len(roi_size) :])
    for size, roi in zip(shape, roi_size, strict=False):
        windows *= 1 + math.ceil(max(size - roi, 0) / max(int(roi * (1 - overlap)), 1))
    return windows
