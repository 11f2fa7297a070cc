"""``monai-passion composite``: patients with another patient's tumor, as files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_passion.errors import InputError, UsageError
from monai_passion.system.files import PathLike

if TYPE_CHECKING:
    from monai_passion.transforms import RandTransplantTumord

__all__ = ["composite"]

BUNDLE = "brats_mri_segmentation_rfnet_passion"
"""The bundle whose transforms load the patients."""
TRIES = 50
"""Heads that are drawn for a composite at most, until a tumor goes into one."""


def composite(
    data: PathLike,
    *,
    output: PathLike,
    cases: int = 10,
    seed: int = 0,
    healthy_dir: PathLike | None = None,
    cube_dir: PathLike | None = None,
    cube_label_dir: PathLike | None = None,
    spacing: float = 1.0,
    labels: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write composite patients for inspection, as a training with transplanted tumors sees them.

    Example:
        monai-passion composite DATA --output COMPOSITES --cases 5

    Each is one patient's head, made healthy about half the time, with another patient's tumor, in the sequences that
    the head has. Images are z-scored over the brain.

    Args:
        data: labeled patients with FLAIR, T1c, T1 and T2, as in BraTS2020: hosts, and donors.
        output: a new or empty folder, in the layout of BraTS2020, with composites.csv: host and donor of each.
        cases: how many.
        seed: same seed, same patients.
        healthy_dir: heads without a glioma, as further hosts.
        cube_dir: cubes of further donors.
        cube_label_dir: the whole label maps of these donors.
        spacing: mm.
        labels: meaning of the label values, such as hdglio or 1=ED,2=NCR/NET,3=ET (default: found out).
        overwrite: replace what an earlier run left in the output.

    Returns:
        ``output``.

    Raises:
        InputError: patients or files that cannot be used.
        UsageError: ``output`` is not empty, no case is wanted, or a negative seed.
    """
    import numpy as np
    from monai.bundle import ConfigParser
    from monai.transforms import Compose, NormalizeIntensity

    from monai_passion.bundle.steps.data import training_donors, with_healthy
    from monai_passion.data.datalists import labeled_items
    from monai_passion.data.seeds import check_seed
    from monai_passion.data.training_set import prepare_datalist
    from monai_passion.system.output import output_folder
    from monai_passion.system.resources import resource_folder
    from monai_passion.tasks import load_task
    from monai_passion.transforms import RandTransplantTumord

    parser = ConfigParser()
    parser.read_config(str(resource_folder("bundles") / BUNDLE / "configs" / "train.json"))
    fast = resource_folder("configs") / "tasks" / "brats_mri" / "fast.json"
    parser["preprocess"] = json.loads(fast.read_text(encoding="utf-8"))["preprocess"]
    parser["spacing"], parser["bundle_root"] = [spacing] * 3, "."
    transforms = [parser.get_parsed_content("load"), *parser.get_parsed_content("preprocess")]
    modalities = parser.get_parsed_content("modalities")

    if cases < 1:
        raise UsageError(f"{cases} cases; give 1 case or more")
    check_seed(seed)
    output = Path(output)
    with output_folder(output, overwrite=overwrite, last="composites.csv") as folder:
        found = prepare_datalist(data, fractions=(1, 0, 0), labels=labels)
        labeled, unlabeled = labeled_items(found["training"])
        if not labeled:
            raise InputError(f"{data}: no patient has a label, so none is a host or a donor; add their label maps")
        if unlabeled:
            print(f"not used: {', '.join(unlabeled)} (without a label, which would hide a tumor)", flush=True)
        found = {**found, "training": labeled}
        hosts = with_healthy(found, None if healthy_dir is None else str(healthy_dir))
        places = [None if place is None else str(place) for place in (cube_dir, cube_label_dir)]
        donors = training_donors(hosts, transforms, modalities, *places)
        transplant = RandTransplantTumord(["image", "label"], donors, prob=1.0).set_random_state(seed)
        preprocess, order = Compose(transforms), np.random.default_rng(seed)
        normalize = NormalizeIntensity(nonzero=True, channel_wise=True)
        values = np.array(load_task("brats_mri").label_values, np.uint8)
        with (folder / "composites.csv").open("w", newline="") as table:
            rows = csv.writer(table)
            rows.writerow(["case", "host", "host_made_healthy", "donor", "shift_mm", "scale", "mirrored"])
            for k in range(cases):
                for _ in range(TRIES):
                    host = hosts["training"][order.integers(len(hosts["training"]))]
                    item = transplant(preprocess(host))
                    if transplant.donor is not None:
                        break
                else:
                    raise InputError(
                        f"{data}: no tumor went into any of {TRIES} heads that were drawn; a donor needs all sequences "
                        "of the head, so add patients with more of them"
                    )
                item["image"] = normalize(item["image"])
                case, (donor, *placement) = f"Composite_{k + 1:03d}", _placement(transplant)
                _write_case(folder / case, item, modalities, values)
                rows.writerow([case, host["patient"], transplant.healthy, donor, *placement])
                print(f"{case}: tumor of {donor} in {host['patient']}", flush=True)
    return output


def _write_case(folder: Path, item: Mapping[str, Any], modalities: Sequence[str], values: Any) -> None:
    """The images and the label map of a composite; ``values`` are those of the classes in files."""
    import nibabel as nib
    import numpy as np

    from monai_passion.data.donors import FILES

    folder.mkdir()
    affine = np.asarray(item["image"].affine)
    for m, image in zip(modalities, np.asarray(item["image"]), strict=True):
        if not image.any():
            continue  # the host lacks it
        nib.save(nib.Nifti1Image(image, affine), folder / f"{folder.name}_{FILES[m]}.nii.gz")
    label = values[np.asarray(item["label"])[0].astype(int)]
    nib.save(nib.Nifti1Image(label, affine), folder / f"{folder.name}_seg.nii.gz")


def _placement(transplant: RandTransplantTumord) -> list[str]:
    """Donor, shift in mm, scale and mirroring of the last tumor."""
    place = transplant.placement
    assert transplant.donor is not None
    assert place is not None
    shift = " ".join(f"{x:.1f}" for x in place.shift)
    return [transplant.donor.patient, shift, f"{place.scale:.2f}", str(place.mirror)]
