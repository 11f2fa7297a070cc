"""``monai-passion train``: a training by a bundle's own configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_passion.errors import InputError, UsageError, did_you_mean
from monai_passion.system.files import PathLike

if TYPE_CHECKING:
    from monai_passion.prediction.segmenter import BundleFacts

__all__ = ["ARGUMENTS", "train"]

ARGUMENTS = "train_args.json"
"""What a training was started with, beside its checkpoints, as MONAI's ``--args_file`` takes it."""
MAY_CHANGE = {"epochs", "device", "num_workers", "learning_rate", "batch_size", "val_interval", "save_interval", "amp"}
MAY_CHANGE |= {"cache_rate", "cache_dir", "resume", "deterministic"}
"""Settings that may be others when a training goes on."""
WRITTEN = (
    ARGUMENTS,
    "*.pt",
    "*.pt.sha256",
    "*.safetensors*",
    "curves.csv",
    "datalist.json",
    "presence.csv",
    "events.*",
)
"""What an earlier training left in its folder."""


def train(
    data: PathLike,
    *,
    output: PathLike,
    task: str = "brats_mri",
    network: str = "rfnet",
    bundle: str | None = None,
    method: str | None = None,
    missing: str | None = None,
    datalist: PathLike | None = None,
    presence: PathLike | None = None,
    labels: str | None = None,
    device: str | None = None,
    set: Mapping[str, str] | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> Path:
    """Train on a folder of patients, whatever sequences each of them has.

    Example:
        monai-passion train PATIENTS --output RUN
        monai-passion train PATIENTS --output RUN --method pmr --missing idt_2468 --network mmformer --set epochs=3

    It runs the configuration of a bundle, and prints the line that does the same by MONAI alone. The same command again
    goes on with a training that was interrupted.

    Args:
        data: folder of the patients.
        output: folder of the run: checkpoints, model.pt with the best weights, curves.csv, the split.
        task: what is segmented; with network, chooses the bundle.
        network: backbone, such as rfnet, mmformer, m2ftrans or transunet.
        bundle: name or folder of the bundle, in place of task and network.
        method: passion, passion_released, baseline, moddrop, pmr, ogm_ge or teacher (default: the bundle's, passion).
        missing: take images out as in the paper, such as idt_2468, pdt or extreme (default: keep all there are).
        datalist: the split (default: drawn by the seed, and stored in the output).
        presence: table of who lacks what.
        labels: what the values in label files mean, as of `monai-passion datalist` (default: found out).
        device: cpu, cuda:0 (default: a GPU where there is one).
        set: further settings, such as epochs=3, crop_size=[64,64,64] or loss#gamma=0.02.
        overwrite: start anew in a folder with an earlier training.
        trust: run a bundle that is not this package's own; it can run any program.

    Returns:
        ``output``.

    Raises:
        UsageError: no such bundle, method or setting; ``output`` holds something else, or another training.
        InputError: patients that cannot be trained on.
        ResourceError: not enough memory or disk.
    """
    from monai_passion.bundle.run import command_line, run_bundle
    from monai_passion.bundle.trust import check_trusted
    from monai_passion.prediction.segmenter import find_bundle
    from monai_passion.system.files import write_text
    from monai_passion.system.resources import resource_folder
    from monai_passion.system.settings import as_text, check_settings, read_config, read_value

    data, output = Path(data), Path(output)
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; give the folder that holds the patients")
    facts: BundleFacts = find_bundle(bundle or _bundle_of(task, network))
    if not trust:
        check_trusted(facts.path, "train")
    configs = [(facts.path / "configs" / "train.json").absolute()]
    for kind, name in (("methods", method), ("missing", missing)):
        if name is not None:
            known = sorted(path.stem for path in (resource_folder("configs") / kind).glob("*.json"))
            if name not in known:
                raise UsageError(f"no {kind}/{name}; known are {', '.join(known)}{did_you_mean(name, known)}")
            configs.append((resource_folder("configs") / kind / f"{name}.json").absolute())
    given = {key: read_value(value) for key, value in (set or {}).items()}
    check_settings(given, read_config(configs))
    for key, path in (("datalist", datalist), ("presence", presence)):
        if path is not None:
            if not Path(path).is_file():
                raise InputError(f"{path} does not exist; check the --{key}")
            given[key] = as_text(str(Path(path).absolute()))
    given |= {key: value for key, value in (("labels", labels), ("device", device)) if value is not None}
    given |= {"dataset_dir": as_text(str(data.absolute())), "ckpt_dir": as_text(str(output.absolute()))}
    arguments: dict[str, Any] = {"run_id": "training", "config_file": [str(path) for path in configs], **given}
    was_there = output.exists()
    _prepare(output, arguments, overwrite)
    write_text(output / ARGUMENTS, json.dumps(arguments, indent=2) + "\n")
    print(command_line("training", configs, given), flush=True)
    try:
        run_bundle("training", configs, given)
    except BaseException:
        if not any(output.glob("*.pt")):  # it never began
            _remove_written(output)
            if not was_there:
                output.rmdir()
        raise
    print(f"the weights are in {output}; next: monai-passion evaluate {output}")
    return output


def _bundle_of(task: str, network: str) -> str:
    from monai_passion.system.resources import resource_folder

    rows: list[dict[str, str]] = json.loads((resource_folder("configs") / "bundles.json").read_text(encoding="utf-8"))
    tasks = sorted({row["task"] for row in rows})
    if task not in tasks:
        hint = did_you_mean(task, tasks)
        raise UsageError(f"no bundle for the task {task}; known are {', '.join(tasks)}; or give --bundle FOLDER{hint}")
    names = {row["network"]: row["name"] for row in rows if row["task"] == task}
    if network not in names:
        hint = did_you_mean(network, names)
        raise UsageError(f"no bundle of {network} for {task}; its networks are {', '.join(names)}{hint}")
    return names[network]


def _prepare(output: Path, arguments: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder ready for a new training, or for one that goes on."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; give a folder")
    earlier = output / ARGUMENTS
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        if not earlier.is_file():
            raise UsageError(f"--output {output} is not empty; give another folder, or add --overwrite")
        before = json.loads(earlier.read_text(encoding="utf-8"))
        keys = [key for key in {**before, **arguments} if key not in MAY_CHANGE]
        if other := [
            f"{key} {before.get(key)} -> {arguments.get(key)}" for key in keys if before.get(key) != arguments.get(key)
        ]:
            raise UsageError(
                f"{output} holds a training with other settings ({'; '.join(other)}); give another --output, or add "
                "--overwrite to start anew"
            )
    if overwrite and output.is_dir():
        _remove_written(output)


def _remove_written(output: Path) -> None:
    for path in (path for pattern in WRITTEN for path in output.glob(pattern)):
        path.unlink(missing_ok=True)
