"""``monai-passion predict``: segment a patient, or a cohort, from whatever sequences there are."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_passion.errors import EXIT_OK, EXIT_STRICT, InputError, UsageError
from monai_passion.modalities import ALIASES, BRATS_MRI, MYOPS_CMR, resolve

if TYPE_CHECKING:
    from monai_passion.prediction.run import Stage
    from monai_passion.prediction.segmenter import BundleFacts

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "segment one patient from whatever sequences there are"
MODALITIES = tuple(dict.fromkeys((*BRATS_MRI, *MYOPS_CMR)))
"""Those of any bundle."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "input",
        metavar="INPUT",
        type=Path,
        nargs="?",
        help="in place of the flags below: a patient's folder, its sequences known by the names of the files; "
        "a folder of such folders; or a CSV with a column patient and one a sequence",
    )
    files = parser.add_argument_group(
        "sequences", "NIfTI files or DICOM series, any non-empty subset of those the bundle knows"
    )
    for modality in MODALITIES:
        aliases = ALIASES.get(modality, ())
        also = f" (also {', '.join(f'--{alias}' for alias in aliases[:4])})" if aliases else ""
        files.add_argument(f"--{modality}", metavar="FILE", type=Path, action="append", help=f"{modality}{also}")
        for alias in aliases:
            files.add_argument(
                f"--{alias}", dest=modality, type=Path, action="append", help=argparse.SUPPRESS, default=None
            )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="a new or empty folder")
    parser.add_argument(
        "--reference", metavar="NAME", help="the sequence whose grid the result gets (default: smallest voxels)"
    )
    parser.add_argument(
        "--register", action="store_true", help="co-register the other sequences rigidly onto the reference first"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run left in --output")
    parser.add_argument(
        "--bundle", metavar="B", help="its folder or name (default: the RFNet bundle for brain tumours)"
    )
    parser.add_argument(
        "--trust", action="store_true", help="run a bundle that is not this package's own: it can run any program"
    )
    parser.add_argument("--weights", metavar="FILE", type=Path, help="default: the bundle's models/")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:1 (default: cuda where there is one)")
    parser.add_argument(
        "--roi-size",
        metavar="V",
        type=_sizes,
        help="sliding window in voxels, as 96 or 96x96x64 (default: the bundle's)",
    )
    parser.add_argument("--overlap", metavar="F", type=float, help="of windows, 0 to 1 (default: the bundle's)")
    parser.add_argument(
        "--workers", metavar="N", type=int, default=1, help="patients of a cohort at the same time (default 1)"
    )
    parser.add_argument("--max-voxels", metavar="N", type=int, help="refuse larger files (default 2^28)")
    parser.add_argument(
        "--allow-duplicate", action="store_true", help="take one image for two sequences, with a warning"
    )
    parser.add_argument("--no-page", action="store_true", help="do not write report.html, which holds the images")
    parser.add_argument("--keep-names", action="store_true", help="write the paths of the inputs into report.json")
    more = parser.add_mutually_exclusive_group()
    more.add_argument(
        "--uncertainty",
        action="store_true",
        help="also decode each sequence alone; write uncertainty.nii.gz and a score",
    )
    more.add_argument(
        "--all-combinations", action="store_true", help="also segment from every subset of the sequences, encoded once"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="also write probabilities.nii.gz, one volume a class"
    )
    parser.add_argument(
        "--dicom-seg", action="store_true", help="also write segmentation.dcm, where the reference is a DICOM series"
    )
    parser.add_argument("--strict", action="store_true", help="end with exit code 6 when there are warnings")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--verbose", action="store_true", help="print what the libraries below say")


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.lower().split("x")]


def run(args: argparse.Namespace) -> int:
    """Segment, print the numbers, return 0, or 6 for warnings under ``--strict``."""
    from monai_passion.bundle.trust import check_trusted
    from monai_passion.data.nifti import MAX_VOXELS
    from monai_passion.data.sources import find_files
    from monai_passion.prediction.cohort import predict_cohort
    from monai_passion.prediction.run import Options, predict_patient
    from monai_passion.prediction.segmenter import Segmenter, find_bundle

    if args.verbose:
        logging.getLogger().setLevel(logging.INFO)
    else:
        warnings.simplefilter("ignore")
    bundle = find_bundle(args.bundle)
    if not args.trust:
        check_trusted(bundle.path)
    flags = _given(args, bundle)
    cohort = _cohort(args.input, bundle) if args.input else {}
    if cohort and flags:
        raise UsageError(f"{args.input} is a cohort; give it without {', '.join(f'--{m}' for m in flags)}")
    reference = args.reference and resolve(args.reference, bundle.modalities)
    max_voxels = MAX_VOXELS if args.max_voxels is None else args.max_voxels
    decode = "all" if args.all_combinations else "alone" if args.uncertainty else "fused"
    options = Options(
        reference=reference,
        register=args.register,
        decode=decode,
        probabilities=args.probabilities,
        dicom_seg=args.dicom_seg,
        overwrite=args.overwrite,
        allow_duplicate=args.allow_duplicate,
        keep_names=args.keep_names,
        page=not args.no_page,
        max_voxels=max_voxels,
    )

    if args.workers < 1 or (args.workers > 1 and not cohort):
        raise UsageError(f"--workers is {args.workers}; give 1 or more, and more than 1 for a cohort only")
    open_segmenter = functools.partial(Segmenter, bundle, args.weights, args.device, args.roi_size, args.overlap)
    with _progress(args.quiet) as stage:
        if cohort:
            entries = predict_cohort(cohort, args.output, bundle, open_segmenter, options, stage, workers=args.workers)
        else:
            files = find_files(args.input, bundle.modalities, flags) if args.input else flags
            report = predict_patient(files, args.output, bundle, open_segmenter, options, stage)
    if cohort:
        return _end_cohort(entries, args)
    if not args.quiet:
        _print_summary(report, args.output)
    return EXIT_STRICT if args.strict and _warned(report) else EXIT_OK


