"""A bundle that trains in moments, and a grid of it."""

import json
import os
import time
from pathlib import Path

from tests.reporting.made_up import write_run

TRAIN = {
    "imports": ["$import tests.experiment.fake as fake"],
    "epochs": 3,
    "wait": 0.0,
    "dataset_dir": "",
    "datalist": None,
    "presence": None,
    "seed": 0,
    "ckpt_dir": "",
    "loss": {"name": "none", "beta": True},
    "training": ["$fake.train(@ckpt_dir, @epochs, @seed, @wait, @loss)"],
}
EVALUATE = {
    "imports": ["$import tests.experiment.fake as fake"],
    "output_dir": "",
    "ckpt_dir": "",
    "label": None,
    "split": "",
    "epochs": 3,
    "evaluating": ["$fake.evaluate(@ckpt_dir, @output_dir)"],
}


def train(ckpt_dir, epochs, seed, wait, loss):
    """Resumes at the last checkpoint; ``epochs.log`` has a line for each epoch that began."""
    folder = Path(ckpt_dir)
    folder.mkdir(parents=True, exist_ok=True)
    done = max((int(path.stem.split("=")[1]) for path in folder.glob("*.pt")), default=0)
    for epoch in range(done + 1, epochs + 1):
        with open(folder / "epochs.log", "a") as log:
            log.write(f"{epoch} {os.getpid()} {seed} {loss['name']} {loss['beta']}\n")
        time.sleep(wait)
        if loss["name"] == "broken":
            raise SystemExit(3)
        (folder / f"checkpoint_epoch={epoch}.pt").write_text("")
    (folder / "curves.csv").write_text(f"epoch,name,modality,value\n{epochs},mean_dice,,0.5\n")


def evaluate(ckpt_dir, output_dir):
    assert list(Path(ckpt_dir).glob("*.pt"))
    write_run(Path(output_dir), modalities=("t1", "t2"), n=2, curves=False)


def write_project(folder, **grid):
    """``configs/`` with a grid of two methods and two seeds, ``bundles/`` and ``data/``; return the grid's path."""
    documents = {
        "bundles/fake/configs/train.json": TRAIN,
        "bundles/fake/configs/evaluate.json": EVALUATE,
        "configs/methods/one.json": {"loss": {"name": "one", "beta": True}},
        "configs/methods/broken.json": {"loss": {"name": "broken", "beta": True}},
        "configs/tasks/small.json": {"epochs": 2},
        "configs/experiments/grid.json": {
            "table": "1",
            "bundle": "fake",
            "axes": {
                "setting": {"IDT": {"presence": "who.csv"}},
                "method": {"Baseline": [], "One": {"configs": "methods/one", "overrides": {"loss#beta": False}}},
            },
            "seeds": [1, 2],
            **grid,
        },
        "data/datalist.json": {"task": "brats_mri", "modalities": ["flair", "t1c", "t1", "t2"]}
        | {
            split: [
                {
                    "case": split,
                    "patient": split,
                    "group": "HGG",
                    "image": {"flair": "f.nii", "t1c": None, "t1": None, "t2": None},
                }
            ]
            for split in ("training", "validation", "test")
        },
    }
    for name, content in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    (folder / "data" / "who.csv").write_text("case\n")
    return folder / "configs" / "experiments" / "grid.json"
