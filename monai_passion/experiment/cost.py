"""The cost of a grid before it is run: the steps of its cells, and the time of a step on this machine."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_passion.bundle.settings import check_settings, read_config
from monai_passion.data.sampling import CombinationSampler, combination_items
from monai_passion.data.slices import slices_of
from monai_passion.experiment.grid import Cell

__all__ = ["cost_lines", "count_steps", "measure_step", "training_config"]


def training_config(cell: Cell, configs: Path, bundles: Path) -> dict[str, Any]:
    """The merged configuration of a cell's training, with its overrides.

    Raises:
        InputError: a configuration that does not exist.
        UsageError: an override of a key that no configuration has.
    """
    from monai.bundle import ConfigParser

    files = [bundles / cell.bundle / "configs" / "train.json", *(configs / f"{name}.json" for name in cell.configs)]
    check_settings(cell.overrides, read_config(files))
    parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in files]))
    for key, value in cell.overrides.items():
        parser[key] = value
    config: dict[str, Any] = parser.get()
    return config


def count_steps(config: Mapping[str, Any], training: Sequence[Mapping[str, Any]], root: Path) -> int:
    """Batches of a training: epochs times those of the training items, of their slices in 2-D."""
    items = slices_of(training, root) if config.get("spatial_dims", 3) == 2 else training
    number = len(items)
    if "combinations" in config:  # as of HGA
        number = len(CombinationSampler(combination_items(items, config["modalities"]), number))
    return int(config["epochs"]) * math.ceil(number / int(config.get("batch_size", 1)))


def measure_step(config: Mapping[str, Any], threads: int) -> float | None:
    """Seconds of a training step on noise with every modality: the most that a step of the training takes.

    Returns:
        The time of the second of two steps; None if the method needs something that is not here, such as a teacher.
    """
    import torch
    from monai.bundle import ConfigParser

    from monai_passion.bundle.steps.data import PresenceFacts
    from monai_passion.errors import PassionError, find_passion_error

    torch.set_num_threads(threads)
    parser = ConfigParser(dict(config))
    modalities, size = len(config["modalities"]), config["crop_size"]
    parser["presence_facts"] = PresenceFacts([0.5] * modalities, 100)
    try:
        network, loss = (parser.get_parsed_content(key) for key in ("training_network", "objective"))
        optimizer, device = (parser.get_parsed_content(key) for key in ("optimizer", "device"))
    except PassionError:
        return None
    except RuntimeError as error:  # what MONAI makes of an error in an expression
        if find_passion_error(error) is None:
            raise
        return None
    batch = int(config["batch_size"])
    image = torch.randn(batch, modalities, *size, device=device)
    label = torch.randint(0, int(config["num_classes"]), (batch, 1, *size), device=device)
    available = torch.ones(batch, modalities, dtype=torch.bool, device=device)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        optimizer.zero_grad()
        value = loss(network(image, available), label)
        value.backward()
        optimizer.step()
        value.item()  # waits for a GPU
        seconds = time.perf_counter() - began
    return seconds


def cost_lines(
    cells: Sequence[Cell],
    configs: Path,
    bundles: Path,
    training: Sequence[Mapping[str, Any]] | None,
    root: Path,
    threads: int,
    measure: bool,
) -> list[str]:
    """One line per cell and, where costs are known, their sum.

    Args:
        training: items of the training; None if they are not known, then no costs are given.
        root: folder of their files.
        threads: CPU threads of a cell.
        measure: run steps, see `measure_step`; cells that differ in their seed alone share one.
    """
    lines, steps_in_all, hours_in_all, measured = [], 0, 0.0, dict[str, float | None]()
    for cell in cells:
        line = f"{cell.name:<50} {cell.label}, seed {cell.seed}"
        if training is not None:
            config = training_config(cell, configs, bundles)
            steps = count_steps(config, training, root)
            steps_in_all += steps
            line += f", {steps} steps"
            key = json.dumps([cell.bundle, cell.configs, cell.overrides])
            if measure and key not in measured:
                measured[key] = measure_step(config, threads)
            if seconds := measured.get(key):
                hours_in_all += steps * seconds / 3600
                line += f" of at most {seconds:.2f} s, {steps * seconds / 3600:.1f} h"
        lines.append(line)
    if training is not None:
        total = f"{len(cells)} cells, {steps_in_all} steps"
        lines.append(total + (f", {hours_in_all:.1f} h one after another; scoring comes on top" if measure else ""))
    return lines
