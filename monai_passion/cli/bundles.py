"""``monai-passion bundles``: write the bundles from their fragments, or check that they still equal them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from monai_passion.errors import PassionError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="the fragments (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("bundles"), help="the bundles (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a bundle differs")


def run(args: argparse.Namespace) -> int:
    from monai_passion.bundling import drift, materialise

    if not (args.configs / "bundles.json").is_file():
        raise UsageError(f"{args.configs} has no bundles.json; run this in the project's folder or give --configs")
    if args.check:
        differing = drift(args.configs, args.output)
        if differing:
            names = ", ".join(map(os.fspath, differing))
            raise PassionError(f"these differ from what {args.configs}/ makes: {names}; run: make bundles")
        print(f"{args.output} equals what {args.configs} makes")
        return 0
    changed = materialise(args.configs, args.output)
    print("\n".join(f"wrote {path}" for path in changed) or "nothing to change")
    return 0
