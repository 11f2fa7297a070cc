"""``report.html``: one page that needs no network, with the images, the segmentation over them and the numbers."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_rgb
from matplotlib.image import imsave
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray

from monai_passion.prediction.output.diameters import slice_axis
from monai_passion.prediction.output.preview import (
    AXIS,
    bounding_box,
    canonical,
    plane_aspect,
    plane_slice,
    view_point,
    window,
)
from monai_passion.prediction.output.report import most_helpful
from monai_passion.prediction.output.stages import StagePicture
from monai_passion.prediction.output.templates import VIEWER, render
from monai_passion.prediction.segmenter import Segmentation
from monai_passion.prediction.terminal import expected_text, helpful_text

__all__ = ["make_comparison_page", "make_page", "straightened"]

THUMBNAIL = 160
"""Least number of pixels of a picture's longer side."""


def make_page(
    images: Mapping[str, NDArray[np.float32]],
    result: Segmentation,
    affine: NDArray[np.float64],
    report: Mapping[str, Any],
    still: NDArray[np.uint8],
    stages: Sequence[StagePicture] = (),
) -> str:
    """The page's HTML. Its images have 8 bits and new headers, without the content of the files' headers.

    Args:
        images: modality -> (X, Y, Z).
        result: on their grid.
        affine: of that grid.
        report: the content of ``report.json``.
        still: its preview, (height, width, 3), for print and for browsers without WebGL.
        stages: pictures of the steps before the segmentation.
    """
    used = report["modalities"]["used"]
    everything = {"modalities": used, "regions": report["regions"], "expected_quality": report["expected_quality"]}
    rows = [everything, *sorted(report["combinations"], key=lambda row: -len(row["modalities"]))]
    maps = [result.labels, *(result.combinations["+".join(row["modalities"])] for row in rows[1:])]
    voxel, grid = view_point(images, report, affine)[0], straightened(affine)
    measured = _measured_region(report)
    unsure = None if result.uncertainty is None else (255 * result.uncertainty.clip(0, 1)).round().astype(np.uint8)
    titles = report["titles"]
    subsets = [_subset(row, titles) for row in rows]
    expected = {"+".join(row["modalities"]): row["expected_quality"] for row in rows}
    helpful = [most_helpful(expected, row["modalities"], used) for row in rows]
    data = {
        "report": {key: report[key] for key in ("labels", "regions", "grid", "weights")},
        "viewer_affine": grid.tolist(),
        "measured": measured,
        "focus": voxel,
        "images": [{"name": titles.get(m, m), "base64": _packed(_gray(image), grid)} for m, image in images.items()],
        "uncertainty": None if unsure is None else _packed(unsure, grid),
        "subsets": [
            {
                "title": subset["title"],
                "volumes": {row["name"]: row["volume_ml"] for row in subset["rows"]},
                "helpful": helpful_text({"titles": titles, "most_helpful": best}) if best else "",
                "base64": _packed(labels.astype(np.min_scalar_type(labels.max())), grid),
            }
            for subset, labels, best in zip(subsets, maps, helpful, strict=True)
        ],
    }
    pictures = _pictures(images, maps, affine, report, voxel) if len(maps) > 1 else [""]
    doubts = [r for level in ("unusable", "warning") for r in report["findings"] if r["level"] == level]
    return render(
        "page.html",
        report=report,
        rows=_rows(report),
        doubts=doubts,
        unusable=any(r["level"] == "unusable" for r in doubts),
        notes=[r for r in report["findings"] if r["level"] == "note"],
        helpful=helpful_text(report) if report["most_helpful"] else None,
        intensities=[row for row in report["labels"] if row["volume_ml"] > 0],
        measured=measured,
        uncertainty=unsure is not None,
        used=", ".join(titles.get(m, m) for m in used),
        absent=", ".join(titles.get(m, m) for m in report["modalities"]["absent"]),
        spacing=" x ".join(f"{size:.3g}" for size in report["grid"]["spacing_mm"]),
        subsets=[{**subset, "picture": picture} for subset, picture in zip(subsets, pictures, strict=True)],
        stages=[{"title": stage.title, "picture": _jpeg(stage.jpeg)} for stage in stages],
        still=_still(still),
        data=_script_text(json.dumps(data)),
        niivue=Markup((VIEWER / "niivue.umd.js").read_text(encoding="utf-8")),  # noqa: S704
        script=Markup((VIEWER / "page.js").read_text(encoding="utf-8")),  # noqa: S704
    )


def make_comparison_page(
    comparison: Mapping[str, Any],
    views: Mapping[str, NDArray[Any]],
    labels: NDArray[np.unsignedinteger],
    affine: NDArray[np.float64],
    report: Mapping[str, Any],
    still: NDArray[np.uint8],
) -> str:
    """The page of two examinations.

    Args:
        comparison: the content of ``comparison.json``.
        views: see `monai_passion.prediction.compare.compare`.
        labels: (X, Y, Z), those of the later examination.
        affine: of the views and labels.
        report: ``report.json`` of the later examination.
        still: the preview of both, (height, width, 3).
    """
    images = {"before": views["before"], "after": views["after"]}
    maps = {"before": views["labels_before"].astype(labels.dtype), "after": labels}
    grid = straightened(affine)
    mm = apply_affine(grid, view_point(images, report, affine)[0]).tolist()
    sides = {
        name: {"image": _packed(_gray(image), grid), "labels": _packed(maps[name], grid)}
        for name, image in images.items()
    }
    return render(
        "compare.html",
        comparison=comparison,
        titles=report["titles"],
        region_titles={row["name"]: row["title"] for row in report["regions"]},
        unusable=any(r["level"] == "unusable" for r in comparison["findings"]),
        labels=report["labels"],
        still=_still(still),
        data=_script_text(json.dumps({"labels": report["labels"], "focus": mm, "sides": sides})),
        niivue=Markup((VIEWER / "niivue.umd.js").read_text(encoding="utf-8")),  # noqa: S704
    )


