"""``monai-passion phantom``: a cohort of digital phantoms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from monai_passion.system.files import PathLike

__all__ = ["phantom"]


def phantom(
    layout: Literal["brats", "brats-healthy", "myops"],
    output: PathLike,
    *,
    cases: int = 24,
    seed: int = 0,
    size: int | None = None,
    growth: float = 0.0,
) -> Path:
    """Write a cohort of digital phantoms in the folder layout of BraTS2020 or MyoPS2020.

    Example:
        monai-passion phantom brats COHORT --cases 28 --size 48 --seed 1
        monai-passion phantom brats LATER --cases 28 --size 48 --seed 1 --growth 0.4

    Args:
        layout: brains with tumors, brains without, or hearts with infarcts.
        output: a new folder, or one with a part of the same cohort, which is completed.
        cases: how many patients.
        seed: same seed, same bytes.
        size: voxels per edge: brats V^3 over the whole head (default 240x240x155 at 1 mm), myops in-plane (256).
        growth: the same heads at a later time, with the volume of each tumor core changed by this share (0.4: 40 %
            larger; negative: smaller); brats only.

    Returns:
        ``output``.

    Raises:
        UsageError: packages of the extra ``phantom`` are missing, or ``output`` holds another cohort.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from monai_passion.data.phantom import write_cohort

    output = Path(output)
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{layout} phantoms", total=cases)

        def tell(name: str, written: bool) -> None:
            nonlocal done
            done += 1
            progress.advance(task)
            if not console.is_terminal:
                print(f"{done}/{cases} {name}{'' if written else ' (kept)'}", file=sys.stderr, flush=True)

        write_cohort(output, layout, cases, seed, size, tell, growth)
    print(f"{cases} {layout} phantoms in {output}")
    return output
