"""A bundle as `predict` needs it: what it says of itself, and its own inference configuration at work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_passion.errors import PassionError, ResourceError, UsageError, WeightsError
from monai_passion.modalities import all_masks, combination_name
from monai_passion.prediction.trust import is_plain

if TYPE_CHECKING:  # torch and MONAI take seconds to import, which a mistyped path need not cost
    from torch import nn

    from monai_passion.data.nifti import Volume

__all__ = ["DEFAULT_BUNDLE", "BundleFacts", "Segmentation", "Segmenter", "find_bundle"]

DEFAULT_BUNDLE = "brats_mri_segmentation_rfnet_passion"
FOLDERS = (Path("bundles"), Path(__file__).parents[2] / "bundles")
"""Where a bundle is looked for by its name."""


class BundleFacts(NamedTuple):
    """What a bundle's files say, read without torch."""

    path: Path
    name: str
    version: str
    modalities: tuple[str, ...]
    """In channel order."""
    regions: Mapping[str, Sequence[int]]
    """Region -> the classes of the network whose union it is."""
    class_names: tuple[str, ...]
    """Of each class, background first."""


def find_bundle(bundle: str | None = None) -> BundleFacts:
    """The facts of a bundle, given by its folder or by its name; of ``DEFAULT_BUNDLE`` for None.

    Raises:
        UsageError: it is not there, or is no bundle of this package.
    """
    wanted = bundle or DEFAULT_BUNDLE
    places = [Path(wanted), *(folder / wanted for folder in FOLDERS)]
    path = next((place for place in places if (place / "configs" / "inference.json").is_file()), None)
    if path is None:
        known = sorted({p.parents[1].name for folder in FOLDERS for p in folder.glob("*/configs/inference.json")})
        there = f"; found here: {', '.join(known)}" if known else ""
        raise UsageError(f"no bundle '{wanted}' (a folder with configs/inference.json); give its path{there}")
    config, metadata = (_read_json(path / "configs" / name) for name in ("inference.json", "metadata.json"))
    try:
        channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        return BundleFacts(
            path=path,
            name=str(config["bundle_name"]),
            version=str(metadata["version"]),
            modalities=tuple(config["modalities"]),
            regions=dict(config["regions"]),
            class_names=tuple(channels[str(k)] for k in range(int(config["num_classes"]))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no bundle of monai_passion ({error} is not as expected); give another") from error


class Segmentation(NamedTuple):
    """What `Segmenter.segment` makes of a patient."""

    labels: NDArray[np.unsignedinteger]
    """(X, Y, Z)."""
    uncertainty: NDArray[np.float32] | None
    """(X, Y, Z) in [0, 1], 0 outside the head."""
    agreement: dict[str, dict[str, float]]
    """Modality -> region -> Dice of its decode alone with the fused one."""
    combinations: dict[str, NDArray[np.unsignedinteger]]
    """Combination -> labels, of all but the fused one."""


class Segmenter:
    """The inference of a bundle, by its own ``configs/inference.json``, on volumes in memory.

    Args:
        bundle: from `find_bundle`.
        weights: a file; None for the one in the bundle's ``models``.
        device: as torch names it; None for what the bundle chooses.
        roi_size: edges of the sliding window in voxels, one for all axes or one an axis; None for the bundle's.
        overlap: of neighbouring windows, in [0, 1); None for the bundle's.

    Raises:
        WeightsError: there are no weights, or not for this network.
        UsageError: no such device; a window that the network does not take.
    """

    def __init__(
        self,
        bundle: BundleFacts,
        weights: Path | None = None,
        device: str | None = None,
        roi_size: Sequence[int] | None = None,
        overlap: float | None = None,
    ) -> None:
        from monai.bundle import ConfigParser

        from monai_passion.networks.weights import load_weights
        from monai_passion.workflow import find_weights

        self.bundle = bundle
        self.weights = Path(weights or find_weights(bundle.path / "models"))
        self.parser = ConfigParser()
        self.parser.read_config(str(bundle.path / "configs" / "inference.json"))
        # What the weights were trained with goes before what the bundle says.
        _, facts = load_weights(self.weights)
        settings = facts.get("settings", {})
        if not is_plain(settings):  # else what came with the weights would run as part of the configuration
            raise WeightsError(f"{self.weights} has settings other than numbers and plain text; get it elsewhere")
        changes: dict[str, Any] = {
            **settings,
            "bundle_root": str(bundle.path),
            "weights": str(self.weights),
            "overlap": overlap,
        }
        if device is not None:
            changes["device"] = f"$torch.device('{_usable_device(device)}')"
        if roi_size is not None:
            axes = int(self.parser["spatial_dims"])
            changes["roi_size"] = list(roi_size) * (axes if len(roi_size) == 1 else 1)
            if len(changes["roi_size"]) != axes:
                raise UsageError(f"--roi-size has {len(roi_size)} values; give one, or {axes}")
        self.parser.update({key: value for key, value in changes.items() if value is not None})
        self._content("initialize")
        self._check_window()

    @cached_property
    def network(self) -> nn.Module:
        """With the weights in it, on the device."""
        network: nn.Module = self._content("network")
        return network

    @property
    def device(self) -> str:
        return str(self._content("device"))

    @property
    def settings(self) -> dict[str, Any]:
        """The knobs that change the result."""
        return {key: self._content(key) for key in ("roi_size", "overlap")}

    @cached_property
    def label_values(self) -> tuple[int, ...]:
        """The value that each class has in the files, background first."""
        import torch

        classes = torch.arange(len(self.bundle.class_names), dtype=torch.float32)
        restored = self._content("restore_labels")({"pred": classes[None]})["pred"]
        return tuple(int(value) for value in restored.flatten())

    def segment(self, volumes: Sequence[Volume | None], decode: str = "fused") -> Segmentation:
        """Segment one patient; the result lies on the grid of the volumes, with the label values of the data set.

        Every modality is encoded once, whatever is decoded; the fused label map is the same bit for bit.

        Args:
            volumes: one a modality in channel order, None where absent, all on one grid.
            decode: ``"fused"``, what is there together; ``"alone"``, each modality alone too, for the uncertainty;
                ``"all"``, every combination of what is there.

        Raises:
            ResourceError: not enough memory.
        """
        import torch

        load, preprocessing = self._content("load").load, self._content("preprocessing")
        image, available = load.stack(volumes)
        present = tuple(available.tolist())
        masks = [present]  # the fused one first
        if decode != "fused":
            subsets = [
                mask for mask in all_masks(self.bundle.modalities) if not any(np.array(mask) & ~np.array(present))
            ]
            masks += [mask for mask in subsets if mask != present and (decode == "all" or sum(mask) == 1)]
        names = [combination_name(mask, self.bundle.modalities) for mask in masks]
        try:
            with torch.no_grad(), _unwrapped():
                item = preprocessing({"image": image, "available": available}, start=1)  # 0 is the loading itself
                probabilities = self._infer(item, masks if len(masks) > 1 else None)
                single = [p for p, mask in zip(probabilities, masks, strict=True) if mask == present or sum(mask) == 1]
                return Segmentation(
                    labels=self._restore(item, probabilities[0], image.shape[1:]),
                    uncertainty=None if decode == "fused" else self._uncertainty(item, single),
                    agreement={
                        name: self._agreement(p, probabilities[0])
                        for p, name, mask in zip(probabilities[1:], names[1:], masks[1:], strict=True)
                        if sum(mask) == 1
                    },
                    combinations={
                        name: self._restore(item, p, image.shape[1:])
                        for p, name in zip(probabilities[1:], names[1:], strict=True)
                        if decode == "all"
                    },
                )
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise ResourceError(
                    f"not enough memory on {self.device}; try a smaller --roi-size, or --device cpu"
                ) from error
            raise

    def _infer(self, item: dict[str, Any], masks: Sequence[Sequence[bool]] | None) -> list[Any]:
        """Class probabilities (K, *spatial) of each mask, or of the fused decode alone."""
        inferer = self._content("inferer")
        if masks is not None:
            inferer = type(inferer)(inferer.inferer, masks, inferer.skip_empty)
        image = item["image"][None].to(self._content("device"))
        pred = inferer(image, self.network, available=item["available"][None])[0]
        return list(pred.split(len(self.bundle.class_names)))

    def _restore(self, item: dict[str, Any], pred: Any, shape: Sequence[int]) -> NDArray[np.unsignedinteger]:
        result = self._content("postprocessing")({**item, "pred": pred})["pred"]
        labels = np.asarray(result[0].cpu()).astype(np.min_scalar_type(max(self.label_values)))
        if labels.shape != tuple(shape):
            raise PassionError(f"{self.bundle.name} does not bring its result back to the grid of its input")
        return labels

    def _uncertainty(self, item: dict[str, Any], probabilities: Sequence[Any]) -> NDArray[np.float32]:
        """Entropy of the mean of the decodes, as a part of the largest possible: 0 where all are sure of one class.

        As of an ensemble (Lakshminarayanan et al., NeurIPS 2017), whose members are here the fused decode and those of
        each modality alone.
        """
        import torch
        from monai.data.meta_tensor import MetaTensor
        from monai.transforms.post.dictionary import Invertd

        mean = torch.stack([torch.as_tensor(p).as_subclass(torch.Tensor) for p in probabilities]).mean(dim=0)
        entropy = -torch.special.xlogy(mean, mean).sum(dim=0, keepdim=True) / np.log(len(mean))
        back = Invertd("uncertainty", self._content("preprocessing"), orig_keys="image", nearest_interp=False)
        restored = back({**item, "uncertainty": MetaTensor(entropy)})["uncertainty"]
        return np.asarray(restored[0].cpu(), dtype=np.float32).clip(0, 1)

    def _agreement(self, pred: Any, fused: Any) -> dict[str, float]:
        from monai_passion.evaluation.combinations import mean_region_dice

        regions = self.bundle.regions
        return dict(zip(regions, mean_region_dice(pred.argmax(0), fused.argmax(0), regions), strict=True))

    def _content(self, key: str) -> Any:
        """What the configuration makes of ``key``; errors of ours that MONAI wrapped come out as they were."""
        with _unwrapped():
            return self.parser.get_parsed_content(key)

    def _check_window(self) -> None:
        stride = getattr(self.network, "stride", 1)
        roi_size = self._content("roi_size")
        strides = stride if isinstance(stride, tuple) else (stride,) * len(roi_size)
        if any(size % step or size < 2 * step for size, step in zip(roi_size, strides, strict=True)):
            raise UsageError(f"a window of {roi_size} voxels does not suit this network; give multiples of {strides}")
        if not 0 <= float(self._content("overlap")) < 1:
            raise UsageError(f"--overlap is {self._content('overlap')}; give at least 0 and less than 1")


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise an error of ours as it was, whatever MONAI wrapped it in on its way up."""
    try:
        yield
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PassionError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from error


def _usable_device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device '{name}' cannot be used here ({str(error).splitlines()[0]}); try --device cpu"
        ) from error
    return name


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); is the bundle complete?") from error
    return content
