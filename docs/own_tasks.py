"""Write docs/results/own_tasks.md: ``python docs/own_tasks.py BUILD``; BUILD is a folder for made-up data and results.

Three tasks that this package does not know go from a folder of files to a segmentation by commands alone, which are run
here as they stand on the page.
"""

import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from monai_passion.cli import main
from monai_passion.system.files import write_text

PAGE = Path(__file__).parent / "results" / "own_tasks.md"
PATIENTS = 6
SMALL = "width=2 epochs=2 val_interval=2"
LONGEST = 26
"""Lines of a command's output that are shown."""


class Example(NamedTuple):
    """A task, made-up patients of it, and what is done with them."""

    title: str
    text: str
    folder: str
    shape: tuple[int, int, int]
    files: Mapping[str, str]
    """Modality -> what follows the patient in the name of its file; {} stands for the patient."""
    nobody: Sequence[str]
    label: str
    values: Sequence[int]
    task: str
    """The words of ``monai-passion task`` after the folder."""
    sizes: str
    image: Sequence[str]
    """Modalities that are given one by one in the end."""


MS = Example(
    "MS lesions: FLAIR, T1, PD",
    "One label. Every other patient lacks T1.",
    "ms",
    (32, 32, 32),
    {"flair": "{}_FLAIR", "t1": "{}_T1w", "pd": "{}_PD"},
    (),
    "{}_seg",
    (1,),
    "--modalities flair t1 pd --classes lesion=1",
    "crop_size=[32,32,32] roi_size=[32,32,32]",
    ("pd",),
)
EXAMPLES = (
    MS,
    MS._replace(
        title="MS lesions where nobody has PD",
        text="The network keeps the channel, and a training says once that it learns nothing of it; so does "
        "`predict` where it gets a PD all the same.",
        folder="ms_without_pd",
        nobody=("pd",),
        image=("flair", "pd"),
    ),
    Example(
        "Prostate: T2, ADC, high b-value",
        "Two zones. ADC and high b-value images are no images of the brain's task; here they are. The scanner's b1400 "
        "is an alias of `hbv`: no file is renamed.",
        "prostate",
        (32, 32, 16),
        {"t2": "{}_t2w", "adc": "{}_ep2d_diff_ADC", "hbv": "{}_dwi_b1400"},
        (),
        "{}_seg",
        (1, 2),
        "--modalities t2 adc hbv=b1400 --classes PZ=1 TZ=2 --anatomy prostate",
        "crop_size=[32,32,16] roi_size=[32,32,16]",
        ("t2", "hbv"),
    ),
    Example(
        "CT and PET, slice by slice",
        "The names of autoPET. The label's value is 7, as in the files; what the network has is its own affair.",
        "petct",
        (32, 32, 4),
        {"ct": "CTres", "pet": "SUV"},
        (),
        "SEG",
        (7,),
        "--modalities ct=CTres pet=SUV --classes tumor=7 --spatial-dims 2",
        "crop_size=[32,32] roi_size=[32,32]",
        ("pet",),
    ),
)


def write_patients(folder: Path, example: Example) -> None:
    """Balls of each label on noise; every other patient lacks the second modality."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*map(np.arange, example.shape), indexing="ij")
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    for n in range(1, PATIENTS + 1):
        home, patient = folder / f"P{n:02}", f"P{n:02}"
        home.mkdir(parents=True)
        label = np.zeros(example.shape, np.int16)
        for value in example.values:
            center = [rng.uniform(0.3, 0.7) * size for size in example.shape]
            label[sum((a - c) ** 2 for a, c in zip(axes[:2], center[:2], strict=True)) < 50] = value
        for k, (m, name) in enumerate(example.files.items()):
            image = rng.normal(100, 5, example.shape) + 20 * (k + 1) * (label > 0)
            if m not in example.nobody and not (k == 1 and n % 2 == 0):
                nib.save(nib.Nifti1Image(image.astype(np.float32), affine), home / f"{name.format(patient)}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), home / f"{example.label.format(patient)}.nii.gz")
        if example.nobody and n == 1:
            nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder.parent / f"{example.folder}_PD.nii.gz")


def run(command: str, build: Path) -> str:
    """A command and what it said, without this machine's folders, the time of day and what MONAI says of itself.

    Raises:
        SystemExit: it failed.
    """
    program, *words = shlex.split(command)
    assert program == "monai-passion"
    with (build / "said.txt").open("w+") as said, _everything_to(said.fileno()):
        code = main(words)
    text = (build / "said.txt").read_text()
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ - ", "", text.replace(f"{build}/", ""))
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("INFO - ")]
    print(f"$ {command}", *lines, sep="\n", flush=True)
    if code:
        raise SystemExit(f"{command} ended with {code}")
    shown = lines if len(lines) <= LONGEST else [*lines[: LONGEST - 6], "...", *lines[-6:]]
    return "\n".join([f"$ {command}", *shown])


@contextmanager
def _everything_to(file: int) -> Iterator[None]:
    """What this process writes to its output and errors goes to a file."""
    kept = [os.dup(1), os.dup(2)]
    sys.stdout.flush()
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)


def section(example: Example, build: Path) -> Iterator[str]:
    """The example's part of the page."""
    write_patients(build / example.folder, example)
    name = example.folder
    files = sorted(path.name for path in (build / name / "P01").iterdir())
    first = [
        f"{m}={name}_PD.nii.gz" if m in example.nobody else f"{m}={name}/P01/{example.files[m].format('P01')}.nii.gz"
        for m in example.image
    ]
    commands = (
        f"monai-passion task {name} {example.task} --output {name}.json",
        f"monai-passion bundles make --task {name}.json --network rfnet --output {name}_bundle",
        f"monai-passion train {name} --bundle {name}_bundle --output {name}_run --device cpu "
        f"--set {SMALL} {example.sizes}",
        f"monai-passion evaluate {name}_run --device cpu --output {name}_scores",
        f"monai-passion report {name}_scores --output {name}_report",
        f"monai-passion predict --bundle {name}_run --image {' '.join(first)} --output {name}_one --device cpu",
        f"monai-passion predict {name}/P02 --bundle {name}_run --output {name}_two --device cpu",
    )
    listed = ", ".join(f"`{file}`" for file in files)
    yield f"## {example.title}\n\n{example.text} Files of the first patient: {listed}."
    for command in commands:
        yield f"```console\n{run(command, build)}\n```"


def write_page(build: Path) -> None:
    """Run everything, then write the page."""
    build = build.resolve()
    build.mkdir(parents=True)
    os.environ |= {"COLUMNS": "110", "CUDA_VISIBLE_DEVICES": ""}
    os.chdir(build)
    warnings.simplefilter("ignore")
    head = (
        "# Three tasks of your own, end to end\n\n"
        "What each command of [Your own task](../tutorials/your-own-task.md) prints. `make transcript` runs them "
        "and writes\nthis page; long outputs are shortened (`...`). "
        f"The data are made up: {PATIENTS} patients with balls on noise, which a\n"
        "network of width 2 sees for two epochs, so the scores mean nothing. Research use only, not a medical device."
    )
    parts = [part for example in EXAMPLES for part in section(example, build)]
    write_text(PAGE, "\n\n".join([head, *parts]) + "\n")


if __name__ == "__main__":
    write_page(Path(sys.argv[1]))
