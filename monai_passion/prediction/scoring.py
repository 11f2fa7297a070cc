"""Score `predict` on labeled patients: every combination of their images, on the grid of their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes

from monai_passion.data.geometry import voxel_ml
from monai_passion.data.labels import read_label
from monai_passion.data.nifti import check_same_grid
from monai_passion.data.patient import read_patient
from monai_passion.evaluation.metrics import CHALLENGE, score_case
from monai_passion.modalities import combination_name
from monai_passion.prediction.segmenter import Segmenter

__all__ = ["score_patients"]


def score_patients(
    items: Iterable[Mapping[str, Any]],
    segmenter: Segmenter,
    report: Callable[[str, float], object] = lambda case, dice: None,
) -> list[dict[str, Any]]:
    """Rows of `monai_passion.evaluation.metrics.COLUMNS`, one per patient, combination and region.

    Unlike an evaluation of the bundle, which scores on the grid of the network, this scores the result that a user of
    `predict` gets: at the spacing of the files, after all post-processing.

    Args:
        items: of a datalist, with absolute paths: ``case``, ``patient``, ``image`` (modality -> path or None) and
            ``label``.
        segmenter: with the weights to score.
        report: called with the name of each case and its mean Dice over combinations and regions.

    Raises:
        InputError: images or a label that cannot be used.
    """
    bundle, rows = segmenter.bundle, []
    regions = {name: tuple(bundle.label_values[k] for k in classes) for name, classes in bundle.regions.items()}
    for item in items:
        files = {m: path for m, path in item["image"].items() if path}
        patient = read_patient(files, bundle.task)
        truth = read_label(item["label"], item.get("label_values"))
        check_same_grid(patient.reference, truth)
        result = segmenter.segment(patient.volumes, "all")
        fused = combination_name([m in patient.used for m in bundle.modalities], bundle.modalities)
        spacing = [float(size) for size in voxel_sizes(truth.affine)]
        mine = []
        for name, labels in {fused: result.labels, **result.combinations}.items():
            mine += score_case(
                labels,
                truth.data.astype(np.int32),
                regions,
                spacing,
                case=item["case"],
                patient=item["patient"],
                combination=name,
                conventions=[CHALLENGE],
                voxel_ml=voxel_ml(truth.affine),
            )
        rows += mine
        report(item["case"], float(np.mean([row["dice"] for row in mine])))
    return rows
