"""``monai-passion demo``: a phantom patient, segmented from three sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_passion.system.files import PathLike

__all__ = ["demo"]

SIZE = 80
"""Voxels of 3 mm per edge, as in the training of the weights."""


def demo(*, output: PathLike = "demo", seed: int = 1000, overwrite: bool = False) -> dict[str, Any]:
    """Make a phantom patient and segment it from FLAIR, T1 and T2, as if T1c were missing.

    Example:
        monai-passion demo --output OUT

    The weights were trained on phantoms alone; they are for this demonstration, not for patients.

    Args:
        output: a new folder, for the phantom and the result.
        seed: each seed makes another patient.
        overwrite: replace what an earlier run left in the output.

    Returns:
        The content of report.json.

    Raises:
        UsageError: packages of the extra ``phantom`` are missing, or ``output`` holds something else.
        WeightsError: this package came without weights for phantoms.
    """
    import nibabel as nib
    import numpy as np

    from monai_passion.bundle.weights import PHANTOM, shipped_weights
    from monai_passion.commands.predict import predict
    from monai_passion.data.geometry import dice
    from monai_passion.data.phantom import write_cohort
    from monai_passion.errors import WeightsError
    from monai_passion.system.output import check_folder

    weights = shipped_weights(PHANTOM)
    if weights is None:
        raise WeightsError("this installation has no weights for phantoms; install the package again")
    output = Path(output)
    check_folder(output)
    (folder,) = write_cohort(output / "phantom", "brats", 1, seed, SIZE)
    files: dict[str, Any] = {m: folder / f"{folder.name}_{m}.nii.gz" for m in ("flair", "t1", "t2")}
    report = predict(output=output / "result", weights=weights, overwrite=overwrite, **files)
    found, truth = (
        np.asarray(nib.load(path).dataobj) > 0
        for path in (output / "result" / "segmentation.nii.gz", folder / f"{folder.name}_seg.nii.gz")
    )
    page = output / "result" / "report.html"
    print(f"whole tumor: Dice {dice(found, truth):.2f} with the truth, which a phantom has. Open {page}")
    return report
