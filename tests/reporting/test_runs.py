import json

import pytest

from monai_passion.errors import InputError, UsageError
from monai_passion.reporting.runs import load_runs, run_folders


def test_combinations_come_in_the_order_of_the_papers_table_3(make_run):
    """Its dots, read column by column; T1, T1c, Flair, T2."""
    paper = ("●○○○●●●○○○●●●○●", "○●○○●○○●●○●●○●●", "○○●○○●○●○●●○●●●", "○○○●○○●○●●○●●●●")
    results = load_runs([make_run("a")])
    assert results.modalities == {"t1": "T1", "t1c": "T1c", "flair": "FLAIR", "t2": "T2"}
    dots = ["".join("●" if m in name.split("+") else "○" for name in results.combinations) for m in results.modalities]
    assert tuple(dots) == paper
    assert set(results.rows["combination"]) == set(results.combinations)


def test_cardiac_modalities_are_told_from_those_of_the_brain(make_run):
    results = load_runs([make_run("a", modalities=("t2", "lge", "bssfp"), regions=("LVB", "MYO"))])
    assert list(results.modalities) == ["bssfp", "lge", "t2"]
    assert results.regions == ("LVB", "MYO")


def test_aliases_and_unknown_modalities_are_understood(make_run):
    assert load_runs([make_run("a", modalities=("T1ce", "t2w"))]).combinations == ("t1c", "t2", "t1c+t2")
    assert load_runs([make_run("b", modalities=("pet", "ct"))]).combinations == ("pet", "ct", "pet+ct")


def test_runs_with_one_label_are_one_method_and_their_patients_count_once(make_run):
    results = load_runs([make_run("a", label="passion"), make_run("b", label="passion"), make_run("c")])
    assert results.methods == ("passion", "c")
    assert results.rows.groupby("method")["run"].nunique().to_dict() == {"passion": 2, "c": 1}
    assert results.patients == 6


def test_equally_named_folders_without_labels_are_not_taken_for_seeds(make_run):
    with pytest.raises(UsageError, match=r"x/seed0 and .*y/seed0 have the same name"):
        load_runs([make_run("x/seed0"), make_run("y/seed0")])


def test_a_folder_given_twice_is_refused(make_run):
    folder = make_run("a", label="passion")
    with pytest.raises(UsageError, match="each folder once"):
        load_runs([folder, folder])


def test_runs_of_different_regions_are_refused(make_run):
    with pytest.raises(InputError, match=r"LVB.*WT, TC, ET"):
        load_runs([make_run("a"), make_run("b", regions=("LVB",))])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.json", "{", r"run\.json"),
        ("run.json", "[]", r"run\.json"),
        ("run.json", '{"label": 3}', r"run\.json: label: 3 is not"),
        ("run.json", '{"data": 3}', r"run\.json: data: 3 is not"),
        ("run.json", '{"row": 3}', r"run\.json: row: 3 is not"),
        ("curves.csv", "epoch,name,value\n1,beta,2\n", r"curves\.csv lacks the column\(s\) modality"),
        ("curves.csv", "epoch,name,modality,value\n1,beta,t1,much\n", r"curves\.csv: column value has text"),
        ("curves.csv", "", r"curves\.csv: No columns"),
    ],
)
def test_a_bad_file_is_named(make_run, name, text, message):
    folder = make_run("a")
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_runs([folder])
    assert "\n" not in str(caught.value)


def test_a_folder_of_experiments_stands_for_its_finished_cells_in_the_order_of_the_grid(make_run, tmp_path, caplog):
    for position, name in enumerate(("b", "c", "a")):
        folder = make_run(f"runs/{name}")
        (folder / "cell.json").write_text(json.dumps({"hash": name, "position": position}))
        (folder / "done.json").write_text(json.dumps({"hash": name if name != "c" else "an older one"}))
    assert run_folders([tmp_path / "runs", tmp_path / "x"]) == [tmp_path / name for name in ("runs/b", "runs/a", "x")]
    assert "1 of 3 cells are not done" in caplog.text


def test_experiments_of_which_none_is_done_are_named(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "cell.json").write_text('{"hash": "a"}')
    with pytest.raises(InputError, match="none of the 1 cells"):
        run_folders([tmp_path / "runs"])