def _cohort(source: Path, bundle: BundleFacts) -> dict[str, Any]:
    """The patients of a CSV or a folder of folders; none for the folder of one patient."""
    from monai_passion.data.sources import find_patients, read_cohort

    if source.is_dir():
        patients = find_patients(source, bundle.modalities)
        return dict(patients) if patients and not any(source.glob("*.nii*")) else {}
    if source.suffix.lower() == ".csv":
        return dict(read_cohort(source, bundle.modalities))
    if not source.exists():
        raise InputError(f"{source} does not exist; check the path")
    raise UsageError(f"{source} is neither a folder nor a CSV; say which sequence it is, as in --flair {source}")


def _end_cohort(entries: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> int:
    """Say who failed and why; the exit code is that of the first of them."""
    failed = {name: entry for name, entry in entries.items() if entry["status"] != "done"}
    for name, entry in failed.items():
        print(f"monai-passion: error: {name}: {entry['message']}", file=sys.stderr)
    if not args.quiet:
        ended = f"{len(entries) - len(failed)} of {len(entries)} patients"
        print(f"{ended} in {args.output}, see volumes.csv and manifest.json")
    if failed:
        return int(next(iter(failed.values()))["exit_code"])
    reports = (json.loads((args.output / name / "report.json").read_text(encoding="utf-8")) for name in entries)
    return EXIT_STRICT if args.strict and any(map(_warned, reports)) else EXIT_OK


def _warned(report: Mapping[str, Any]) -> bool:
    return any(remark["level"] == "warning" for remark in report["remarks"])


def _given(args: argparse.Namespace, bundle: BundleFacts) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for modality in MODALITIES:
        paths: Sequence[Path] = getattr(args, modality) or ()
        if paths and modality not in bundle.modalities:
            raise UsageError(f"{bundle.name} knows no {modality}; its sequences are {', '.join(bundle.modalities)}")
        if len(paths) > 1:
            raise UsageError(f"{modality} is given {len(paths)} times ({', '.join(map(str, paths))}); choose one")
        if paths:
            files[modality] = paths[0]
    if not files and args.input is None:
        raise UsageError(f"no sequence given; add at least one of {' '.join(f'--{m}' for m in bundle.modalities)}")
    return files


@contextmanager
def _progress(quiet: bool) -> Iterator[Stage]:
    """What goes on: a line and a bar that change in a terminal, a line a stage and a quarter of one elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        told = ("", 0)

        def tell(name: str, share: float = 0.0) -> None:
            nonlocal told
            quarters = int(4 * share)
            if (name, quarters) != told and share < 1:
                console.print(f"{name}{f', {25 * quarters} %' * bool(quarters)} ...", highlight=False)
            told = (name, quarters)

        yield tell
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(name: str, share: float = 0.0) -> None:
            if not share:  # a new stage, whose length shows once a part of it is done
                progress.reset(task, description=f"{name} ...", total=None)
            else:
                progress.update(task, completed=share, total=1.0)

        yield show


def _print_summary(report: Mapping[str, Any], output: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=f"{report['bundle']['name']} {report['bundle']['version']}", title_justify="left")
    for name, justify in (("", "left"), ("volume (mL)", "right"), ("components", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in report["regions"]:
        table.add_row(f"[bold]{escape(row['name'])}[/bold]", f"{row['volume_ml']:.2f}", str(row["components"]))
    table.add_section()
    for row in report["labels"]:
        table.add_row(f"{row['value']} {escape(row['name'])}", f"{row['volume_ml']:.2f}", str(row["components"]))
    console.print(table)
    used, absent = report["modalities"]["used"], report["modalities"]["absent"]
    console.print(f"used: {', '.join(used)}; absent: {', '.join(absent) or 'none'}")
    if uncertainty := report["uncertainty"]:
        console.print(f"mean uncertainty (0 to 1): {_or_dash(uncertainty['score'])}")
        for modality, dice in uncertainty["agreement"].items():
            rows = ", ".join(f"{region} {value:.2f}" for region, value in dice.items())
            console.print(f"Dice of {modality} alone with all together: {rows}")
    for row in report["combinations"]:
        rows = ", ".join(f"{region['name']} {region['volume_ml']:.2f}" for region in row["regions"])
        console.print(f"{'+'.join(row['modalities'])}: {rows} mL")
    for row in report["expected_quality"]:
        console.print(f"in the evaluation with these sequences: {row['region']} Dice {row['dice']:.2f}")
    for remark in report["remarks"]:
        console.print(
            f"[{'yellow' if remark['level'] == 'warning' else 'dim'}]{remark['level']}: {escape(remark['text'])}"
        )
    seconds = sum(report["seconds"].values())
    console.print(f"{seconds:.0f} s on {report['device']}, at most {report['peak_memory_mb']:.0f} MB")
    console.print(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    console.print(f"[dim]{report['notice']}")


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
