"""An app for MONAI Label: ``monailabel start_server --app <this folder, copied> --studies STUDIES``.

The bundles are those in the app's folder ``model``; see docs/how-to/monai-label.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

from monai_passion.monailabel_app.studies import FindStudy, training_items


class Infer(BundleInferTask):
    """A bundle's inference on all the files of the patient."""

    labels: dict[str, int]

    def __init__(self, path: str, conf: Mapping[str, str]) -> None:
        super().__init__(path, dict(conf))
        if self.valid:  # the values in the files, which are not the numbers of the network's classes
            values = self.bundle_config["label_values"]
            self.labels = {name: values[number] for name, number in self.labels.items()}

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        if data is not None:
            data.setdefault("result_extension", ".nii.gz")
        return [FindStudy(self.bundle_config["modalities"]), *super().pre_transforms(data)]


class Train(BundleTrainTask):
    """A bundle's training on what was labelled, of all the files of each patient."""

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        pairs = super()._fetch_datalist(request, datastore)
        return training_items(pairs, self.bundle_config["modalities"])

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        training, validation = (overrides.get(f"{part}#dataset#data") or [] for part in ("train", "validate"))
        overrides["data"] = {"training": training, "validation": validation or training}
        overrides["validate#dataset#data"] = validation or training
        overrides["resume"] = False
        return overrides


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

    def init_strategies(self) -> dict[str, Strategy]:
        return {"first": First(), "random": Random()}
