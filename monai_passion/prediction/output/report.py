"""The numbers of a segmentation, as ``report.json`` holds them."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage

from monai_passion import NOTICE, __version__
from monai_passion.data.geometry import dice, voxel_ml
from monai_passion.prediction.output.diameters import components, deepest_point, deepest_voxel, diameters
from monai_passion.prediction.segmenter import Segmentation
from monai_passion.tasks import Task

__all__ = ["find_focus", "find_lesions", "make_report", "measure", "most_helpful"]

SCHEMA_VERSION = 3
LESIONS = 10
"""Number of the largest lesions per region that are measured one by one."""


def measure(labels: NDArray[np.unsignedinteger], values: Sequence[int], ml: float) -> dict[str, Any]:
    """Volume in mL and number of connected components (26 neighbors) of voxels, of ``ml`` each, with these values."""
    where = np.isin(labels, list(values))
    count = ndimage.label(where, np.ones((3, 3, 3)))[1]
    return {"volume_ml": round(int(where.sum()) * ml, 4), "components": int(count)}


def make_report(
    result: Segmentation,
    images: Mapping[str, NDArray[np.float32]],
    affine: NDArray[np.float64],
    task: Task,
    expected: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """The content of ``report.json``.

    Args:
        result: the segmentation.
        images: modality -> (X, Y, Z), those that were used.
        affine: of their grid and that of the result.
        task: names, colors and values of the classes and regions.
        expected: combination -> result of `expected_quality` for it.
        facts: the other entries, see ``schemas/report.schema.json``.
    """
    labels, expected = result.labels, expected or {}
    ml = voxel_ml(affine)
    regions = {region.name: [task.label_values[k] for k in region.classes] for region in task.regions}
    used = list(images)
    quality = list(expected.get("+".join(used), ()))
    return {
        "schema_version": SCHEMA_VERSION,
        "notice": NOTICE,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "software": {
            "monai_passion": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("monai", "torch", "nibabel", "numpy")},
        },
        "grid": {
            "shape": list(labels.shape),
            "spacing_mm": [round(float(size), 6) for size in voxel_sizes(affine)],
            "orientation": "".join(nib.aff2axcodes(affine)),
            "affine": [[round(float(value), 6) for value in row] for row in affine],
        },
        "task": {"name": task.name, "anatomy": task.anatomy},
        "titles": {m: task.titles[m] for m in task.modality_names},
        "labels": [
            {
                "value": label.value,
                "name": label.name,
                "title": label.title,
                "color": label.color,
                **measure(labels, [label.value], ml),
                "mean_intensity": _means(images, labels == label.value),
            }
            for label in task.classes[1:]
        ],
        "regions": [
            {
                "name": region.name,
                "title": region.title,
                "values": sorted(regions[region.name]),
                **measure(labels, regions[region.name], ml),
                "lesions": find_lesions(np.isin(labels, regions[region.name]), affine),
            }
            for region in task.regions
        ],
        "focus": find_focus(labels, affine, task),
        "uncertainty": None if result.uncertainty is None else _uncertainty(result, regions),
        "combinations": [
            {
                "modalities": name.split("+"),
                "regions": [
                    {"name": r, **measure(other, values, ml), "agreement": _agreement(other, labels, values)}
                    for r, values in regions.items()
                ],
                "expected_quality": list(expected.get(name, ())),
            }
            for name, other in result.combinations.items()
        ],
        "expected_quality": quality,
        "most_helpful": most_helpful(expected, used, task.modality_names),
        **facts,
    }


def find_lesions(where: NDArray[np.bool_], affine: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Volume, deepest voxel and diameters of the largest components, at most `LESIONS` of them."""
    ml, rows = voxel_ml(affine), []
    for part in components(where)[:LESIONS]:
        measured = diameters(part, affine)
        assert measured is not None
        rows.append(
            {
                "volume_ml": round(len(part) * ml, 4),
                "voxel": list(deepest_voxel(part, affine)),
                "axis": measured.axis,
                "slice": measured.slice,
                "longest_mm": round(measured.longest_mm, 2),
                "perpendicular_mm": round(measured.perpendicular_mm, 2),
                "product_mm2": round(measured.product_mm2, 2),
                "ends": [list(end) for end in measured.ends],
            }
        )
    return rows


def find_focus(labels: NDArray[np.unsignedinteger], affine: NDArray[np.float64], task: Task) -> dict[str, Any] | None:
    """The point to look at first: the deepest one of the largest core, else of the segmentation; None if it is empty.

    The core is the largest region within another one, such as the tumor core within the whole tumor.
    """
    sets = {region.name: set(region.classes) for region in task.regions}
    inner = [name for name, own in sets.items() if any(own < other for other in sets.values())]
    everything = [label.value for label in task.classes[1:]]
    for name in (*sorted(inner, key=lambda name: -len(sets[name]))[:1], None):
        values = everything if name is None else [task.label_values[k] for k in sets[name]]
        voxel = deepest_point(np.isin(labels, values), affine)
        if voxel is not None:
            mm = (affine @ [*voxel, 1])[:3]
            return {"voxel": list(voxel), "mm": [round(float(c), 3) for c in mm], "region": name}
    return None


def most_helpful(
    expected: Mapping[str, Sequence[Mapping[str, Any]]], used: Sequence[str], modalities: Sequence[str]
) -> dict[str, Any] | None:
    """The absent modality that would raise a region's expected Dice most; None if that is not known."""
    now = {row["region"]: row["dice"] for row in expected.get("+".join(used), ())}
    gains = []
    for m in modalities:
        if m not in used:
            more = "+".join(name for name in modalities if name in (*used, m))
            gains += [
                {"modality": m, "region": row["region"], "now": now[row["region"]], "then": row["dice"]}
                for row in expected.get(more, ())
                if row["region"] in now and round(row["dice"], 2) > round(now[row["region"]], 2)
            ]
    return max(gains, key=lambda row: row["then"] - row["now"], default=None)


def _means(images: Mapping[str, NDArray[np.float32]], where: NDArray[np.bool_]) -> dict[str, float | None]:
    some = bool(where.any())
    return {m: float(f"{float(image[where].mean()):.5g}") if some else None for m, image in images.items()}


def _agreement(a: NDArray[np.unsignedinteger], b: NDArray[np.unsignedinteger], values: Sequence[int]) -> float:
    """Dice of a region of two label maps."""
    return round(dice(np.isin(a, values), np.isin(b, values)), 4)


def _uncertainty(result: Segmentation, regions: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Mean of the uncertainty over what was segmented, together and by region (None where nothing was)."""

    def mean(where: NDArray[np.bool_]) -> float | None:
        assert result.uncertainty is not None
        return round(float(result.uncertainty[where].mean()), 4) if where.any() else None

    return {
        "score": mean(result.labels > 0),
        "regions": {name: mean(np.isin(result.labels, values)) for name, values in regions.items()},
        "agreement": {m: {r: round(dice, 4) for r, dice in row.items()} for m, row in result.agreement.items()},
    }
