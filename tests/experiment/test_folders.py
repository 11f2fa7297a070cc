import json

import pytest
from monai.bundle import ConfigParser

from monai_passion.data.datalists import describe_data, load_datalist
from monai_passion.errors import InputError, UsageError
from monai_passion.experiment.folders import Source, is_done, prepare, read_state
from monai_passion.experiment.grid import expand, load_grid
from monai_passion.system.locks import RunLock
from tests.experiment.fake import write_project


@pytest.fixture
def project(tmp_path):
    """Prepare the grid of a project that was changed by the given keys."""

    def start(data=tmp_path / "data", **grid):
        cells = expand(load_grid(write_project(tmp_path, **grid)))
        source = Source(
            tmp_path / "configs", tmp_path / "bundles", data, tmp_path / "data" / "datalist.json", tmp_path / "data"
        )
        return prepare(cells, tmp_path / "runs", source, "1")

    return start


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_training_and_evaluation_get_files_that_monai_runs_by_hand(project, tmp_path):
    folder = project(configs=["tasks/small"])[2]
    train, evaluate = read(folder, "train_args.json"), read(folder, "evaluate_args.json")
    bundle, configs = tmp_path / "bundles" / "fake" / "configs", tmp_path / "configs"
    assert train["config_file"] == list(
        map(str, (bundle / "train.json", configs / "tasks" / "small.json", configs / "methods" / "one.json"))
    )
    assert train["run_id"] == "training"
    assert (train["seed"], train["loss#beta"]) == (1, False)
    assert train["presence"] == str(tmp_path / "data" / "who.csv")
    assert evaluate["ckpt_dir"] == train["ckpt_dir"] == str(folder / "train")
    assert (evaluate["output_dir"], evaluate["label"]) == (str(folder), "One")


def test_an_evaluation_goes_without_what_concerns_training_alone(project, tmp_path):
    folder = project(configs=["tasks/small"], overrides={"epochs": 4})[2]
    evaluate = read(folder, "evaluate_args.json")
    assert [path.rpartition("/")[2] for path in evaluate["config_file"]] == ["evaluate.json", "small.json"]
    assert "loss#beta" not in evaluate
    assert evaluate["epochs"] == 4


@pytest.mark.parametrize(
    ("grid", "epochs"), [({}, 3), ({"configs": ["tasks/small"]}, 2), ({"overrides": {"epochs": 9}}, 9)]
)
def test_epochs_are_those_of_the_last_to_say(project, grid, epochs):
    assert read_state(project(**grid)[0]).epochs == epochs


def test_data_that_moved_are_the_same_run(project, tmp_path):
    before = read(project()[0], "cell.json")["hash"]
    (tmp_path / "elsewhere").mkdir()
    assert read(project(data=tmp_path / "elsewhere")[0], "cell.json")["hash"] == before
    assert read(tmp_path / "runs" / "idt-baseline-seed1", "train_args.json")["dataset_dir"].endswith("elsewhere")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"overrides": {"epochs": 9}}, "epochs None -> 9"),
        ({"configs": ["tasks/small"]}, r"configs \[\] -> \['tasks/small'\]"),
    ],
)
def test_a_folder_of_another_specification_is_refused_before_anything_is_written(project, tmp_path, grid, message):
    project()
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=message):
        project(**grid)
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before


def test_a_fragment_or_table_that_changed_is_another_specification(project, tmp_path, monkeypatch):
    project()
    monkeypatch.setattr("tests.experiment.fake.TRAIN", {"training": [], "epochs": 3, "loss": {}})
    with pytest.raises(UsageError, match=r"train\.json \w{8} -> \w{8}"):
        project()


def test_a_missing_fragment_bundle_or_table_is_named(project):
    with pytest.raises(InputError, match=r"tasks/none\.json"):
        project(configs=["tasks/none"])
    with pytest.raises(InputError, match=r"bundles/none/configs/train\.json"):
        project(bundle="none")
    with pytest.raises(InputError, match=r"nobody\.csv"):
        project(axes={"setting": {"IDT": {"presence": "nobody.csv"}}})


def test_done_needs_the_hash_of_this_specification_and_the_scores(project):
    folder = project()[0]
    digest = read(folder, "cell.json")["hash"]
    (folder / "done.json").write_text(json.dumps({"hash": digest}))
    assert not is_done(folder)
    (folder / "metrics.csv").write_text("")
    assert is_done(folder)
    (folder / "done.json").write_text(json.dumps({"hash": digest[::-1]}))
    assert not is_done(folder)


def test_states_from_waiting_to_done(project):
    folder = project()[0]
    assert read_state(folder).state == "waiting"
    (folder / "train").mkdir()
    (folder / "train" / "checkpoint_epoch=2.pt").write_text("")
    (folder / "log.txt").write_text("epoch 3/3\nmonai-passion: error: no space\n\n")
    state = read_state(folder)
    assert (state.state, state.epoch, state.note) == ("stopped", 2, "monai-passion: error: no space")
    assert state.fraction == 2 / 4
    (folder / "metrics.csv").write_text("")
    (folder / "done.json").write_text(json.dumps({"hash": read(folder, "cell.json")["hash"], "seconds": 61.0}))
    assert (read_state(folder).state, read_state(folder).fraction) == ("done", 1.0)


def test_phantoms_and_cubes_are_not_taken_for_brats2020(project, tmp_path):
    project()
    datalist = load_datalist(tmp_path / "data" / "datalist.json")
    assert describe_data(tmp_path / "data", datalist) == "other"
    for name, data in (("index.csv", "BraTS2020 cubes"), ("phantom.json", "phantom")):
        (tmp_path / "data" / name).write_text("")
        assert describe_data(tmp_path / "data", datalist) == data


def test_a_lock_says_who_holds_it_without_taking_it(tmp_path):
    assert RunLock(tmp_path).owner() is None
    (tmp_path / "train.lock").write_text("process 1 on host gone\n")
    assert RunLock(tmp_path).owner() is None
    assert (tmp_path / "train.lock").read_text() == "process 1 on host gone\n"


def test_labels_and_folders_that_monai_would_run_or_change_come_through(project, tmp_path):
    folder = project(axes={"method": {"@3mm #2": "methods/one", "$x": "methods/one"}})[0]
    parser = ConfigParser(read(folder, "evaluate_args.json"))
    assert parser.get_parsed_content("label") == "@3mm #2"


def test_a_presence_table_in_any_encoding_is_part_of_what_a_cell_is(tmp_path):
    cells = expand(load_grid(write_project(tmp_path)))
    data = tmp_path / "data"
    source = Source(tmp_path / "configs", tmp_path / "bundles", data, data / "datalist.json", data)
    prepare(cells, tmp_path / "runs", source)
    (data / "who.csv").write_bytes("case\n".encode("utf-16"))
    with pytest.raises(UsageError, match=r"presence \w{8} -> \w{8}"):
        prepare(cells, tmp_path / "runs", source)


def test_cells_of_other_data_are_refused(tmp_path):
    cells = expand(load_grid(write_project(tmp_path)))
    data = tmp_path / "data"
    source = Source(tmp_path / "configs", tmp_path / "bundles", data, data / "datalist.json", data, data="phantom")
    prepare(cells, tmp_path / "runs", source)
    with pytest.raises(UsageError, match="data phantom -> BraTS2020"):
        prepare(cells, tmp_path / "runs", source._replace(data="BraTS2020"))
