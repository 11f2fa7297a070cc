"""``report.html``: one page that needs no network, with the images, the segmentation over them and the numbers."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_passion.prediction.output.preview import window

__all__ = ["make_page"]

VIEWER = Path(__file__).parents[1] / "viewer"


def make_page(
    images: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.unsignedinteger],
    affine: NDArray[np.float64],
    report: Mapping[str, Any],
) -> str:
    """The page's HTML. The images in it have 8 bits and new headers: nothing of the files' own is left.

    Args:
        images: modality -> (X, Y, Z).
        labels: (X, Y, Z).
        affine: of them.
        report: the content of ``report.json``.
    """
    data = {
        "report": report,
        "images": [
            {"name": report["titles"].get(m, m), "base64": _packed(_grey(image), affine)} for m, image in images.items()
        ],
        "labels": _packed(labels.astype(np.min_scalar_type(labels.max())), affine),
        "centre": report["focus"] and report["focus"]["mm"],
    }
    text = json.dumps(data).replace("<", "\\u003c")  # no text may end the script element
    page = (VIEWER / "page.html").read_text(encoding="utf-8")
    viewer = (VIEWER / "niivue.umd.js").read_text(encoding="utf-8")
    before, between, after = page.replace("@NIIVUE@", "@DATA@").split("@DATA@")
    return "".join((before, text, between, viewer, after))


def _grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = window(image)
    grey = 1 + 254 * ((image - low) / (high - low)).clip(0, 1)
    return np.where(image == 0, 0, grey).astype(np.uint8)


def _packed(data: NDArray[Any], affine: NDArray[np.float64]) -> str:
    content = nib.Nifti1Image(data, affine).to_bytes()
    return base64.b64encode(gzip.compress(content, 4, mtime=0)).decode("ascii")