def test_titles_and_order_are_those_of_the_task_that_was_evaluated(make_run):
    run = make_run("a", modalities=("pd", "flair"))
    facts = json.loads((run / "run.json").read_text()) if (run / "run.json").exists() else {}
    titles = {"flair": "FLAIR", "t1": "T1w", "pd": "PD-w"}
    (run / "run.json").write_text(json.dumps({**facts, "titles": titles}))
    assert load_runs([run]).modalities == {"flair": "FLAIR", "pd": "PD-w"}


def test_a_cell_that_was_evaluated_by_hand_keeps_its_place(make_run):
    run = make_run("cell", facts={"label": "of the weights", "data": ""})
    cell = {"label": "+PASSION", "row": {"method": "+PASSION"}, "table": "3", "data": "phantom"}
    (run / "cell.json").write_text(json.dumps({**cell, "specification": {"seed": 7}}))
    results = load_runs([run])
    assert (results.methods, results.data, results.table) == (("+PASSION",), "phantom", "3")
    assert set(results.rows["seed"]) == {7}


def test_a_curve_with_nan_of_an_older_version_is_read(make_run):
    folder = make_run("a")
    (folder / "curves.csv").write_text("epoch,name,modality,value\n1,loss/total,,nan\n2,loss/total,,0.5\n")
    assert load_runs([folder]).curves["value"].tolist()[1:] == [0.5]


def test_runs_of_different_splits_are_refused(make_run):
    folders = [make_run(name) for name in "ab"]
    for folder, split in zip(folders, ("validation", "test"), strict=True):
        (folder / "run.json").write_text(json.dumps({"label": folder.name, "data": "BraTS2020", "split": split}))
    with pytest.raises(InputError, match=r"on the validation split, .* on the test split; report them separately"):
        load_runs(folders)


def test_runs_without_a_seed_get_numbers_that_no_other_of_their_method_has(make_run):
    facts = [{"label": "a"}, {"label": "a", "seed": 0}, {"label": "a"}, {"label": "b"}, {"label": "a", "seed": 2}]
    folders = [make_run(str(k), facts=own) for k, own in enumerate(facts)]
    rows = load_runs(folders).rows
    assert rows.groupby("run")["seed"].unique().map(list).tolist() == [[1], [0], [3], [0], [2]]


FACTS = {"label": "passion", "network": "RFNet", "settings": {"width": 8, "spacing": [2.0] * 3}}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"network": "MMFormer"}, r"network differ \(RFNet and MMFormer\)"),
        ({"settings": {"width": 4, "spacing": [2.0] * 3}}, r"settings differ \(width: 8 and 4\)"),
        ({"settings": {"width": 8}}, r"settings differ \(spacing: \[2.0, 2.0, 2.0\] and None\)"),
    ],
)
def test_trainings_of_other_networks_or_settings_are_no_seeds_of_one_method(make_run, other, said):
    alike = make_run("a", facts=FACTS), make_run("b", facts=FACTS), make_run("c", facts={"label": "passion"})
    assert load_runs(alike).methods == ("passion",)
    with pytest.raises(UsageError, match=rf"a and .*d are both 'passion', but their {said}; give each its own --label"):
        load_runs([*alike, make_run("d", facts=FACTS | other)])


def test_other_missing_rates_under_one_label_are_told(make_run, caplog):
    rates = [{"missing_rates": {"flair": rate, "t1": 0.5}} for rate in (0.5, 0.55, 0.8)]
    folders = [make_run(str(k), facts=FACTS | own | {"seed": k}) for k, own in enumerate(rates)]
    load_runs(folders[:2])
    assert not caplog.text
    load_runs(folders)
    assert "of other missing rates (flair: 0.5 and 0.8)" in caplog.text


def test_seeds_are_those_of_the_trainings_in_whatever_order_they_are_given(make_run, caplog):
    folders = {seed: make_run(f"s{seed}", facts=FACTS | {"seed": seed}) for seed in (1, 2, 3)}
    results = load_runs([folders[3], folders[1]])
    assert results.rows.groupby("run")["seed"].unique().map(list).tolist() == [[3], [1]]
    assert not caplog.text
    with pytest.raises(UsageError, match=r"s1 and .*again are both 'passion', with seed 1"):
        load_runs([folders[1], make_run("again", facts=FACTS | {"seed": 1})])
    load_runs([make_run("x", facts=FACTS), make_run("y", facts=FACTS)])
    assert "x does not say the seed of its training" in caplog.text
