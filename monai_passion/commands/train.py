"""``monai-passion train``: a training by a bundle's own configuration."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_passion.bundle.run import ARGUMENTS, command_line, run_bundle
from monai_passion.bundle.run_folder import run_folder
from monai_passion.errors import InputError, UsageError, did_you_mean
from monai_passion.system.files import PathLike

if TYPE_CHECKING:
    from monai_passion.tasks import Task

__all__ = ["train"]


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
    """Train on a folder of patients with any sequences.

    Example:
        monai-passion train PATIENTS --output RUN
        monai-passion train PATIENTS --output RUN --method pmr --missing idt_2468 --network mmformer --set epochs=3
        monai-passion train PATIENTS --output RUN --task my_task.json

    It runs the configuration of a bundle, and prints the equivalent command of MONAI. For a task of yours it first
    makes the bundle, within the output. Repeat the command to resume an interrupted training.

    Args:
        data: folder of the patients.
        output: folder of the run: checkpoints, model.pt with the best weights, curves.csv, the split, and log.txt with
            messages that the terminal does not show. Give it to ``evaluate``, or to ``predict`` as the bundle.
        task: what is segmented: a name, or a task file, see ``monai-passion task``; chooses the bundle together with
            network.
        network: backbone, such as rfnet, mmformer, m2ftrans or transunet.
        bundle: name or folder of the bundle, in place of task and network.
        method: passion, passion_released, baseline, moddrop, pmr, ogm_ge, redcore, hga, teacher, unimodal, unimodal_kl
            or subset_students; by default the bundle's, passion.
        missing: take images out as in the paper, such as idt_2468, pdt or extreme (default: keep all there are).
        datalist: the split (default: drawn by the seed, and stored in the output).
        presence: CSV table of the modalities that each patient has.
        labels: meaning of the label values, as for `monai-passion datalist` (default: found out).
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
    from monai_passion.bundle.settings import as_text, check_settings, read_config, read_value
    from monai_passion.bundle.trust import check_trusted
    from monai_passion.system.files import write_text
    from monai_passion.system.resources import resource_folder

    data, output = Path(data), Path(output)
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; give the folder that holds the patients")
    with _bundle(task, network, bundle, output, overwrite) as (folder, home):
        if not trust:
            check_trusted(folder, config="train")
        fragments = []
        for kind, name in (("methods", method), ("missing", missing)):
            if name is not None:
                known = sorted(path.stem for path in (resource_folder("configs") / kind).glob("*.json"))
                if name not in known:
                    raise UsageError(f"no {kind}/{name}; known are {', '.join(known)}{did_you_mean(name, known)}")
                fragments.append((resource_folder("configs") / kind / f"{name}.json").absolute())
        given = {key: read_value(value) for key, value in (set or {}).items()}
        check_settings(given, read_config([folder / "configs" / "train.json", *fragments]))
        for key, path in (("datalist", datalist), ("presence", presence)):
            if path is not None:
                if not Path(path).is_file():
                    raise InputError(f"{path} does not exist; check the --{key}")
                given[key] = as_text(str(Path(path).absolute()))
        given |= {key: value for key, value in (("labels", labels), ("device", device)) if value is not None}
        given |= {"dataset_dir": as_text(str(data.absolute())), "ckpt_dir": as_text(str(output.absolute()))}
        configs = [home.absolute() / "configs" / "train.json", *fragments]
        arguments: dict[str, Any] = {"run_id": "training", "config_file": [str(path) for path in configs], **given}
        made = home if folder != home else None
        with run_folder(output, arguments, overwrite, made):
            if made is not None:
                shutil.copytree(folder, home, dirs_exist_ok=True)
                words = ["bundles", "make", "--task", task, "--network", network, "--output", str(home)]
                print(shlex.join(["monai-passion", *words]))
            write_text(output / ARGUMENTS, json.dumps(arguments, indent=2) + "\n")
            print(command_line("training", configs, given), flush=True)
            run_bundle("training", configs, given)
    print(f"the weights are in {output}; next: monai-passion evaluate {output}")
    return output


@contextmanager
def _bundle(task: str, network: str, bundle: str | None, output: Path, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """The bundle of a training, and where it will be: another place where it has just been made, for a task file.

    Raises:
        UsageError: no such bundle, task or network; or ``output`` has a bundle of another task.
    """
    from monai_passion.bundle.facts import find_bundle
    from monai_passion.bundle.materialize import make_bundle
    from monai_passion.tasks import load_task

    name = bundle or (_bundle_of(load_task(task), network) if task.endswith(".json") else _bundle_named(task, network))
    if name is not None:
        path = find_bundle(name).path
        yield path, path
        return
    own = load_task(task)
    home = output / f"{own.name}_{network}"
    if home.is_dir() and not overwrite:
        if find_bundle(str(home)).task != own:
            raise UsageError(
                f"{home} is a bundle of another task than {task}; give another --output, or add --overwrite"
            )
        yield home, home
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / home.name
        make_bundle(own, network, made)
        yield made, home


def _bundle_of(task: Task, network: str) -> str | None:
    """The bundle of this package for a task, if it has one."""
    from monai_passion.tasks import load_task

    return next((r["name"] for r in _rows() if r["network"] == network and load_task(r["task"]) == task), None)


def _rows() -> list[dict[str, Any]]:
    from monai_passion.bundle.materialize import manifest
    from monai_passion.system.resources import resource_folder

    return manifest(resource_folder("configs"))


def _bundle_named(task: str, network: str) -> str:
    rows = _rows()
    tasks = sorted({row["task"] for row in rows})
    if task not in tasks:
        raise UsageError(
            f"no bundle for the task {task}; known are {', '.join(tasks)}, or give a task file (.json), or --bundle "
            f"FOLDER{did_you_mean(task, tasks)}"
        )
    names = {row["network"]: row["name"] for row in rows if row["task"] == task}
    if network not in names:
        hint = did_you_mean(network, names)
        raise UsageError(f"no bundle of {network} for {task}; its networks are {', '.join(names)}{hint}")
    return names[network]
