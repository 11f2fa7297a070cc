"""The numbers of a segmentation, as ``report.json`` holds them."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_passion import NOTICE, __version__
from monai_passion.prediction.segmenter import Segmentation

__all__ = ["SCHEMA", "make_report", "measure", "read_schema"]

SCHEMA = Path(__file__).parents[2] / "bundle" / "schemas" / "report.schema.json"
SCHEMA_VERSION = 1


@cache
def read_schema() -> dict[str, Any]:
    """The JSON schema of ``report.json``."""
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return schema


def measure(labels: NDArray[np.unsignedinteger], values: Sequence[int], voxel_ml: float) -> dict[str, Any]:
    """Volume in mL and number of connected components (26 neighbours) of the voxels that have one of ``values``."""
    where = np.isin(labels, list(values))
    count = ndimage.label(where, np.ones((3, 3, 3)))[1]
    return {"volume_ml": round(int(where.sum()) * voxel_ml, 4), "components": int(count)}


def make_report(
    result: Segmentation,
    affine: NDArray[np.float64],
    label_names: Mapping[int, str],
    regions: Mapping[str, Sequence[int]],
    **facts: Any,
) -> dict[str, Any]:
    """The content of ``report.json``.

    Args:
        result: what was found.
        affine: of its grid.
        label_names: value in ``labels`` -> name, background left out.
        regions: region -> the values whose union it is.
        facts: the other entries, see the schema.
    """
    labels = result.labels
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    return {
        "schema_version": SCHEMA_VERSION,
        "notice": NOTICE,
        "software": {
            "monai_passion": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("monai", "torch", "nibabel", "numpy")},
        },
        "grid": {
            "shape": list(labels.shape),
            "spacing_mm": [round(float(size), 6) for size in np.linalg.norm(affine[:3, :3], axis=0)],
            "orientation": "".join(nib.aff2axcodes(affine)),
        },
        "labels": [
            {"value": value, "name": name, **measure(labels, [value], voxel_ml)} for value, name in label_names.items()
        ],
        "regions": [
            {"name": name, "values": sorted(values), **measure(labels, values, voxel_ml)}
            for name, values in regions.items()
        ],
        "uncertainty": None if result.uncertainty is None else _uncertainty(result, regions),
        "combinations": [
            {
                "modalities": name.split("+"),
                "regions": [{"name": r, **measure(other, values, voxel_ml)} for r, values in regions.items()],
            }
            for name, other in result.combinations.items()
        ],
        **facts,
    }


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
