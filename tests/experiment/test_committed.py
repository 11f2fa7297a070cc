"""The grids in ``configs/experiments``."""

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from monai_passion.experiment.folders import Source, prepare
from monai_passion.experiment.grid import expand, load_grid
from monai_passion.reporting.paper import paper_numbers

PROJECT = Path(__file__).parents[2]
GRIDS = sorted((PROJECT / "configs" / "experiments").glob("*.json"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_fragment_exists(path):
    for name in {name for cell in expand(load_grid(path)) for name in cell.configs}:
        assert (PROJECT / "configs" / f"{name}.json").is_file(), name


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_monai_reads_what_each_kind_of_cell_trains_and_evaluates_with(path, tmp_path):
    kinds = list({(cell.bundle, cell.configs): cell for cell in expand(load_grid(path))}.values())
    (tmp_path / "datalist.json").write_text("{}")
    source = Source(PROJECT / "configs", PROJECT / "bundles", tmp_path, tmp_path / "datalist.json")
    for folder in prepare(kinds, tmp_path / "runs", source):
        for step in ("train", "evaluate"):
            files = json.loads((folder / f"{step}_args.json").read_text())["config_file"]
            assert ConfigParser.load_config_files(files)["dataset_dir"] == ""


@pytest.mark.parametrize("name", ["table1", "table1_myops", "table2", "table2_myops", "table3"])
def test_the_rows_of_a_table_are_those_of_the_paper(name):
    grid = load_grid(PROJECT / "configs" / "experiments" / f"{name}.json")
    numbers = paper_numbers()
    data = "MyoPS2020" if name.endswith("myops") else "BraTS2020"
    numbers = numbers[(numbers["table"] == grid["table"]) & (numbers["data"] == data)]
    printed = set(zip(numbers["setting"], numbers["backbone"], numbers["method"], strict=True))
    rows = [cell.row for cell in expand(grid)]
    assert {(row["setting"], row["backbone"], row.get("method", "")) for row in rows} == printed


def test_missing_rates_agree_with_the_letters_of_table_1():
    """s, m, l are 0.2, 0.5, 0.8 for (T1 and T1c, Flair, T2); a fragment's name has the tenths of T1, T1c, Flair, T2."""
    for cell in expand(load_grid(PROJECT / "configs" / "experiments" / "table1.json")):
        if cell.row["setting"] != "PDT":
            t1, flair, t2 = (str({"s": 2, "m": 5, "l": 8}[letter]) for letter in cell.row["setting"][1:-1].split(", "))
            assert cell.configs[0] == f"missing/idt_{t1}{t1}{flair}{t2}"
            assert cell.presence == f"Brats2020_imb_split_mr{t1}{t1}{flair}{t2}.csv"
