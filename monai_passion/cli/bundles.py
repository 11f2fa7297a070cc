"""``monai-passion bundles``: write the bundles from their fragments, check them, or export one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from monai_passion.errors import PassionError, UsageError

if TYPE_CHECKING:
    from monai_passion.prediction.segmenter import BundleFacts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    for action, summary in (
        ("make", "write the bundles from the fragments"),
        ("check", "change nothing; exit 1 when a bundle differs from what the fragments make"),
    ):
        part = parts.add_parser(action, help=summary, description=summary)
        part.add_argument("--configs", type=Path, default=Path("configs"), help="the fragments (default: %(default)s)")
        part.add_argument("--output", type=Path, default=Path("bundles"), help="the bundles (default: %(default)s)")
    part = parts.add_parser("export", help="one bundle as a zip, or its network as ONNX")
    part.add_argument("bundle", metavar="NAME", help="its name or folder")
    part.add_argument("--output", type=Path, required=True, metavar="FILE", help="X.zip or X.onnx, the file to write")
    part.add_argument("--weights", type=Path, metavar="FILE", help="default: those in the bundle's models/, if any")
    part.add_argument("--vendor", action="store_true", help="put the package in, so that it need not be installed")
    part.add_argument("--trust", action="store_true", help="ONNX of a bundle that is not this package's own")
    part.add_argument("--overwrite", action="store_true", help="replace an older file")


def run(args: argparse.Namespace) -> int:
    return _export(args) if args.action == "export" else _make_or_check(args)


def _make_or_check(args: argparse.Namespace) -> int:
    from monai_passion.bundle.materialize import drift, materialise

    if not (args.configs / "bundles.json").is_file():
        raise UsageError(f"{args.configs} has no bundles.json; run this in the project's folder or give --configs")
    if args.action == "check":
        differing = drift(args.configs, args.output)
        if differing:
            names = ", ".join(map(os.fspath, differing))
            raise PassionError(f"these differ from what {args.configs}/ makes: {names}; run: make bundles")
        print(f"{args.output} equals what {args.configs} makes")
        return 0
    changed = materialise(args.configs, args.output)
    print("\n".join(f"wrote {path}" for path in changed) or "nothing to change")
    return 0


def _export(args: argparse.Namespace) -> int:
    from monai_passion.prediction.segmenter import find_bundle

    if args.output.suffix not in (".zip", ".onnx"):
        raise UsageError(f"{args.output} is no name for a zip or ONNX; let --output end in .zip or .onnx")
    if args.output.exists() and not args.overwrite:
        raise UsageError(f"{args.output} exists; choose another --output or add --overwrite")
    bundle = find_bundle(args.bundle)
    if args.output.suffix == ".zip":
        from monai_passion.bundle.export import export_bundle

        export_bundle(bundle.path, args.output, args.weights, args.vendor)
    else:
        _export_onnx(bundle, args)
    print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MB")
    return 0


def _export_onnx(bundle: BundleFacts, args: argparse.Namespace) -> None:
    from monai_passion.bundle.export import export_onnx
    from monai_passion.bundle.trust import check_trusted
    from monai_passion.networks import MultiModalBackbone
    from monai_passion.prediction.segmenter import Segmenter

    if args.vendor:
        raise UsageError("--vendor is for a zip; ONNX needs no package")
    if not args.trust:
        check_trusted(bundle.path)
    segmenter = Segmenter(bundle, args.weights, "cpu")
    if not isinstance(segmenter.network, MultiModalBackbone):
        raise UsageError(f"the network of {bundle.name} takes no mask of what is available; export it by MONAI's means")
    export_onnx(segmenter.network, args.output, segmenter.settings["roi_size"])
