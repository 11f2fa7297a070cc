"""``monai-passion datalist``: a folder of patients -> a datalist JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from monai_passion.system.files import PathLike

__all__ = ["datalist"]


def datalist(
    folder: PathLike,
    *,
    output: PathLike,
    layout: str = "auto",
    task: str | None = None,
    labels: str | None = None,
    patient_pattern: str | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    split_dir: PathLike | None = None,
    seed: int = 0,
    slices: bool = False,
    padded_cubes: bool = False,
    policy: Literal["strict", "repair"] = "strict",
    overwrite: bool = False,
) -> Path:
    """Turn a folder of patients into a datalist JSON, split by patient.

    Example:
        monai-passion datalist PATIENTS --output datalist.json
        monai-passion datalist PATIENTS --fractions 0.8 0.1 0.1 --seed 1 --output datalist.json

    Args:
        folder: where the patients are.
        output: the JSON file to write.
        layout: folders, flat, bids, decathlon, nnunet, cubes, or auto, which recognizes it.
        task: a name or a task file; by default the one whose sequences the files are named after.
        labels: meaning of the label values: brats2015, brats2020, brats2023, msd and others in docs/reference/data.md,
            or spelled out, such as 1=ED,2=NCR/NET,3=ET; by default it is found out.
        patient_pattern: regular expression whose first group is the patient in the name of a case, such as
            "(.+)_v[0-9]".
        fractions: shares of the patients in training, validation and test.
        split_dir: folder with train.txt, val.txt and test.txt, in place of fractions.
        seed: random seed of the split.
        slices: one item per slice, as for 2-D networks.
        padded_cubes: keep cubes that are zero-padded, too.
        policy: how files will be loaded; repair also accepts files on other grids.
        overwrite: replace an older file.

    Returns:
        ``output``.

    Raises:
        InputError: no patients, an unknown layout, or errors that `monai-passion verify` finds; they are printed, one
            per line.
        UsageError: fractions that do not add to 1.
    """
    from rich.console import Console
    from rich.table import Table

    from monai_passion.data.datalists import labeled_items, make_datalist, write_datalist
    from monai_passion.data.splits import SPLITS
    from monai_passion.data.verify import print_problems, verify_cohort
    from monai_passion.system.output import refuse_older

    refuse_older(Path(output), overwrite, [task])
    print_problems(
        verify_cohort(
            folder,
            task,
            layout,
            labels=labels,
            patient_pattern=patient_pattern,
            labeled=False,
            policy=policy,
            voxels=False,
        )
    )
    made = make_datalist(
        Path(folder),
        layout,
        fractions=fractions,
        split_dir=None if split_dir is None else Path(split_dir),
        seed=seed,
        slices=slices,
        task=task,
        labels=labels,
        patient_pattern=patient_pattern,
        full_only=not padded_cubes,
    )
    write_datalist(Path(output), made)
    table = Table("split", *(("patients", "items")), *made["modalities"], "label", title=made["task"])
    for split in SPLITS:
        items = made[split]
        have = [sum(bool(item["image"][m]) for item in items) for m in made["modalities"]]
        labeled = len(labeled_items(items)[0])
        patients = len({item["patient"] for item in items})
        table.add_row(split, *map(str, (patients, len(items), *have, labeled)))
    Console().print(table)
    print(f"labels: {made['labels']['convention']}")
    everyone = [item for split in SPLITS for item in made[split]]
    if nobody := [m for m in made["modalities"] if not any(item["image"][m] for item in everyone)]:
        print(f"nobody has {', '.join(nobody)}: a network keeps a place for it, and does not learn it")
    print(f"wrote {output}")
    return Path(output)
