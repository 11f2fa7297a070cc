"""What a bundle trains on, is evaluated on and segments, and how a batch reaches the network."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ignite.distributed as idist
import torch
from monai.transforms.compose import Compose
from monai.utils import CommonKeys
from torch import Tensor

from monai_passion.bundle.arguments import setting_flag
from monai_passion.data.cache import cached
from monai_passion.data.datalists import make_datalist
from monai_passion.data.donors import Donor, load_donors
from monai_passion.data.presence import read_presence
from monai_passion.data.slices import slices_of, whole_files
from monai_passion.data.splits import SPLITS
from monai_passion.data.studies import case_of_file, find_study
from monai_passion.data.training_set import describe_training_set, prepare_datalist
from monai_passion.data.verify import verify_datalist
from monai_passion.errors import InputError, UsageError
from monai_passion.system.distributed import first_process_first
from monai_passion.tasks import TaskLike, load_task

__all__ = [
    "PresenceFacts",
    "crop_shares",
    "evaluation_data",
    "inference_data",
    "prepare_batch",
    "presence_facts",
    "training_data",
    "training_donors",
    "with_healthy",
]

logger = logging.getLogger(__name__)

Item = dict[str, Any]
T = TypeVar("T")


def training_data(
    dataset_dir: str,
    task: TaskLike,
    ckpt_dir: str,
    *,
    datalist: str | None = None,
    presence: str | None = None,
    missing_rates: Sequence[float] | Mapping[str, Any] | None = None,
    missing_per: str = "patient",
    seed: int = 0,
    spatial_dims: int = 3,
    policy: str = "strict",
    labels: str | None = None,
) -> Mapping[str, Any]:
    """The datalist of a training, with what is missing on purpose taken out; stored beside the checkpoints.

    By default nothing is. ``presence``, a table of the modalities that each patient has, takes precedence over
    ``missing_rates``, which are drawn for each "patient" or for each "case" (file); the word "none" switches either
    off. What was found, taken out and is used is logged as a table, with a warning where images are taken out. A
    network of two ``spatial_dims`` trains on the slices of the files, an item each; validation is on whole files in
    any case. What the values of labels mean is found out unless ``labels`` says it. Headers and labels are looked at
    first, see `monai_passion.data.verify.verify_datalist`, with the ``policy`` that the files are loaded with.

    Raises:
        UsageError: no ``dataset_dir``.
        InputError: no training patients, or a problem that `verify_datalist` finds.
        PassionError: see `monai_passion.data.training_set.prepare_datalist`.
    """
    _given(dataset_dir)
    datalist, presence = _or_none(datalist), _or_none(presence)
    rates = None if presence else _or_none(missing_rates)
    with first_process_first():
        options: dict[str, Any] = {"labels": labels} if _or_none(labels) else {}
        data = prepare_datalist(dataset_dir, datalist, presence, rates, seed, ckpt_dir, task, missing_per, **options)
    if not data["training"]:
        raise InputError(f"{dataset_dir}: no training patients; check the datalist")
    verify_datalist(data, ("training", "validation"), policy, spatial_dims)
    if idist.get_rank() == 0:
        logger.info("the training set:\n%s", describe_training_set(data))
        if removed := sum(map(len, data.get("removed", {}).values())):
            source = "presence" if presence else "missing_rates" if rates is not None else "datalist"
            keeps = "another one" if source == "datalist" else setting_flag(source, "none")
            logger.warning("%s takes %d images out of the training on purpose; %s keeps them", source, removed, keeps)
    if spatial_dims == 2:
        return {**data, "training": slices_of(data["training"]), "validation": whole_files(data["validation"])}
    return data


def _or_none(value: T) -> T | None:
    """None for a setting that says so in a word: a command line cannot hand over null."""
    return None if isinstance(value, str) and value.strip().lower() in ("", "none", "null") else value


def with_healthy(data: Mapping[str, Any], healthy_dir: str | None) -> Mapping[str, Any]:
    """``data`` with the heads in a folder (one folder per patient, as in BraTS2020) as patients without a tumor.

    Label maps among their files, as of other diseases, are not used. Nor are heads of the patients that validate and
    test, by name; a warning names them. ``None`` leaves ``data`` as it is.

    Raises:
        InputError: the folder holds no other patients.
    """
    if not healthy_dir:
        return data
    heads = make_datalist(healthy_dir, fractions=(1, 0, 0))["training"]
    kept_out = {item["patient"] for split in ("validation", "test") for item in data[split]}
    if held := sorted({head["patient"] for head in heads} & kept_out):
        logger.warning("healthy_dir holds patients that validate or test, who are not trained on: %s", ", ".join(held))
        heads = [head for head in heads if head["patient"] not in kept_out]
        if not heads:
            raise InputError(f"{healthy_dir} holds no patients but those that validate or test; give other heads")
    root = Path(healthy_dir).absolute()
    for head in heads:
        head["image"] = {m: path and str(root / path) for m, path in head["image"].items()}
    healthy = [{**head, "label": None} for head in heads]
    return {**data, "training": [*data["training"], *healthy]}


def crop_shares(whole: float, batch_size: int) -> list[float]:
    """The shares of crops of ``crop_size`` and of those as large as ``whole`` windows, whose sizes differ.

    Raises:
        UsageError: crops of both sizes would come into one batch.
    """
    if whole and batch_size > 1:
        raise UsageError(
            f"batch_size is {batch_size}, but {whole:g} of the crops (whole_share) are of another size, which cannot "
            f"lie in one batch; give batch_size 1 and accumulate {batch_size}, or whole_share 0"
        )
    return [1 - whole, whole]


def training_donors(
    data: Mapping[str, Any],
    transforms: Sequence[Callable[..., Any]],
    modalities: Sequence[str],
    cube_dir: str | None = None,
    cube_label_dir: str | None = None,
    cache_dir: str | None = None,
    presence: str | None = None,
) -> list[Donor]:
    """The tumors that a training transplants: of its own patients, and of cubes; never of validation or test patients.

    Args:
        data: of `training_data`.
        transforms: the deterministic ones of the training.
        modalities: names in channel order.
        cube_dir, cube_label_dir: see `monai_passion.data.donors.read_cube_donors`.
        cache_dir: see `cached`.
        presence: see `training_data`; it holds for the cubes of the patients it names, too.
    """
    exclude = {item["patient"] for split in ("validation", "test") for item in data[split]}
    preprocess = Compose(cached(transforms, cache_dir))
    table = None if _or_none(presence) is None else read_presence(str(presence), modalities)
    donors = load_donors(data["training"], preprocess, modalities, cube_dir, cube_label_dir, exclude, table)
    logger.info("%d tumors to transplant", len(donors))
    return donors


class PresenceFacts(NamedTuple):
    """What the losses need to know about the presence matrix of the training items."""

    missing_rates: list[float]
    """Share of the training items that lack each modality, in channel order."""
    items: int
    """How many there are."""

    def steps_per_sample(self, batch_size: int = 1) -> list[float]:
        """Iterations of an epoch / samples that have a modality, of each; 0 of one that no item has.

        The modal weight of the released code; 1 / (1 - missing rate) for batches of 1.
        """
        steps = math.ceil(self.items / batch_size)
        return [steps / (self.items * (1 - rate)) if rate < 1 else 0.0 for rate in self.missing_rates]


def presence_facts(items: Sequence[Item], modalities: Sequence[str]) -> PresenceFacts:
    """What the losses want to know of the presence matrix of the training items.

    A modality that no item has keeps its place in the network, untrained; a warning says so.
    """
    present = [_present(item["image"], modalities) for item in items]
    rates = [1 - sum(m in names for names in present) / len(items) for m in modalities]
    if nobody := [m for m, rate in zip(modalities, rates, strict=True) if rate == 1]:
        names = ", ".join(nobody)
        logger.warning("no training patient has %s: the network does not learn it; segment without %s", names, names)
    logger.info("missing rates: %s", ", ".join(f"{m} {rate:.3f}" for m, rate in zip(modalities, rates, strict=True)))
    return PresenceFacts(rates, len(items))


def _present(image: Mapping[str, str | None] | str, modalities: Sequence[str]) -> set[str]:
    """The modalities that an item's ``image`` gives; of a path, as MONAI Label's own app has it, those of its study."""
    paths = find_study(image, modalities) if isinstance(image, str) else image
    return set(modalities) if isinstance(paths, str) else {m for m, path in paths.items() if path is not None}


def evaluation_data(
    dataset_dir: str,
    task: TaskLike,
    datalist: str | None,
    split: str,
    seed: int,
    ckpt_dir: str,
    spatial_dims: int = 3,
    policy: str | None = None,
    labels: str | None = None,
) -> list[Item]:
    """The items of one split, of ``datalist``, else of the training in ``ckpt_dir``, else of a split by the seed.

    They are whole files, also for a network of two ``spatial_dims``. Given the ``policy`` that they are loaded with,
    each must have a label, and headers and labels are looked at first; for ``labels`` see `training_data`.

    Raises:
        UsageError: an unknown split; InputError: an empty one, or a case that cannot be scored.
    """
    _given(dataset_dir)
    stored = Path(ckpt_dir) / "datalist.json"
    if datalist is None and stored.is_file():
        datalist = str(stored)
    options: dict[str, Any] = {"labels": labels} if _or_none(labels) else {}
    data = prepare_datalist(dataset_dir, datalist, seed=seed, task=task, **options)
    if split not in ("training", "validation", "test"):
        raise UsageError(f"split is '{split}'; give training, validation or test")
    if not data[split]:  # type: ignore[literal-required]
        raise InputError(f"{datalist or dataset_dir}: no {split} patients; choose another split")
    if policy is not None:
        verify_datalist(data, (split,), policy, spatial_dims)
    return whole_files(data[split]) if spatial_dims == 2 else list(data[split])  # type: ignore[literal-required]


def inference_data(
    dataset_dir: str,
    task: str,
    datalist: str | Sequence[Any] | None,
    split: str | None,
    seed: int,
    ckpt_dir: str,
    spatial_dims: int = 3,
) -> list[Item]:
    """The items to segment, without their labels: by default every patient of ``dataset_dir``, also a single one.

    Args:
        datalist: a file, of which every split is taken; or a list of items or of paths, one of each patient, see
            `monai_passion.data.studies.find_study`; relative paths start from ``dataset_dir``.
        split: only "training", "validation" or "test", see `evaluation_data`; None or "none" for all.

    Raises:
        UsageError: no ``dataset_dir``; InputError: an item without an image, or a file twice.
    """
    split = _or_none(split)
    if isinstance(datalist, Sequence) and not isinstance(datalist, str):
        listed = [_listed(item, Path(dataset_dir).absolute(), k, task) for k, item in enumerate(datalist)]
        items = _named_apart([item for item, _ in listed], [file for _, file in listed])
    elif split is not None:
        items = evaluation_data(dataset_dir, task, _or_none(datalist), split, seed, ckpt_dir, spatial_dims)
    else:
        _given(dataset_dir)
        datalist = _or_none(datalist)
        options: dict[str, Any] = {"fractions": (1, 0, 0), "labels": load_task(task).name}  # labels are not looked at
        data = prepare_datalist(dataset_dir, datalist, seed=seed, task=task, **options)
        items = [item for key in SPLITS for item in data[key]]
        items = whole_files(items) if spatial_dims == 2 else items
    return [{key: value for key, value in item.items() if key != "label"} for item in items]


def _listed(item: Any, root: Path, k: int, task: str) -> tuple[Item, str]:
    """An item of a list that a program made, a path or what MONAI's data lists have, and its first file."""
    item = {"image": item} if isinstance(item, str | os.PathLike) else dict(item)
    image = item.get("image")
    if isinstance(image, str | os.PathLike):
        item["image"] = first = str(root / image)
    elif isinstance(image, Mapping | Sequence):
        named = dict(image) if isinstance(image, Mapping) else dict(enumerate(image))
        found = {name: path and str(root / path) for name, path in named.items()}
        item["image"] = found if isinstance(image, Mapping) else list(found.values())
        first = next(filter(None, found.values()), "")
    else:
        raise InputError(f"datalist[{k}] has no image; give a path, or one per modality")
    return {"case": case_of_file(first, load_task(task).modality_names), **item}, first


