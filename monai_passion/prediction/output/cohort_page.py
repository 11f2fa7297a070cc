"""``index.html`` of a cohort: one row per patient, those that failed too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monai_passion.prediction.expectation import UNKNOWN
from monai_passion.prediction.output.templates import render
from monai_passion.system.files import write_text

__all__ = ["write_index"]


def write_index(output: Path, manifest: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the page; it shows each patient's ``preview.png`` and leads to its ``report.html``.

    Args:
        output: the folder of the cohort.
        manifest: see `predict_cohort`.
    """
    rows = {name: entry["row"] for name, entry in manifest.items() if "row" in entry}
    columns = list(
        dict.fromkeys(key.removesuffix("_ml") for row in rows.values() for key in row if key.endswith("_ml"))
    )
    titles = {name: title for entry in manifest.values() for name, title in entry.get("titles", {}).items()}
    patients = [
        {
            "name": name,
            "link": quote(os.fsencode(name)),
            "row": rows.get(name),
            "used": [titles.get(m, m) for m in rows[name]["used"].split("+")] if name in rows else [],
            "doubts": (doubts := [r for r in entry["findings"] if r["level"] != "note"]),
            "kind": "unusable" if any(r["level"] == "unusable" for r in doubts) else entry["status"],
            "target": "report.html" if (output / name / "report.html").is_file() else "preview.png",
            "exit_code": entry["exit_code"],
            "message": entry["message"],
        }
        for name, entry in manifest.items()
    ]
    counts = {
        "done": len(rows),
        "failed": len(patients) - len(rows),
        "doubted": sum(bool(patient["doubts"]) for patient in patients),
        "unusable": sum(patient["kind"] == "unusable" for patient in patients),
    }
    unknown = UNKNOWN if any(row.get("expected_quality") == UNKNOWN for row in rows.values()) else ""
    page = render("index.html", patients=patients, columns=columns, unknown=unknown, titles=titles, **counts)
    return write_text(output / "index.html", page)
