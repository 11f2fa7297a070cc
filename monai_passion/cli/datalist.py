"""`monai-passion datalist`: a folder of patients -> a datalist JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from monai_passion.data.datalists import FRACTIONS, LAYOUTS, SPLITS, make_datalist, write_datalist

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "layouts:\n" + "\n".join(f"  {name:<10} {what}" for name, what in LAYOUTS.items())
    parser.add_argument("folder", type=Path, help="where the patients are")
    parser.add_argument("--output", type=Path, required=True, metavar="D.json", help="what to write")
    parser.add_argument("--layout", choices=["auto", *LAYOUTS], default="auto", help="see below (default: auto)")
    parser.add_argument(
        "--fractions",
        type=float,
        nargs=3,
        default=FRACTIONS,
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the patients (default: %(default)s)",
    )
    parser.add_argument(
        "--split-dir", type=Path, metavar="DIR", help="train.txt, val.txt, test.txt in place of --fractions"
    )
    parser.add_argument("--seed", type=int, default=0, help="who goes where (default: 0)")
    parser.add_argument("--slices", action="store_true", help="one item a slice, as for 2-D networks")
    parser.add_argument("--padded-cubes", action="store_true", help="keep cubes that are zero-padded, too")


def run(args: argparse.Namespace) -> int:
    datalist = make_datalist(
        args.folder,
        args.layout,
        fractions=args.fractions,
        split_dir=args.split_dir,
        seed=args.seed,
        slices=args.slices,
        full_only=not args.padded_cubes,
    )
    write_datalist(args.output, datalist)
    table = Table("split", *(("patients", "items")), *datalist["modalities"], "label", title=datalist["task"])
    for split in SPLITS:
        items = datalist[split]
        have = [sum(bool(item["image"][m]) for item in items) for m in datalist["modalities"]]
        labelled = sum("label" in item for item in items)
        patients = len({item["patient"] for item in items})
        table.add_row(split, *map(str, (patients, len(items), *have, labelled)))
    Console().print(table)
    print(f"wrote {args.output}")
    return 0
