import json
from pathlib import Path

import pytest

from monai_passion.errors import InputError, UsageError
from monai_passion.experiment.grid import expand, find_grid, load_grid


def test_a_cell_is_one_choice_of_every_axis_and_a_seed():
    cells = expand(
        {"bundle": "b", "axes": {"setting": {"A": [], "B": []}, "method": {"X": [], "+Y": []}}, "seeds": [1, 2]}
    )
    assert [cell.name for cell in cells][:4] == ["a-x-seed1", "a-x-seed2", "a-y-seed1", "a-y-seed2"]
    assert len({cell.name for cell in cells}) == 8
    assert cells[2].row == {"setting": "A", "method": "+Y"}


def test_label_names_what_varies_and_not_the_seed():
    axes = {"backbone": {"RFNet": []}, "setting": {"A": [], "B": []}, "method": {"X": [], "+Y": []}}
    cells = expand({"bundle": "b", "axes": axes, "seeds": [1, 2]})
    assert {cell.label for cell in cells} == {"A X", "A +Y", "B X", "B +Y"}


def test_choices_add_to_the_grid_in_the_order_of_the_axes():
    axes = {
        "setting": {"A": {"configs": "missing/a", "overrides": {"width": 4, "epochs": 5}, "presence": "a.csv"}},
        "method": {"X": {"configs": ["methods/x", "methods/y"], "overrides": {"epochs": 7}, "bundle": "other"}},
    }
    grid = {"bundle": "b", "configs": ["tasks/t"], "overrides": {"width": 8, "amp": True}, "axes": axes}
    (cell,) = expand(grid)
    assert cell.configs == ("tasks/t", "missing/a", "methods/x", "methods/y")
    assert cell.overrides == {"width": 4, "amp": True, "epochs": 7}
    assert (cell.bundle, cell.presence, cell.seed) == ("other", "a.csv", 0)


def test_exclude_leaves_out_what_matches_all_of_its_axes():
    axes = {"setting": {"A": [], "B": []}, "method": {"X": [], "Y": [], "Z": []}}
    cells = expand({"bundle": "b", "axes": axes, "exclude": [{"setting": "A", "method": ["Y", "Z"]}]})
    assert [cell.label for cell in cells] == ["A X", "B X", "B Y", "B Z"]


def test_a_grid_that_extends_another_replaces_its_keys(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"title": "a", "bundle": "b", "seeds": [3]}))
    (tmp_path / "b.json").write_text(json.dumps({"extends": "a", "seeds": [4]}))
    assert load_grid(tmp_path / "b.json") == {"title": "a", "bundle": "b", "seeds": [4]}


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "no axes"),
        ({"axes": {"method": {"X": []}}}, "no bundle for X"),
        ({"axes": {"method": {"X": [], "+x": []}}, "bundle": "b"}, "share the folder x-seed0"),
        ({"axes": {"method": {"X": []}}, "bundle": "b", "exclude": [{"method": "Z"}]}, "unknown method Z"),
        ({"axes": {"method": {"X": []}}, "bundle": "b", "exclude": [{"rate": "Z"}]}, "unknown axis rate"),
        ({"axes": {"method": {"X": []}}, "bundle": "b", "exclude": [{"method": "X"}]}, "exclude leaves no cell"),
    ],
)
def test_a_wrong_grid_is_named(grid, message):
    with pytest.raises(InputError, match=message):
        expand(grid)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "object"),
        ('{"axis": 1}', "'axis' was unexpected"),
        ('{"table": "7"}', "table: '7' is not one of"),
        ('{"seeds": [-1]}', "less than the minimum"),
        ('{"axes": {}}', "axes: .* non-empty"),
        ('{"axes": {"method": {}}}', "method: .* non-empty"),
        ('{"axes": {"method": {"X": 3}}}', "axes.method.X: 3 is not"),
        ('{"axes": {"method": {"X": {"config": []}}}}', "axes.method.X: .*config"),
    ],
)
def test_a_file_that_is_no_grid_is_named(tmp_path, text, message):
    (tmp_path / "g.json").write_text(text)
    with pytest.raises(InputError, match=rf"g\.json.*{message}"):
        load_grid(tmp_path / "g.json")


def test_a_grid_that_extends_itself_is_named(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"extends": "b"}))
    (tmp_path / "b.json").write_text(json.dumps({"extends": "a"}))
    with pytest.raises(InputError, match=r"a\.json extends itself \(a -> b -> a\)"):
        load_grid(tmp_path / "a.json")


def test_a_grid_of_the_package_goes_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_grid(find_grid("table3"))["axes"]
    assert find_grid("configs/experiments/table3.json") == find_grid("table3")
    (tmp_path / "table3.json").touch()
    assert find_grid("table3.json") == Path("table3.json")
    with pytest.raises(UsageError, match=r"no grid tabel3; .*did you mean table3"):
        find_grid("tabel3")
