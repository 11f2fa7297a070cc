"""``monai-passion evaluate``: the scores of a training, on its own patients or on an outside cohort."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from monai_passion.bundle.run import ARGUMENTS, command_line, run_bundle, training_arguments
from monai_passion.errors import InputError, UsageError
from monai_passion.system.files import PathLike
from monai_passion.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

    from monai_passion.data.datalists import Datalist

__all__ = ["evaluate"]

Split = Literal["training", "validation", "test"]


def evaluate(
    run: PathLike,
    *,
    data: PathLike | None = None,
    split: Split | None = None,
    datalist: PathLike | None = None,
    labels: str | None = None,
    output: PathLike | None = None,
    bundle: str | None = None,
    label: str | None = None,
    device: str | None = None,
    set: Mapping[str, str] | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> Path:
    """Score a training on every combination of sequences, on its own patients or on an outside cohort.

    Example:
        monai-passion evaluate RUN
        monai-passion evaluate RUN --data COHORT --output SCORES

    Of the training's own patients, those of one split are scored; of an outside cohort, all with a label. A
    summary.json beside the weights lets predict tell the Dice to expect; an older one stays if it covers more patients
    or combinations.

    Args:
        run: the output of ``train``; or a file or folder of weights, then give the bundle too.
        data: folder of the patients (default: the training's).
        split: who is scored (default: test, or validation where there are no test patients).
        datalist: a split of the data, in place of the training's.
        labels: meaning of the label values of an outside cohort, as for `monai-passion datalist` (default: found out).
        output: folder for metrics.csv, summary.json and run.json (default: scores_ and the split, or the name of the
            cohort, in the run).
        bundle: name or folder of the bundle (default: the training's).
        label: name of the run in reports (default: its method).
        device: cpu, cuda:0 (default: a GPU where there is one).
        set: further settings, such as sw_batch_size=4.
        overwrite: replace earlier scores.
        trust: run a bundle that is not this package's own; it can run any program.

    Returns:
        ``output``.

    Raises:
        UsageError: no such bundle, split or setting; ``output`` is not empty.
        InputError: no such run, or no patients to score.
        WeightsError: no weights, or those of another network.
    """
    from monai_passion.bundle.facts import find_bundle
    from monai_passion.bundle.settings import as_text, check_settings, from_text, read_config, read_value
    from monai_passion.bundle.trust import check_trusted
    from monai_passion.bundle.weights import find_weights, trained_settings
    from monai_passion.data.datalists import is_of
    from monai_passion.networks.weights import load_weights
    from monai_passion.system.files import write_text
    from monai_passion.system.output import output_folder

    run = Path(run)
    if not run.exists():
        raise InputError(f"no run {run}; give the folder of a training, or its weights")
    folder, weights = (run.parent, str(run)) if run.is_file() else (run, find_weights(run))
    trained = training_arguments(folder)
    if bundle is None and trained is None:
        raise UsageError(f"{folder} has no {ARGUMENTS} of `monai-passion train`; give the --bundle of the weights")
    facts = find_bundle(bundle or str(folder))
    if not trust:
        check_trusted(facts.path, config="evaluate")
    configs = [(facts.path / "configs" / "evaluate.json").absolute()]
    config = read_config(configs)
    given = {key: read_value(value) for key, value in (set or {}).items()}
    check_settings(given, config)
    own = {k: v for k, v in (trained or {}).items() if k.split("#")[0] in config and k not in NOT_TAKEN_OVER}
    home = Path(from_text(trained["dataset_dir"])) if trained else None
    if data is None and home is None:
        raise UsageError("give the folder of the patients, --data")
    source = Path(data) if data is not None else home
    assert source is not None
    was_moved = home is not None and not home.exists() and is_of(folder / "datalist.json", source)
    is_outside = home is None or (source.resolve() != home.resolve() and not was_moved)
    chosen, patients = _patients(source, split, datalist, folder, facts.task if is_outside else None, labels)
    target = (
        Path(output) if output is not None else folder / f"scores_{source.resolve().name if is_outside else chosen}"
    )
    settings = {
        **own,
        **given,
        "dataset_dir": as_text(str(source.absolute())),
        "ckpt_dir": as_text(str(folder.absolute())),
        "weights": as_text(str(Path(weights).absolute())),
        "split": chosen,
        **({} if label is None else {"label": as_text(label)}),
        **({} if device is None else {"device": device}),
        **({"labels": labels} if labels and datalist is not None else {}),
    }
    with output_folder(target, overwrite=overwrite, last="summary.json") as made:
        learned = trained_settings(load_weights(weights)[1])
        settings = {**{key: value for key, value in learned.items() if key in config}, **settings}
        write_text(made / "datalist.json", json.dumps(patients, indent=1) + "\n")
        for where, show in ((target, True), (made, False)):
            for key, path in (("datalist", where / "datalist.json"), ("output_dir", where)):
                settings[key] = as_text(str(path.absolute()))
            if show:
                print(command_line("evaluating", configs, settings), flush=True)
        run_bundle("evaluating", configs, settings)
        _show(made / "metrics.csv")
    print(f"{target}: {', '.join(sorted(path.name for path in target.iterdir()))}")
    print(f"next: monai-passion report {target} --output REPORT")
    return target


NOT_TAKEN_OVER = {"dataset_dir", "datalist", "presence", "missing_rates", "ckpt_dir", "device", "seed", "labels"}
"""Settings of a training that say nothing about its evaluation."""


def _patients(
    source: Path,
    split: Split | None,
    datalist: PathLike | None,
    run: Path,
    task: Task | None,
    labels: str | None = None,
) -> tuple[str, Datalist]:
    """Who is scored: the name of the split, and the datalist that has it; ``task`` is that of an outside cohort."""
    from monai_passion.data.datalists import labeled_items, load_datalist, make_datalist

    stored = run / "datalist.json"
    if datalist is None and task is not None:
        if split is not None:
            raise UsageError(
                f"{source} is not the training's data and has no splits; leave --split out: all are scored"
            )
        found = make_datalist(source, task=task, fractions=(0, 0, 1), labels=labels)
        if stored.is_file():
            known = {item["patient"] for item in load_datalist(stored)["training"]}
            if again := sorted({item["patient"] for item in found["test"]} & known):
                names = ", ".join(again[:5]) + ", ..." * (len(again) > 5)
                print(f"warning: patients with these names were in the training too: {names}")
    elif datalist is None and not stored.is_file():
        raise UsageError(f"{run} has no datalist.json of its training; give --datalist, or the --data of a cohort")
    else:
        found = load_datalist(stored if datalist is None else Path(datalist))
    splits: Any = found
    name = split or ("test" if splits["test"] else "validation")
    labeled, unlabeled = labeled_items(splits[name])
    if unlabeled:
        print(f"warning: not scored for lack of a label: {', '.join(unlabeled)}")
    if not labeled:
        raise InputError(f"{datalist or source}: no {name} patients with a label to score; choose another split")
    return name, {**splits, name: labeled}


def _show(metrics: Path) -> None:
    """The mean Dice of each region, of all sequences together and of the mean over combinations."""
    from rich.console import Console
    from rich.table import Table

    from monai_passion.evaluation.metrics import CHALLENGE
    from monai_passion.evaluation.summary import read_metrics

    rows: pd.DataFrame = read_metrics(metrics)
    rows = rows[rows["convention"] == CHALLENGE.name]
    full = max(rows["combination"].unique(), key=lambda name: name.count("+"))
    table = Table("region", full, "mean of all combinations", title=f"Dice (patients: {rows['patient'].nunique()})")
    for region, own in rows.groupby("region", sort=False):
        whole = own[own["combination"] == full]["dice"].mean()
        table.add_row(str(region), f"{whole:.3f}", f"{own['dice'].mean():.3f}")
    Console().print(table)