def _named_apart(items: Sequence[Item], files: Sequence[str]) -> list[Item]:
    """Each with a case of its own, as results are named after them: those alike get the names of folders before theirs.

    Args:
        files: one of each item.

    Raises:
        InputError: two items have the same file.
    """
    names = [item["case"] for item in items]
    folders = [Path(file).parents for file in files]
    for depth in range(max(map(len, folders), default=0)):
        count = Counter(names)
        if max(count.values()) == 1:
            break
        names = [
            f"{above[depth].name}_{name}" if count[name] > 1 and depth < len(above) - 1 else name
            for name, above in zip(names, folders, strict=True)
        ]
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise InputError(f"datalist has {files[names.index(twice[0])]} twice; leave one out")
    return [{**item, "case": name} for item, name in zip(items, names, strict=True)]


def _given(dataset_dir: str) -> None:
    if not dataset_dir:
        raise UsageError("no data set is given; add --dataset_dir FOLDER (one folder per patient, as in BraTS2020)")


def prepare_batch(
    batchdata: Mapping[str, Any],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None, tuple[()], dict[str, Tensor]]:
    """Image, label, and as keywords what the network wants to know of each sample: ``available`` and ``mask``."""
    move: dict[str, Any] = {"device": device, "non_blocking": non_blocking, **kwargs}
    label = batchdata.get(CommonKeys.LABEL)
    extra = {key: batchdata[key].to(device) for key in ("available", "mask") if key in batchdata}
    return batchdata[CommonKeys.IMAGE].to(**move), None if label is None else label.to(**move), (), extra
