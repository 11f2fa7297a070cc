"""``monai-passion verify``: is a folder of patients fit for a training or an evaluation?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_passion.system.files import PathLike

__all__ = ["verify"]


def verify(
    folder: PathLike,
    *,
    task: str | None = None,
    layout: str = "auto",
    labels: str | None = None,
    patient_pattern: str | None = None,
    quick: bool = False,
    output: PathLike | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Check a folder of patients: layout, sequences, labels and their values, geometry, duplicates, leaks.

    Example:
        monai-passion verify PATIENTS
        monai-passion verify PATIENTS --labels msd --output verdict.json

    Args:
        folder: where the patients are.
        task: a name or a task file; by default the one whose sequences the files are named after.
        layout: as for `monai-passion datalist`.
        labels: as for `monai-passion datalist`.
        patient_pattern: as for `monai-passion datalist`.
        quick: read headers and labels only, not the voxels of the images.
        output: JSON file to write as well.
        overwrite: replace an older file.

    Returns:
        Cases with their files, problems, and files that are not used.

    Raises:
        InputError: there are errors; they are printed, one per line.
        UsageError: an unknown task, layout or label convention, or ``output`` exists.
    """
    from json import dumps

    from rich.console import Console
    from rich.table import Table

    from monai_passion.data.layouts import not_used
    from monai_passion.data.naming import LABEL
    from monai_passion.data.verify import print_problems, verify_cohort
    from monai_passion.system.files import write_text
    from monai_passion.system.output import refuse_older

    folder = Path(folder)
    if output is not None:
        refuse_older(Path(output), overwrite, [task])
    verdict = verify_cohort(folder, task, layout, labels=labels, patient_pattern=patient_pattern, voxels=not quick)
    patients = len(set(verdict.patients.values()))
    table = Table(
        "cases", "patients", *verdict.task.modality_names, LABEL, title=f"{verdict.task.name}, {verdict.layout}"
    )
    have = [sum(m in case.files for case in verdict.cases) for m in (*verdict.task.modality_names, LABEL)]
    table.add_row(*map(str, (len(verdict.cases), patients, *have)))
    Console().print(table)
    if verdict.labels is not None:
        print(f"labels: {verdict.labels.name} ({', '.join(map(str, sorted(verdict.labels.values)))})")
    if verdict.unused:
        print(not_used(verdict.unused, folder, most=len(verdict.unused)))
    made = verdict.to_json(folder)
    if output is not None:
        write_text(output, dumps(made, indent=1) + "\n")
        print(f"wrote {output}")
    print_problems(verdict)
    print("no problems" if not verdict.problems else "no errors")
    return made
