"""An app for MONAI Label: ``monailabel start_server --app <this folder, copied> --studies STUDIES``.

The bundles are those in the app's folder ``model``; see docs/how-to/monai-label.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.basic_infer import CallBackTypes
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

from monai_passion.bundle.facts import find_bundle
from monai_passion.data.slices import slices_of
from monai_passion.data.studies import case_of_file
from monai_passion.errors import InputError, find_passion_error
from monai_passion.handlers.checkpoint import read_checkpoint, write_checkpoint
from monai_passion.monailabel_app.studies import label_values, training_items

logger = logging.getLogger(__name__)

BY_NAME = "by file name"
"""First choice of the option ``sequence``: the file's name tells it, or the file is 4-D."""


class Refused(MONAILabelException, HTTPException):
    """An error that a user can correct, in the form that MONAI Label passes on.

    For its own exceptions MONAI Label's server answers only "Internal Server Error"; for FastAPI's it sends the
    message.
    """

    def __init__(self, error: MONAILabelError, msg: str) -> None:
        MONAILabelException.__init__(self, error, msg)
        HTTPException.__init__(self, status_code=400, detail=msg)

    def __str__(self) -> str:
        return str(self.msg)


@contextmanager
def refusing(kind: MONAILabelError) -> Iterator[None]:
    """Turns a `PassionError`, however often wrapped, into `Refused`."""
    try:
        yield
    except MONAILabelException:
        raise
    except Exception as error:
        if (ours := find_passion_error(error)) is None:
            raise
        raise Refused(kind, str(ours)) from error


class Infer(BundleInferTask):
    """A bundle's inference on all the files of the patient."""

    labels: dict[str, int]

    def __init__(self, path: str, conf: Mapping[str, str]) -> None:
        super().__init__(path, dict(conf))
        if self.valid:  # the values in the files, which are not the numbers of the network's classes
            self.bundle = find_bundle(path)
            values = dict(zip(self.bundle.class_names, self.bundle.label_values, strict=True))
            self.labels = {name.lower(): value for name, value in values.items() if value}
            self._config["sequence"] = [BY_NAME, *self.bundle.modalities]

    def __call__(self, request: Mapping[str, Any], callbacks: Mapping[Any, Any] | None = None) -> Any:
        sequence = request.get("sequence")

        def tell(data: dict[str, Any]) -> dict[str, Any]:
            used = [m for m, has in zip(self.bundle.modalities, data["available"], strict=True) if has]
            return {**data, "result": {"sequences": used}}

        with refusing(MONAILabelError.INVALID_INPUT):
            return super().__call__(
                {**request, "sequence": None if sequence == BY_NAME else sequence},
                {CallBackTypes.PRE_TRANSFORMS: tell, **(callbacks or {})},
            )

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        if data is not None and max(self.bundle.label_values) > 255:
            data["result_dtype"] = "uint16"  # Slicer asks for uint8, which has no room for these
        return super().pre_transforms(data)


class Train(BundleTrainTask):
    """A bundle's training on the labeled patients, with all their files.

    Each training has its own folder, ``trainings/<number>`` in the bundle's folder. When it has ended, its best weights
    become the bundle's ``models/model.pt``.
    """

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> Any:
        # Slicer sends "" for the default, which MONAI takes for everything there is to run.
        request = {**request, "run_id": request.get("run_id") or "run"}
        with refusing(MONAILabelError.APP_TRAIN_FAILED):
            answer = super().__call__(request, datastore)
            best = read_checkpoint(self.ckpt_dir / "model.pt")
            write_checkpoint(best, Path(self.bundle_path) / "models" / "model.pt")
        return answer

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        bundle, pairs = find_bundle(self.bundle_path), []
        for image in sorted(datastore.get_labeled_images(DefaultLabelTag.FINAL)):
            label = datastore.get_label_by_image_id(image, DefaultLabelTag.FINAL)
            segments = datastore.get_label_info(label, DefaultLabelTag.FINAL).get("label_info")
            pairs.append(
                {
                    "image": datastore.get_image_uri(image),
                    "label": datastore.get_label_uri(label, DefaultLabelTag.FINAL),
                    "label_values": label_values(segments, bundle.class_names, bundle.label_values),
                }
            )
        if not pairs:
            raise InputError("nothing is labeled yet; label at least one image and submit it, then train")
        return training_items(pairs, bundle.modalities)

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[Any]) -> None:
        if pretrained:  # else MONAI Label asks whether a file without a name exists
            super()._load_checkpoint(model_pytorch, pretrained, train_handlers)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        training, validation = (overrides.get(f"{part}#dataset#data") or [] for part in ("train", "validate"))
        validation = validation or training
        if find_bundle(self.bundle_path).spatial_dims == 2:
            training = slices_of(training)
        overrides["data"] = {"training": training, "validation": validation}
        overrides["train#dataset#data"] = training
        overrides["validate#dataset#data"] = validation
        overrides["epochs"] = overrides["train#trainer#max_epochs"]  # which the learning rate follows
        overrides["val_interval"] = 1
        self.ckpt_dir = _new_folder(Path(self.bundle_path) / "trainings")
        overrides["ckpt_dir"] = str(self.ckpt_dir)
        return overrides


class BatchInfer(BatchInferTask):
    """Segments every patient once, from any available files; failures are logged, and the rest goes on."""

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = modalities

    def get_images(self, request: Mapping[str, Any], datastore: Datastore) -> list[str]:
        first: dict[str, str] = {}
        for image in sorted(super().get_images(request, datastore)):
            path = datastore.get_image_uri(image)
            first.setdefault(str(Path(path).parent / case_of_file(path, self.modalities)), image)
        return list(first.values())

    def __call__(self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> dict[str, Any]:
        def try_it(one: Mapping[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                return dict(infer(one, store))
            except MONAILabelException as error:
                logger.warning(f"{one['image']} is not segmented: {error}")
                return {"error": str(error)}

        several = bool(request.get("multi_gpu", True)) and torch.cuda.is_available()
        return dict(super().__call__({**request, "multi_gpu": several}, datastore, try_it))


def _new_folder(parent: Path) -> Path:
    """The folder with the next number, made here."""
    for number in count(1):
        try:
            (folder := parent / f"{number:03d}").mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError


class App(MONAILabelApp):
    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        models = (path for path in sorted((Path(app_dir) / "model").iterdir()) if (path / "configs").is_dir())
        self.bundles = {path.name: str(path) for path in models}
        super().__init__(
            app_dir,
            studies,
            {"sam2": "false", **conf},
            name="monai_passion",
            description="Segmentation from whatever sequences there are. Research use only, not a medical device.",
        )

    def init_infers(self) -> dict[str, InferTask]:
        tasks = {name: Infer(path, self.conf) for name, path in self.bundles.items()}
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {name: Train(path, self.conf) for name, path in self.bundles.items()}

    def init_batch_infer(self) -> BatchInferTask:
        return BatchInfer(sorted({m for path in self.bundles.values() for m in find_bundle(path).modalities}))

    def init_strategies(self) -> dict[str, Strategy]:
        return {"first": First(), "random": Random()}
