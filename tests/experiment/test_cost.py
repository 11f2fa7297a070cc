from pathlib import Path

import pytest
import torch

from monai_passion.data.sampling import CombinationSampler, combination_items
from monai_passion.experiment.cost import cost_lines, count_steps
from monai_passion.experiment.grid import Cell

PROJECT = Path(__file__).parents[2]
SMALL = {"epochs": 3, "crop_size": [32, 32], "width": 2, "network_def#levels": 2, "device": "$torch.device('cpu')"}


def cell(name, method, **overrides):
    bundle = "myops_cmr_segmentation_rfnet_passion"
    return Cell(name, 0, name, {}, bundle, (f"methods/{method}",), {**SMALL, **overrides}, None, 1)


def slices(number):
    return [{"case": f"c_slice_{k}", "slice": k, "image": {"bssfp": "x"}} for k in range(number)]


def test_steps_are_epochs_times_batches():
    assert count_steps({"epochs": 4, "batch_size": 2}, [{}] * 5, Path()) == 12
    assert count_steps({"epochs": 4, "batch_size": 2, "spatial_dims": 2}, slices(5), Path()) == 12


def test_a_method_with_a_sampler_of_its_own_takes_its_steps():
    config = {"epochs": 2, "modalities": ["a", "b"], "combinations": {}}
    items = [{"image": {"a": "x", "b": "y"}}, {"image": {"a": "x", "b": None}}]
    sampler = CombinationSampler(combination_items(items, ["a", "b"]), 2)
    assert count_steps(config, items, Path()) == 2 * len(list(sampler)) > 4


def test_a_step_of_each_method_is_measured_once_and_a_teacher_that_is_not_there_is_left_out():
    threads = torch.get_num_threads()
    cells = [cell("a", "passion"), cell("b", "passion"), cell("c", "teacher")]
    lines = cost_lines(cells, PROJECT / "configs", PROJECT / "bundles", slices(5), Path(), threads, measure=True)
    assert "15 steps of at most" in lines[0]
    assert lines[0].split("seed 1")[1] == lines[1].split("seed 1")[1]
    assert lines[2].endswith("15 steps")
    assert lines[3].startswith("3 cells, 45 steps, ")


@pytest.mark.parametrize("measure", [True, False])
def test_without_data_the_cells_are_listed_without_costs(measure):
    lines = cost_lines([cell("a", "passion")], PROJECT / "configs", PROJECT / "bundles", None, Path(), 1, measure)
    assert [line.split() for line in lines] == [["a", "a,", "seed", "1"]]
