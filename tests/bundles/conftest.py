import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_passion.networks.weights import save_weights

ROOT = Path(__file__).parents[2]
CONFIGS, BUNDLES = ROOT / "configs", ROOT / "bundles"
ROWS = json.loads((CONFIGS / "bundles.json").read_text())
NAMES = [row["name"] for row in ROWS]
QUICK = ("brats_mri_segmentation_rfnet_passion", "myops_cmr_segmentation_rfnet_passion")
"""Those that the fast tests run."""
SMALL_NETWORKS = {
    "rfnet": {},
    "mmformer": {"embedding": 16, "mlp": 16},
    "m2ftrans": {"mlp": 16},
    "transunet": {"embedding": 16, "mlp": 16},
}
COHORTS = {
    "brats_mri": (("flair", "t1ce", "t1", "t2"), "seg", (1, 2, 4), (36, 30, 32)),
    "myops_cmr": (("C0", "LGE", "T2"), "gd", (200, 500, 600, 1220, 2221), (40, 36, 3)),
}


def small(row, name):
    """Overrides that let a bundle run in seconds on the cohorts below."""
    dims = 2 if row["task"] == "myops_cmr" else 3
    size = {"width": 2, "crop_size": [32] * dims, "roi_size": [32] * dims, **SMALL_NETWORKS[row["network"]]}
    if dims == 3:
        size["spacing"] = [-1, -1, -1]
    return {**size, "epochs": 1, "val_interval": 1} if name == "train" else {**size, "overlap": 0}


def write_case(folder, case, task, seed):
    """A ball of each label, brighter in some modalities than in others, on noise."""
    modalities, label_name, labels, shape = COHORTS[task]
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.int16)
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    for value in labels:
        center = [rng.uniform(0.3, 0.7) * n for n in shape]
        label[sum((a - c) ** 2 for a, c in zip(axes[:2], center[:2], strict=True)) < 40] = value
    (folder / case).mkdir(parents=True)
    affine = np.diag([1.0, 1.0, 5.0 if shape[2] < 10 else 1.0, 1.0])
    for m, modality in enumerate(modalities):
        image = rng.normal(100, 5, shape) + 40 * (label == labels[m % len(labels)])
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / case / f"{case}_{modality}.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), folder / case / f"{case}_{label_name}.nii.gz")


def write_cohort(folder, task):
    """Four patients, of whom the first lacks the first modality and the third the last two; returns the folder."""
    modalities = COHORTS[task][0]
    for k in range(4):
        write_case(folder, f"case{k}", task, k)
    for case, modality in (("case0", modalities[0]), ("case2", modalities[-1]), ("case2", modalities[-2])):
        (folder / case / f"{case}_{modality}.nii.gz").unlink()
    return folder


@pytest.fixture(scope="session")
def cohorts(tmp_path_factory):
    """Task -> folder, see `write_cohort`."""
    return {task: write_cohort(tmp_path_factory.mktemp(task), task) for task in COHORTS}


@pytest.fixture
def bundle(request, tmp_path):
    """A copy of the bundle named by the parameter, outside the repository."""
    return Path(shutil.copytree(BUNDLES / request.param, tmp_path / request.param))


def row_of(bundle):
    return next(row for row in ROWS if row["name"] == bundle.name)


def workflow_of(folder, config, **changes):
    """A bundle's workflow, as MONAI's own command builds it."""
    configs = folder / "configs"
    return ConfigWorkflow(
        config_file=str(configs / f"{config}.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        workflow_type="train" if config == "train" else "infer",
        device="cpu",
        **{**small(row_of(folder), config), **changes},
    )


def add_weights(folder):
    """Put weights that nobody trained into a bundle."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser.update(small(row_of(folder), "inference"))
    facts = {"modalities": parser["modalities"], "method": "passion"}
    save_weights(parser.get_parsed_content("network_def"), folder / "models" / "model.safetensors", facts)
