"""``monai-passion presence``: draw a presence matrix, or count the images in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from monai_passion.errors import UsageError
from monai_passion.system.files import PathLike

if TYPE_CHECKING:
    from monai_passion.data.presence import Presence

__all__ = ["presence"]

RATES = "one per modality, in the order of the modalities or as NAME=RATE"


def presence(
    *,
    cases: int | None = None,
    datalist: PathLike | None = None,
    read: PathLike | None = None,
    output: PathLike | None = None,
    missing_rates: Sequence[str] = (),
    group_rates: Mapping[str, str] | None = None,
    seed: int = 0,
    per: Literal["patient", "case"] = "patient",
    task: str = "brats_mri",
    overwrite: bool = False,
) -> Presence:
    """Draw or read the table of modalities that each patient has.

    Example:
        monai-passion presence --datalist datalist.json --missing-rates t1=0.2 t1c=0.4 flair=0.6 t2=0.8 --output p.csv
        monai-passion presence --datalist datalist.json --group-rates HGG=0.2,0.4,0.6,0.8 LGG=0,0,0,0 --output p.csv
        monai-passion presence --read p.csv

    Args:
        cases: draw for this number of cases, named case_0001 and so on.
        datalist: draw for its training patients, from the modalities that each of them has.
        read: count the images in a table, ours or a published one.
        output: the CSV file to write.
        missing_rates: one per modality, in the order of the modalities or as NAME=RATE, each in [0, 1).
        group_rates: rates of each group of the datalist, in place of missing_rates.
        seed: random seed of the draw.
        per: unit of a row.
        task: defines the modalities; a datalist has its own.
        overwrite: replace an older file.

    Returns:
        The table.

    Raises:
        UsageError: values that are not rates, or not as many as modalities.
        InputError: a file that cannot be read.
    """
    from monai_passion.data.presence import read_presence, write_presence
    from monai_passion.system.output import refuse_older

    if sum(source is not None for source in (cases, datalist, read)) != 1:
        raise UsageError("give one of --cases, --datalist and --read; see monai-passion presence --help")
    if cases is not None and cases < 1:
        raise UsageError(f"--cases is {cases}; give at least one")
    if output is not None:
        refuse_older(Path(output), overwrite, [datalist, read])
    if read is not None:
        table = read_presence(Path(read))
    else:
        table = _draw(cases, datalist, missing_rates, group_rates, seed, per, task)
    if output is not None:
        write_presence(Path(output), table)
    _show(table)
    if output is not None:
        print(f"wrote {output}")
    return table


def _draw(
    cases: int | None,
    datalist: PathLike | None,
    missing_rates: Sequence[str | float],
    group_rates: Mapping[str, Any] | None,
    seed: int,
    per: str,
    task: str,
) -> Presence:
    from monai_passion.data.datalists import load_datalist
    from monai_passion.data.presence import Presence, draw_presence
    from monai_passion.data.training_set import draw_for_items
    from monai_passion.tasks import load_task

    if bool(missing_rates) == bool(group_rates):
        raise UsageError("give --missing-rates, or --group-rates for the groups of the datalist")
    rates: Any = _rates(missing_rates)
    if group_rates:
        rates = {
            group: _rates(given.split(",") if isinstance(given, str) else given) for group, given in group_rates.items()
        }
    if datalist is not None:
        content = load_datalist(Path(datalist))
        return draw_for_items(content["training"], rates, seed, per, content["modalities"])
    names = tuple(f"case_{n + 1:04d}" for n in range(cases or 0))
    modalities = load_task(task).modality_names
    groups = ["unknown"] * len(names)
    return Presence(names, modalities, draw_presence(len(names), rates, seed, groups=groups, modalities=modalities))


def _rates(given: Sequence[str | float]) -> list[float] | dict[str, float]:
    """``["0.2", "0.4"]`` or ``["t1=0.2", "t2=0.4"]`` as numbers."""
    texts = [str(value) for value in given]
    pairs = [text.rpartition("=") for text in texts]
    try:
        values = [float(value) for _, _, value in pairs]
    except ValueError:
        raise UsageError(f"'{' '.join(texts)}' are not missing rates; give {RATES}") from None
    names = [name for name, _, _ in pairs if name]
    if names and (len(names) != len(pairs) or len(set(names)) != len(names)):
        raise UsageError(f"'{' '.join(texts)}' has rates with and without name, or a name twice; give {RATES}")
    return dict(zip(names, values, strict=True)) if names else values


def _show(presence: Presence) -> None:
    from rich.console import Console
    from rich.table import Table

    from monai_passion.modalities import combination_mask, combination_name, combinations

    total = len(presence.cases)
    console = Console()
    by_modality = Table("modality", "cases", "missing rate", title=f"{total} cases")
    for name, count in zip(presence.modalities, presence.table.sum(axis=0), strict=True):
        by_modality.add_row(name, str(count), f"{1 - count / total:.3f}")
    console.print(by_modality)
    by_combination = Table("combination", "cases", "share")
    for combination in combinations(presence.modalities):
        mask = combination_mask(combination, presence.modalities)
        count = int((presence.table == mask).all(axis=1).sum())
        by_combination.add_row(combination_name(mask, presence.modalities), str(count), f"{count / total:.3f}")
    console.print(by_combination)
