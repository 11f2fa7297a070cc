import json

import pytest
from monai.bundle.config_parser import ConfigParser

from monai_passion.errors import InputError, UsageError
from monai_passion.tasks import as_task, load_task, task_from_json, task_names

MINIMAL = {
    "task": "ms",
    "modalities": [{"name": "flair"}, {"name": "pd"}],
    "classes": [{"name": "background", "value": 0}, {"name": "lesion", "value": 1}],
}


def test_a_modality_of_this_task_may_be_called_what_is_another_name_of_one_elsewhere():
    task = as_task(["t1", "t1w"])
    assert [task.resolve(name) for name in ("T1", "T1w", "t1n")] == ["t1", "t1w", "t1"]


def test_the_tasks_of_the_package_are_known_by_name():
    assert {"brats_mri", "myops_cmr"} <= set(task_names())
    brats = load_task("brats_mri")
    assert brats.modality_names == ("flair", "t1c", "t1", "t2")
    assert brats.label_values == (0, 1, 2, 4)
    assert brats.region_classes == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


@pytest.mark.parametrize("name", ["brats_mri", "myops_cmr"])
def test_a_task_survives_its_json(name):
    task = load_task(name)
    assert task_from_json(json.loads(json.dumps(task.to_json()))) == task


def test_a_task_survives_the_configuration_of_a_bundle():
    task = load_task("brats_mri")
    assert task_from_json(ConfigParser({"task": task.to_json()}).get_parsed_content("task")) == task


def test_what_may_be_left_out_is_filled_in(tmp_path):
    path = tmp_path / "ms.json"
    path.write_text(json.dumps(MINIMAL))
    task = load_task(path)
    assert task.titles == {"flair": "FLAIR", "pd": "PD"}
    assert task.region_classes == {"lesion": (1,)}
    assert task.spatial_dims == 3
    assert task.source == path


def test_aliases_are_resolved_whatever_their_case():
    assert load_task("brats_mri").resolve("T1CE") == "t1c"
    with pytest.raises(UsageError, match="did you mean 'flair'"):
        load_task("brats_mri").resolve("flar")


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean brats_mri"):
        load_task("brats")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modalities": []}, "no modality"),
        ({"modalities": [{"name": "t1"}, {"name": "t1c", "aliases": ["T1"]}]}, "two modalities are called 't1'"),
        ({"modalities": [{"name": "T 1"}]}, "lower-case"),
        ({"classes": [{"name": "lesion", "value": 1}]}, "background"),
        ({"classes": [{"name": "b", "value": 0}, {"name": "a", "value": 1}, {"name": "c", "value": 1}]}, "value 1"),
        ({"regions": [{"name": "r", "classes": [0, 1]}]}, "region r"),
        ({"printed": ["flair"]}, "order of the modalities"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"classes": [{"name": "b"}]}, "'value' is missing"),
        ({"classes": [{"name": n, "value": k} for k, n in enumerate("baa")]}, "two classes are called 'a'"),
        ({"regions": [{"name": "r", "classes": [1]}] * 2}, "two regions are called 'r'"),
        *(({"task": name}, "letters, digits") for name in ("ms lesions", "ms/lesions", "../notes", "2024_ms", "")),
    ],
)
def test_a_wrong_task_file_is_refused_with_the_place(change, said):
    with pytest.raises(InputError, match=said):
        task_from_json({**MINIMAL, **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modalities": [{"name": "flair"}, {"titel": "PD", "name": "pd"}]}, r"t\.json: modalities\[1\]: .*'titel'"),
        ({"classes": [{"name": "b", "value": 0}, {"name": "l", "value": "1"}]}, r"classes\[1\]\.value: '1' is not"),
        ({"settings": {"crop": [1, 2, 3]}}, r"settings: .*'crop' was unexpected"),
        ({"modality": []}, r"t\.json: .*'modality' was unexpected"),
    ],
)
def test_a_file_that_its_schema_refuses_says_where(tmp_path, change, said):
    (tmp_path / "t.json").write_text(json.dumps({**MINIMAL, **change}))
    with pytest.raises(InputError, match=said):
        load_task(tmp_path / "t.json")


def test_a_task_file_is_read_again_once_it_has_changed_and_belongs_to_its_folder(tmp_path, monkeypatch):
    def write(folder, *names):
        folder.mkdir(exist_ok=True)
        classes = [{"name": "background", "value": 0}, {"name": "lesion", "value": 1}]
        content = {"task": "own", "modalities": [{"name": name} for name in names], "classes": classes}
        (folder / "own.json").write_text(json.dumps(content))

    for folder, names in (("a", ("flair", "t1")), ("b", ("ct", "pet")), ("b", ("ct", "pet", "t2"))):
        write(tmp_path / folder, *names)
        monkeypatch.chdir(tmp_path / folder)
        assert load_task("own.json").modality_names == names
