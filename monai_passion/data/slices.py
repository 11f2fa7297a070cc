"""Convert between items of whole files and items of their slices, for 2-D networks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_passion.data.nifti import read_header

__all__ = ["SLICE", "slices_of", "whole_files"]

SLICE = re.compile(r"_slice_\d+$")
"""End of the name of a slice."""


def slices_of(items: Iterable[Mapping[str, Any]], root: str | os.PathLike[str] = "") -> list[dict[str, Any]]:
    """One item for each slice of the third axis, named ``<case>_slice_<index>``; items that are slices already stay.

    Args:
        root: the folder that the items' paths are relative to.
    """
    parts: list[dict[str, Any]] = []
    for item in items:
        if "slice" in item:
            parts.append(dict(item))
            continue
        path = next(path for path in item["image"].values() if path)
        depth = read_header(Path(root) / path, num_volumes=len(item.get("channels", "1"))).shape[2]
        parts += [{**item, "case": f"{item['case']}_slice_{k}", "slice": k} for k in range(depth)]
    return parts


def whole_files(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The reverse of `slices_of`: one item for all slices of the same files."""
    whole = {}
    for item in items:
        case = SLICE.sub("", item["case"]) if "slice" in item else item["case"]
        files = (case, *item["image"].values())
        whole[files] = {**{k: v for k, v in item.items() if k != "slice"}, "case": case}
    return list(whole.values())
