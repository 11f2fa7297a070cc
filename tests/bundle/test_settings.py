import json
from pathlib import Path

import pytest

from monai_passion.bundle.settings import check_ranges, check_settings
from monai_passion.errors import UsageError
from monai_passion.tasks import load_task

CONFIG = {"epochs": 3, "network_def": {"_target_": "monai_passion.networks.MMFormer", "num_modalities": 4}}


@pytest.mark.parametrize("name", ["epochs", "network_def#num_modalities", "network_def#heads"])
def test_what_is_there_or_an_argument_of_what_is_made_may_be_set(name):
    check_settings({name: 2}, CONFIG)


@pytest.mark.parametrize(
    ("name", "said"), [("epoch", "did you mean epochs"), ("network_def#head", "did you mean heads")]
)
def test_a_mistyped_setting_is_refused_with_the_nearest(name, said):
    with pytest.raises(UsageError, match=said):
        check_settings({name: 2}, CONFIG)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs: 0 is less than the minimum of 1"),
        ({"epochs": 2.5}, "epochs: 2.5 is not of type 'integer'"),
        ({"epochs": 2.0}, "epochs: 2.0 is not of type 'integer'"),
        ({"learning_rate": float("nan")}, "learning_rate: nan is not of type 'number'"),
        ({"spacing": [1, float("inf"), 1]}, r"spacing\[1\]: inf is not of type 'number'"),
        ({"mirror_axes": [0, 0]}, "mirror_axes: .* non-unique"),
        ({"seed": 2**32}, "seed: 4294967296 is greater"),
        ({"temperature": 0}, "temperature: 0 is less than or equal to the minimum of 0"),
        ({"overlap": 1.5}, "overlap: 1.5"),
        ({"level_decay": -1}, "level_decay: -1 is less"),
        ({"spacing": [1, 0, 1]}, r"spacing\[1\]: 0 is less"),
        ({"spacing": (1, 1)}, "spacing: .* too short"),
        ({"crop_size": [32, 0, 32]}, r"crop_size\[1\]: 0 is less"),
        ({"roi_size": [32]}, "roi_size: .* too short"),
        ({"device": "tpu"}, "device: 'tpu' does not match"),
        ({"precision": "fp8"}, "precision: 'fp8' is not one of"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_place(settings, said):
    with pytest.raises(UsageError, match=f"the setting {said}"):
        check_ranges({"width": 8, **settings})


def test_the_number_of_classes_is_that_of_the_label_values():
    check_ranges({"num_classes": 4, "label_values": [0, 1, 2, 4]})
    with pytest.raises(UsageError, match="num_classes is 3 and label_values has 4"):
        check_ranges({"num_classes": 3, "label_values": [0, 1, 2, 4]})


def test_the_label_values_are_those_of_the_task_in_its_order():
    """By another order, every class would be named as another one afterwards."""
    task = load_task("brats_mri").to_json()
    check_ranges({"num_classes": 4, "label_values": [0, 1, 2, 4], "task": task})
    with pytest.raises(UsageError, match=r"label_values is \[0, 4, 2, 1\] where the task has \[0, 1, 2, 4\]"):
        check_ranges({"num_classes": 4, "label_values": [0, 4, 2, 1], "task": task})


def test_values_in_range_and_expressions_go_through():
    check_ranges({"spacing": (-1, 2.0, 1), "roi_size": [-1, 32], "epochs": "$3 - 3", "precision": "@x", "seed": None})


def test_every_number_at_the_top_of_a_configuration_has_a_range():
    root = Path(__file__).parents[2]
    schema = json.loads((root / "monai_passion" / "schemas" / "settings.schema.json").read_text())
    files = [*(root / "bundles").glob("*/configs/[!m]*.json"), *(root / "configs").glob("[!e]*/**/*.json")]
    numbers = {
        key
        for path in files
        if isinstance(content := json.loads(path.read_text(encoding="utf-8")), dict)
        for key, value in content.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and "#" not in key
    }
    assert len(numbers) > 20
    assert numbers - set(schema["properties"]) == set()


def test_what_the_configurations_say_is_in_range():
    for path in (Path(__file__).parents[2] / "bundles").glob("*/configs/*.json"):
        check_ranges(json.loads(path.read_text(encoding="utf-8")))