def straightened(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine with axes replaced by the nearest body axes, for a viewer that shows every grid in this way.

    NiiVue shows oblique grids so; only with this affine do its millimeters match the slices that it shows.
    """
    spacing, turn = voxel_sizes(affine), nib.io_orientation(affine)
    result = np.eye(4)
    result[:3, :3] = 0
    for axis, (onto, sign) in enumerate(turn):
        result[int(onto), axis] = sign * spacing[axis]
    result[:3, 3] = affine[:3, 3]
    return result


def _script_text(text: str) -> Markup:
    """JSON as the content of a script element, which no text in it can end."""
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704


def _rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table of volumes: the regions, then the labels that are not a region alone."""
    colors = {(row["value"],): row["color"] for row in report["labels"]}
    rows = [
        {
            **row,
            "color": colors.get(tuple(row["values"])),
            "expected": expected_text(report["expected_quality"], row["name"]),
        }
        for row in report["regions"]
    ]
    regions = {tuple(row["values"]) for row in report["regions"]}
    labels = [{**row, "expected": ""} for row in report["labels"] if (row["value"],) not in regions]
    return [*rows, *labels]


def _measured_region(report: Mapping[str, Any]) -> str | None:
    """Whose diameters are shown: the region of fewest labels that was found, as RANO measures what enhances."""
    found = [row for row in report["regions"] if row["lesions"]]
    return min(found, key=lambda row: len(row["values"]))["name"] if found else None


def _subset(row: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    expected = {quality["region"]: f"{quality['dice']:.2f}" for quality in row["expected_quality"]}
    return {
        "title": " + ".join(titles.get(m, m) for m in row["modalities"]),
        "rows": [
            {
                "name": region["name"],
                "volume_ml": region["volume_ml"],
                "agreement": region.get("agreement", 1.0),
                "expected": expected.get(region["name"], "-"),
            }
            for region in row["regions"]
        ],
    }


def _pictures(
    images: Mapping[str, NDArray[np.float32]],
    maps: list[NDArray[np.unsignedinteger]],
    affine: NDArray[np.float64],
    report: Mapping[str, Any],
    voxel: list[int],
) -> list[str]:
    """The slice through ``voxel`` as it was acquired, with each label map over the first image, as data of PNGs."""
    name, image = next(iter(images.items()))
    low, high = window(image)
    pictures = []
    turn = nib.io_orientation(affine)
    axis = slice_axis(affine)
    plane = next(plane for plane, number in AXIS.items() if number == turn[axis, 0])
    index = voxel[axis] if turn[axis, 1] > 0 else image.shape[axis] - 1 - voxel[axis]
    for labels in maps:
        scene = canonical({name: image}, labels, affine)
        own = plane_slice(scene.images[name], plane, index)
        gray = ((own - low) / (high - low)).clip(0, 1)
        shown, rgb = plane_slice(scene.labels, plane, index), np.repeat(gray[..., None], 3, axis=-1)
        for row in report["labels"]:
            here = shown == row["value"]
            rgb[here] = 0.35 * rgb[here] + 0.65 * np.array(to_rgb(row["color"]))
        pictures.append(_png(_in_proportion(rgb[bounding_box(own != 0)], plane_aspect(scene, plane))))
    return pictures


def _in_proportion(rgb: NDArray[np.float64], aspect: float) -> NDArray[np.float64]:
    """Pixels repeated, so that they are square, where they were ``aspect`` times as tall as wide, and enough to see."""
    tall, wide = rgb.shape[0] * max(aspect, 1), rgb.shape[1] * max(1 / aspect, 1)
    scale = max(THUMBNAIL / max(tall, wide), 1)
    lengths = (max(round(scale * length), 1) for length in (tall, wide))
    rows, columns = (np.arange(n) * size // n for n, size in zip(lengths, rgb.shape[:2], strict=True))
    return np.asarray(rgb[rows][:, columns])


def _png(rgb: NDArray[np.float64]) -> str:
    buffer = io.BytesIO()
    imsave(buffer, (255 * rgb).round().astype(np.uint8), format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _still(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    imsave(buffer, picture, format="jpeg")
    return _jpeg(buffer.getvalue())


def _jpeg(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"


def _gray(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = window(image)
    gray = 1 + 254 * ((image - low) / (high - low)).clip(0, 1)
    return np.where(image == 0, 0, gray).astype(np.uint8)


def _packed(data: NDArray[Any], affine: NDArray[np.float64]) -> str:
    content = nib.Nifti1Image(data, affine).to_bytes()
    return base64.b64encode(gzip.compress(content, 4, mtime=0)).decode("ascii")
