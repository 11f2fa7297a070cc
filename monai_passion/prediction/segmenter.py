"""Run a bundle's own inference configuration, for `predict`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_passion.bundle.facts import BundleFacts, Member
from monai_passion.bundle.weights import trained_settings, trained_unknown
from monai_passion.data.geometry import voxel_ml
from monai_passion.data.patient import Finding
from monai_passion.errors import (
    PassionError,
    ResourceError,
    UsageError,
    WeightsError,
    find_passion_error,
    is_out_of_memory,
)
from monai_passion.modalities import all_masks, combination_name
from monai_passion.system.devices import usable_device
from monai_passion.system.files import sha256

if TYPE_CHECKING:  # torch and MONAI take seconds to import, which a mistyped path need not cost
    from torch import nn

    from monai_passion.data.nifti import Volume

__all__ = ["Segmentation", "Segmenter"]


class Segmentation(NamedTuple):
    """Result of `Segmenter.segment` for a patient."""

    labels: NDArray[np.unsignedinteger]
    """(X, Y, Z)."""
    uncertainty: NDArray[np.float32] | None
    """(X, Y, Z) in [0, 1], 0 outside the head."""
    agreement: dict[str, dict[str, float]]
    """Modality -> region -> Dice between its decode alone and the fused one."""
    combinations: dict[str, NDArray[np.unsignedinteger]]
    """Combination -> labels, for all combinations but the fused one."""
    probabilities: NDArray[np.float32] | None = None
    """(X, Y, Z, K), background first."""
    device: str = "cpu"
    """The device that computed the result."""
    findings: tuple[Finding, ...] = ()
    """Changes for lack of memory, and regions that were too small to be kept."""
    outside: int = 0
    """Voxels that the fused decode segmented where every image is 0; they are background in ``labels``."""


class MemoryPlan(NamedTuple):
    """How an inference saves memory."""

    device: str
    together: bool
    """Whether windows are batched and combinations decoded together, as in the bundle; else one after the other."""
    halvings: int
    """Number of times that the windows are halved."""
    finding: Finding | None


class Segmenter:
    """The inference of a bundle, by its own ``configs/inference.json``, on volumes in memory.

    It does not change the process: seeds, hooks and torch's settings belong to the program that runs it.

    Args:
        bundle: from `find_bundle`.
        weights: a file; None for the one in the bundle's ``models``, else the one that came with this package.
        device: name of a torch device; None for the bundle's choice.
        roi_size: edges of the sliding window in voxels, one for all axes or one per axis; None for the bundle's.
            -1 for as large as memory allows.
        overlap: of neighboring windows, in [0, 1); None for the bundle's.
        precision: of the network, see `monai_passion.networks.precision.choose_precision`; None for the bundle's.
        mirror: average with the segmentation of the image mirrored left to right, at twice the time.
        ensemble: other networks, each with its own weights, windows and time, whose probabilities are averaged with
            those of this one. The expected quality and the rules for small regions are those of ``weights``.
        decision: how probabilities become labels, see `monai_passion.transforms.ProbabilitiesToLabels`; None for the
            bundle's.

    Raises:
        WeightsError: there are no weights, or not for this network; or members of the ensemble need other images.
        UsageError: no such device; a window that the network does not take; a network twice in the ensemble.
    """

    def __init__(
        self,
        bundle: BundleFacts,
        *,
        weights: Path | None = None,
        device: str | None = None,
        roi_size: Sequence[int] | int | None = None,
        overlap: float | None = None,
        precision: str | None = None,
        mirror: bool = False,
        ensemble: Sequence[Member] = (),
        decision: str | None = None,
    ) -> None:
        from monai.bundle import ConfigParser

        from monai_passion.networks.weights import check_maker, load_weights

        self.bundle = bundle
        self.weights = weights or bundle.weights
        self.parser = ConfigParser()
        self.parser.read_config(str(bundle.path / "configs" / "inference.json"))
        # What the weights were trained with takes precedence over what the bundle says.
        self.facts = load_weights(self.weights)[1]
        check_maker(self.weights, self.facts, bundle.network)  # before settings, which say less clearly what is wrong
        unknown = [] if self.facts else [Finding("warning", trained_unknown(self.weights))]
        self.parser.update(trained_settings(self.facts))
        changes: dict[str, Any] = {
            # Absolute, since MONAI runs text that begins with $.
            "bundle_root": str(bundle.path.absolute()),
            "weights": str(self.weights.absolute()),
            "overlap": overlap,
            "precision": precision,
            "mirror_axes": [0] if mirror else None,
            "decision": decision,
            # `_segment` does it itself, and counts it.
            "keep_shown": {"_target_": "Identityd", "keys": "image"},
            "clear_outside": {"_target_": "Identityd", "keys": "pred"},
        }
        if device is not None:
            changes["device"] = f"$torch.device('{usable_device(device)}')"
        if roi_size is not None:
            axes = int(self.parser["spatial_dims"])
            sizes = [roi_size] if isinstance(roi_size, int) else list(roi_size)
            changes["roi_size"] = sizes * axes if len(sizes) == 1 else sizes
            if len(changes["roi_size"]) != axes:
                raise UsageError(f"--roi-size has {len(sizes)} values; give one, or {axes}")
        self.parser.update({key: value for key, value in changes.items() if value is not None})
        self._check_window()  # which loads the weights: what does not fit is told before an image is read
        self._content("decide")  # and that regions overlap
        own: dict[str, Any] = {"device": device, "roi_size": roi_size, "overlap": overlap, "precision": precision}
        self.others = [type(self)(one.bundle, weights=one.weights, mirror=mirror, **own) for one in ensemble]
        for k, other in enumerate(self.others):
            self._check_member(other)
            if sha256(other.weights) in {sha256(one.weights) for one in (self, *self.others[:k])}:
                raise UsageError(
                    f"the network of {other.weights} is in the ensemble twice; give the weights of another"
                )
        self.findings: tuple[Finding, ...] = tuple(
            unknown + [finding for other in self.others for finding in other.findings]
        )

    @cached_property
    def network(self) -> nn.Module:
        """The network with its weights, on the device."""
        import torch

        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and then replaced
            network: nn.Module = self._content("network")
        return network

    @property
    def device(self) -> str:
        return str(self._content("device"))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that change the result; the precision is the one that this device computes in."""
        import torch

        from monai_passion.networks.precision import name_precision

        knobs = {key: self._content(key) for key in ("roi_size", "overlap", "precision", "mirror_axes", "decision")}
        knobs["precision"] = name_precision(knobs["precision"], torch.device(self.device))
        return {**knobs, "ensemble": [sha256(other.weights) for other in self.others]}

    def segment(
        self,
        volumes: Sequence[Volume | None],
        decode: str = "fused",
        probabilities: bool = False,
        progress: Callable[[float], object] = lambda share: None,
    ) -> Segmentation:
        """Segment one patient; the result lies on the grid of the volumes, with the label values of the data set.

        Every modality is encoded once; the fused label map is the same, bit for bit, for every ``decode``. If memory
        does not suffice, windows and combinations run one after the other, then on the CPU, both with the same result;
        only then with smaller windows, which gives a warning.

        Args:
            volumes: one per modality in channel order, None if absent, all on one grid.
            decode: ``"fused"``: all available modalities together; ``"alone"``: each modality alone too, for the
                uncertainty; ``"all"``: every combination of the available modalities.
            probabilities: also return those of the fused decode.
            progress: called with the share that is done, in [0, 1], after each batch of windows.

        Raises:
            ResourceError: not enough memory, after all of these steps.
        """
        import torch

        for plan in self._plans():
            try:
                reproducible = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
                with torch.no_grad(), reproducible, _unwrapped():
                    return self._segment(volumes, decode, probabilities, plan, progress)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            if torch.cuda.is_available():  # after the block, when nothing holds the tensors of the failed attempt
                torch.cuda.empty_cache()
        raise ResourceError(
            f"not enough memory on {plan.device}, even for windows of {self._window_text(plan.halvings)} voxels one by "
            "one; close other programs, crop or resample the images, or use a machine with more memory"
        )

    def _plans(self) -> Iterator[MemoryPlan]:
        """From what the bundle says to what needs the least memory."""
        note = "memory was short: windows and combinations were run one after the other{}"
        yield MemoryPlan(self.device, True, 0, None)
        yield MemoryPlan(self.device, False, 0, Finding("note", note.format("")))
        if self.device != "cpu":
            yield MemoryPlan("cpu", False, 0, Finding("note", note.format(f", on the CPU in place of {self.device}")))
        halvings = 1
        while any(member.window(halvings) != member.window(halvings - 1) for member in (self, *self.others)):
            sizes = self._window_text(halvings)
            text = f"memory was short: segmented in windows of {sizes} voxels, which changes the result a little"
            yield MemoryPlan("cpu", False, halvings, Finding("warning", text))
            halvings += 1

    def window(self, halvings: int) -> tuple[int, ...]:
        """Edges of a window in voxels; if it was as large as memory allows (-1), half of it is ten strides."""
        sizes = tuple(int(size) for size in self._content("roi_size"))
        for _ in range(halvings):
            sizes = tuple(
                max(math.ceil(size / 2 / step), 2) * step if size > 0 else 10 * step
                for size, step in zip(sizes, self._strides(), strict=True)
            )
        return sizes

    def _window_text(self, halvings: int) -> str:
        return "x".join(map(str, self.window(halvings)))

    def _segment(
        self,
        volumes: Sequence[Volume | None],
        decode: str,
        probabilities: bool,
        plan: MemoryPlan,
        progress: Callable[[float], object],
    ) -> Segmentation:
        import torch

        from monai_passion.transforms.drop import zero_absent

        image, available = self._content("load").load.stack(volumes)
        shape, present = image.shape[1:], tuple(available.tolist())
        shown_by = image.numpy() != 0  # of each modality; the absent ones are 0
        shown = shown_by.any(axis=0)
        item = self._content("preprocessing")({"image": image, "available": available}, start=1)  # 0 is the loading
        masks = [present]  # the fused one first
        if decode != "fused":
            subsets = [
                mask for mask in all_masks(self.bundle.modalities) if not any(np.array(mask) & ~np.array(present))
            ]
            masks += [mask for mask in subsets if mask != present and (decode == "all" or sum(mask) == 1)]
        result = Segmentation(np.empty(0, np.uint8), None, {}, {}, device=plan.device)
        fused: Any = None
        mean: Any = 0
        members = 0  # of the ensemble: the fused decode and those of each modality alone
        for mask, pred in zip(masks, self._infer(item, masks, plan, progress), strict=True):
            name = combination_name(mask, self.bundle.modalities)
            if mask == present:
                fused = self._decided(item, pred) if len(masks) > 1 else None
                labels = self._restore(item, pred, shape)
                result = result._replace(
                    labels=labels * shown,
                    outside=int(np.count_nonzero(labels[~shown])),
                    findings=self._refined(item, pred),
                )
                if probabilities:
                    found = self._restore_probabilities(item, self._content("refine")({**item, "pred": pred})["pred"])
                    found[~shown] = np.eye(found.shape[-1])[0]
                    result = result._replace(probabilities=found)
            else:
                seen = {**item, "image": zero_absent(item["image"], torch.tensor(mask))}
                if decode == "all":
                    result.combinations[name] = self._restore(seen, pred, shape) * shown_by[list(mask)].any(axis=0)
                if sum(mask) == 1:
                    result.agreement[name] = self._agreement(self._decided(seen, pred), fused)
            if decode != "fused" and (mask == present or sum(mask) == 1):
                mean, members = mean + torch.as_tensor(pred).as_subclass(torch.Tensor), members + 1
        if decode != "fused":
            result = result._replace(uncertainty=self._uncertainty(item, mean / members) * shown)
        of_plan = [plan.finding] if plan.finding else []
        return result._replace(findings=(*self.findings, *result.findings, *of_plan))

    def _infer(
        self,
        item: dict[str, Any],
        masks: Sequence[Sequence[bool]],
        plan: MemoryPlan,
        progress: Callable[[float], object],
    ) -> Iterator[Any]:
        """Class probabilities (K, *spatial) of each mask."""
        members = [(member, member.network.to(plan.device)) for member in (self, *self.others)]
        image = item["image"][None].to(plan.device)
        groups = [masks] if plan.together else [[mask] for mask in masks]
        total, done = len(groups) * len(members), 0
        for group in groups:
            mean: Any = 0
            for member, network in members:
                pred = member._content("inferer")(
                    image,
                    network,
                    available=item["available"][None],
                    combinations=None if list(group) == [masks[0]] else group,
                    roi_size=member.window(plan.halvings),
                    batch_size=None if plan.together else 1,
                    progress=lambda share, done=done: progress((done + share) / total),
                )[0]
                mean = pred if len(members) == 1 else mean + pred / len(members)
                done += 1
            yield from mean.split(len(self.bundle.class_names))

    def _refined(self, item: dict[str, Any], pred: Any) -> tuple[Finding, ...]:
        """Says what of a class was found and not kept."""
        rule = getattr(self._content("refine"), "replace", None)
        if rule is None:
            return ()
        everywhere, allowed = rule.allowed(pred, item["image"])
        found, kept = int(everywhere.sum()), int((everywhere & allowed).sum())
        if found == kept:
            return ()
        label, by = (self.bundle.task.classes[k].title for k in (rule.label, rule.by))
        ml = voxel_ml(item["image"].affine.numpy())
        volume = found * ml
        if kept:
            modality = self.bundle.task.modalities[rule.channel].title
            gone = volume - kept * ml
            text = f"{gone:.1f} mL that are not bright on {modality} are shown as {by}"
            return (Finding("warning", f"{label} of {volume:.1f} mL was found; {text}"),)
        text = (
            f"{label} of {volume:.1f} mL was found, too little for these weights to tell from none; it is shown as {by}"
        )
        return (Finding("warning" if volume >= rule.minimum_ml else "note", text),)

    def _restore(self, item: dict[str, Any], pred: Any, shape: Sequence[int]) -> NDArray[np.unsignedinteger]:
        result = self._content("postprocessing")({**item, "pred": pred})["pred"]
        labels = np.asarray(result[0].cpu()).astype(np.min_scalar_type(max(self.bundle.label_values)))
        if labels.shape != tuple(shape):
            raise PassionError(f"{self.bundle.name} does not bring its result back to the grid of its input")
        return labels

    def _restore_probabilities(self, item: dict[str, Any], pred: Any) -> NDArray[np.float32]:
        """Background fills up what is missing to 1: all of it where nothing was computed."""
        found = self._invert(item, pred)[1:].clip(0, 1)
        return np.stack([(1 - found.sum(axis=0)).clip(0, 1), *found], axis=-1)

    def _uncertainty(self, item: dict[str, Any], mean: Any) -> NDArray[np.float32]:
        """Entropy of the mean of the decodes, as a part of the largest possible: 0 where all are sure of one class.

        As of an ensemble (Lakshminarayanan et al., NeurIPS 2017), whose members are here the fused decode and those of
        each modality alone.
        """
        import torch

        entropy = -torch.special.xlogy(mean, mean).sum(dim=0, keepdim=True) / np.log(len(mean))
        return self._invert(item, entropy)[0].clip(0, 1)

    def _invert(self, item: dict[str, Any], values: Any) -> NDArray[np.float32]:
        """Values (C, *spatial) on the grid of the image as it was given, 0 outside what was cropped."""
        from monai.data.meta_tensor import MetaTensor
        from monai.transforms.post.dictionary import Invertd

        back = Invertd("values", self._content("preprocessing"), orig_keys="image", nearest_interp=False)
        restored = back({**item, "values": MetaTensor(values)})["values"]
        return np.asarray(restored.cpu(), dtype=np.float32)

    def _decided(self, item: dict[str, Any], pred: Any) -> Any:
        """Classes on the network's grid, by the rules that those of the result follow."""
        refined = self._content("refine")({**item, "pred": pred})["pred"]
        return self._content("decide").to_labels(refined)

    def _agreement(self, pred: Any, fused: Any) -> dict[str, float]:
        from monai_passion.evaluation.combinations import region_dice

        regions = self.bundle.regions
        return dict(zip(regions, region_dice(pred, fused, regions), strict=True))

    def _content(self, key: str) -> Any:
        """What the configuration makes of ``key``; errors of ours that MONAI wrapped come out as they were."""
        with _unwrapped():
            return self.parser.get_parsed_content(key)

    def _strides(self) -> tuple[int, ...]:
        from monai_passion.networks.backbone import strides_of

        return strides_of(self.network, int(self._content("spatial_dims")))

    def _check_member(self, other: Segmenter) -> None:
        """Refuse a network for another task, or that sees images in another way, as at another spacing.

        Windows and what else belongs to a network may differ.
        """
        mine, theirs = self.bundle.task, other.bundle.task
        if (mine.modalities, mine.classes, mine.regions) != (theirs.modalities, theirs.classes, theirs.regions):
            raise WeightsError(
                f"{other.weights} is for {theirs.title}, {self.weights} for {mine.title}; choose one of them"
            )
        own, its = (
            {key: segmenter._content(key) for key in segmenter.parser["settings"] if key not in segmenter._of_network()}
            for segmenter in (self, other)
        )
        for key in own:
            if own[key] != its.get(key):
                raise WeightsError(
                    f"{other.weights} was trained with {key} {its.get(key)}, {self.weights} with {own[key]}; "
                    "members of an ensemble must see the same images"
                )

    def _of_network(self) -> set[str]:
        """Settings that are about the network and its windows alone."""
        sees_crops = "@crop_size" in json.dumps(self.parser["preprocess"])
        return {"roi_size", *([] if sees_crops else ["crop_size"]), *self.parser["network_def"]}

    def _check_window(self) -> None:
        from monai_passion.networks.backbone import suits

        roi_size, strides = self._content("roi_size"), self._strides()
        if not suits(roi_size, strides):
            raise UsageError(
                f"a window of {roi_size} voxels does not suit this network; give multiples of {strides}, twice that or "
                "more, or -1 for as large as memory allows"
            )
        if not 0 <= float(self._content("overlap")) < 1:
            raise UsageError(f"--overlap is {self._content('overlap')}; give at least 0 and less than 1")


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise an error of ours as it was, whatever MONAI wrapped it in on its way up."""
    try:
        yield
    except RuntimeError as error:
        if cause := find_passion_error(error):
            raise cause from error
        raise
