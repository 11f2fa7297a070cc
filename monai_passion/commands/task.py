"""``monai-passion task``: a task file from a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_passion.system.files import PathLike

__all__ = ["task"]


def task(
    source: PathLike,
    *,
    output: PathLike,
    modalities: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    anatomy: str = "other",
    skull_stripped: bool = False,
    spatial_dims: int = 3,
    overwrite: bool = False,
) -> Path:
    """Write a task file: the modalities, label values and sizes of a data set, for ``bundles make --task``.

    Example:
        monai-passion task PATIENTS --modalities flair t1 pd --classes lesion=1 --output my_task.json
        monai-passion task PATIENTS --modalities t2 adc hbv=b1400 --classes PZ=1 TZ=2 --output my_task.json
        monai-passion task Dataset005_Prostate/dataset.json --output my_task.json

    Titles, other names of a modality, regions of several classes and SNOMED codes may be added to the file by hand;
    docs/reference/task-files.md has every key.

    Args:
        source: a folder of patients, or a dataset.json of nnU-Net or the Decathlon, which tells modalities and classes.
        output: the JSON file to write.
        modalities: their names, as in the file names; NAME=ALIAS if the files use another name.
        classes: NAME=VALUE of each class, its value in the label maps; background (0) left out.
        name: of the task (default: from the source).
        anatomy: brain, heart, prostate, ...; heads have checks of their own.
        skull_stripped: the images are 0 outside the brain.
        spatial_dims: 2 for a network that sees slices, for example of thick-slice images.
        overwrite: replace an older file.

    Returns:
        ``output``.

    Raises:
        UsageError: modalities or classes are missing or wrong, or ``output`` exists.
        InputError: ``source`` is neither, or has no file of these modalities.
    """
    from monai_passion.data.describe_task import describe_task, doubts_of
    from monai_passion.system.files import write_json
    from monai_passion.system.output import refuse_older

    refuse_older(Path(output), overwrite, [source])
    made = describe_task(Path(source), modalities, classes, name, anatomy, skull_stripped, spatial_dims)
    write_json(Path(output), made.to_json())
    for label, value in (
        ("task", made.name),
        ("modalities", ", ".join(made.modality_names)),
        ("classes", ", ".join(f"{c.value} {c.name}" for c in made.classes)),
        *made.settings.items(),
    ):
        print(f"{label:<12}{value}")
    for doubt in doubts_of(Path(source), made) if classes and Path(source).is_dir() else ():
        print(f"warning: {doubt}")
    print(f"wrote {output}")
    return Path(output)
