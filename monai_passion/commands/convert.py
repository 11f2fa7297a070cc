"""``monai-passion convert``: weights of the released PASSION code -> weights of this package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from monai_passion.errors import PassionError, UsageError, WeightsError
from monai_passion.system.files import PathLike
from monai_passion.system.output import refuse_older
from monai_passion.tasks import load_task

__all__ = ["convert"]

NETWORKS = {"mmformer": "MMFormer", "rfnet": "RFNet", "m2ftrans": "M2FTrans"}
LISTED = 20
"""Number of differences that are printed."""


def convert(
    released: PathLike,
    *,
    network: Literal["mmformer", "rfnet", "m2ftrans"],
    task: Literal["brats_mri", "myops_cmr"] = "brats_mri",
    output: PathLike,
    heads: int | None = None,
    roi_size: Sequence[int] | int | None = None,
    overwrite: bool = False,
) -> Path:
    """Turn weights of the released PASSION code into weights of this package.

    Example:
        monai-passion convert model_last.pth --network rfnet --output model.safetensors

    Args:
        released: checkpoint of the released code, such as model_last.pth.
        network: the network of the checkpoint.
        task: defines the modalities.
        output: file to write, ending in .safetensors.
        heads: attention heads, which cannot be read from the weights (default: 8, as released).
        roi_size: image size of the training, where it cannot be read from the weights, such as 80 or 96x96x64.
        overwrite: replace an older file.

    Returns:
        ``output``.

    Raises:
        WeightsError: an array is missing, unknown or of another shape; the message lists them.
        UsageError: settings that contradict each other.
    """
    released, output = Path(released), Path(output)
    if output.suffix != ".safetensors":
        raise UsageError(f"--output is {output}; let it end in .safetensors")
    refuse_older(output, overwrite, [released])
    if network == "rfnet" and (heads is not None or roi_size is not None):
        raise UsageError("rfnet has no attention heads and no positions; leave --heads and --roi-size out")
    from monai_passion import networks
    from monai_passion.networks.released import RELEASED_PREFIXES, convert_state_dict, infer_arguments
    from monai_passion.networks.weights import read_torch_state, save_weights

    if not released.is_file():
        raise WeightsError(f"no file {released}; check the path")
    arrays, _ = read_torch_state(released)
    prefixes = RELEASED_PREFIXES[task]
    with _explained(released, WeightsError):
        arguments = infer_arguments(arrays, network, prefixes)
    if heads is not None:
        arguments["heads"] = heads
    if roi_size is not None:
        sizes = [roi_size] if isinstance(roi_size, int) else list(roi_size)
        arguments["roi_size"] = sizes if len(sizes) > 1 else sizes[0]
    with _explained(released, UsageError):
        built = getattr(networks, NETWORKS[network])(**arguments)
    with _explained(released, WeightsError):
        converted = convert_state_dict(arrays, network, built, prefixes)
    built.load_state_dict(converted.backbone)
    save_weights(built, output, {"arguments": arguments, "modalities": list(load_task(task).modality_names)})

    described = ", ".join(f"{name} {value}" for name, value in arguments.items())
    print(f"{output}: {NETWORKS[network]} with {described}")
    if converted.dropped:
        print(f"dropped {len(converted.dropped)} arrays of the decoder that only training uses:")
        print("\n".join(f"  {name}" for name in converted.dropped))
    return output


@contextlib.contextmanager
def _explained(path: Path, kind: type[PassionError]) -> Iterator[None]:
    """A ValueError becomes ``kind``, with the name of the file and no more than `LISTED` lines."""
    try:
        yield
    except ValueError as error:
        lines = str(error).splitlines()
        more = [f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        raise kind("\n".join([f"{path}: {lines[0]}", *lines[1:LISTED], *more])) from error
