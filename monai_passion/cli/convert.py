"""``monai-passion convert``: weights of the released PASSION code -> weights of this package."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from monai_passion.errors import PassionError, UsageError, WeightsError
from monai_passion.modalities import BRATS_MRI, MYOPS_CMR

NETWORKS = {"mmformer": "MMFormer", "rfnet": "RFNet", "m2ftrans": "M2FTrans"}
TASKS = {"brats_mri": BRATS_MRI, "myops_cmr": MYOPS_CMR}
LISTED = 20
"""How many differences are printed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("released", type=Path, help="checkpoint of the released code, such as model_last.pth")
    parser.add_argument("--network", required=True, choices=NETWORKS, help="what it was trained with")
    parser.add_argument("--task", choices=TASKS, default="brats_mri", help="gives the modalities (default: brats_mri)")
    parser.add_argument("--output", type=Path, required=True, help="file to write, ending in .safetensors")
    parser.add_argument(
        "--heads", type=int, help="attention heads, which the weights do not tell (default: 8, as released)"
    )
    parser.add_argument(
        "--roi-size", type=int, nargs="+", help="image size trained with, where the weights do not tell"
    )


def run(args: argparse.Namespace) -> int:
    if args.output.suffix != ".safetensors":
        raise UsageError(f"--output is {args.output}; let it end in .safetensors")
    if args.network == "rfnet" and (args.heads is not None or args.roi_size is not None):
        raise UsageError("rfnet has no attention heads and no positions; leave --heads and --roi-size out")
    from monai_passion import networks
    from monai_passion.networks.released import RELEASED_PREFIXES, convert_state_dict, infer_arguments
    from monai_passion.networks.weights import read_torch_state, save_weights

    if not args.released.is_file():
        raise WeightsError(f"no file {args.released}; check the path")
    released, _ = read_torch_state(args.released)
    prefixes = RELEASED_PREFIXES[args.task]
    with _explained(args.released, WeightsError):
        arguments = infer_arguments(released, args.network, prefixes)
    if args.heads is not None:
        arguments["heads"] = args.heads
    if args.roi_size is not None:
        arguments["roi_size"] = args.roi_size if len(args.roi_size) > 1 else args.roi_size[0]
    with _explained(args.released, UsageError):
        network = getattr(networks, NETWORKS[args.network])(**arguments)
    with _explained(args.released, WeightsError):
        converted = convert_state_dict(released, args.network, network, prefixes)
    network.load_state_dict(converted.backbone)
    save_weights(network, args.output, {"arguments": arguments, "modalities": list(TASKS[args.task])})

    described = ", ".join(f"{name} {value}" for name, value in arguments.items())
    print(f"{args.output}: {NETWORKS[args.network]} with {described}")
    if converted.dropped:
        print(f"dropped {len(converted.dropped)} arrays of the decoder that only training uses:")
        print("\n".join(f"  {name}" for name in converted.dropped))
    return 0


@contextlib.contextmanager
def _explained(path: Path, kind: type[PassionError]) -> Iterator[None]:
    """A ValueError becomes ``kind``, with the name of the file and no more than `LISTED` lines."""
    try:
        yield
    except ValueError as error:
        lines = str(error).splitlines()
        more = [f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        raise kind("\n".join([f"{path}: {lines[0]}", *lines[1:LISTED], *more])) from error
