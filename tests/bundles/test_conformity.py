"""What MONAI and its model zoo ask of a bundle, for every one of the manifest."""

import contextlib
import io
import json
import os
import re
from pathlib import Path

import pytest
from monai.bundle import verify_metadata, verify_net_in_out

from monai_passion.bundle.materialize import drift, materialize
from tests.bundles.conftest import BUNDLES, CONFIGS, NAMES, ROWS, add_weights, row_of, workflow_of
from tests.bundles.zoo import SCHEMA

FILES = {"configs/metadata.json", "configs/train.json", "configs/inference.json", "configs/evaluate.json",
         "configs/multi_gpu_train.json", "configs/logging.conf", "docs/README.md", "docs/data_license.txt",
         "LICENSE"}  # fmt: skip
TOLD_BY_THE_TASK = {"_target_", "num_modalities", "num_classes", "spatial_dims"}


def test_committed_bundles_are_what_configs_makes():
    differing = [str(path.relative_to(BUNDLES.parent)) for path in drift(CONFIGS, BUNDLES)]
    assert not differing, f"{differing} differ from what configs/ makes; run: make bundles"


def test_a_file_that_no_fragment_makes_is_drift_and_is_removed(tmp_path):
    materialize(CONFIGS, tmp_path)
    stale, model = (tmp_path / NAMES[0] / name for name in ("configs/old.json", "models/model.pt"))
    for path in (stale, model):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert drift(CONFIGS, tmp_path) == [stale]
    materialize(CONFIGS, tmp_path)
    assert model.exists()
    assert not stale.exists()


@pytest.mark.parametrize("name", NAMES)
def test_has_the_files_of_a_bundle_and_no_others(name):
    found = {str(path.relative_to(BUNDLES / name)) for path in (BUNDLES / name).rglob("*") if path.is_file()}
    assert {path for path in found if not path.startswith(("models/", "eval/"))} == FILES


def test_what_a_training_lacks_is_said_before_images_are_cached():
    """MONAI makes a component's arguments in their order: the datalist, then the network, then the cached images."""
    trainer = list(json.loads((CONFIGS / "common" / "train.json").read_text())["train"]["trainer"])
    assert trainer.index("loss_function") < trainer.index("network") < trainer.index("train_data_loader")


@pytest.mark.parametrize("bundle", NAMES, indirect=True)
def test_has_every_property_that_monai_asks_for(bundle, cohorts):
    add_weights(bundle)
    for config in ("train", "evaluate", "inference"):
        models = {"ckpt_dir": str(bundle / "run" if config == "train" else bundle / "models")}
        workflow = workflow_of(bundle, config, dataset_dir=str(cohorts[row_of(bundle)["task"]]), **models)
        workflow.initialize()
        assert not workflow.check_properties(), config


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("whose", ["ours", "MONAI's"])
def test_metadata_follow_the_specification(name, whose):
    """By MONAI's own command, which takes the schema from a file that is there, so needs no network."""
    schema = SCHEMA
    if whose != "ours":
        schema = Path(os.environ.get("MONAI_PASSION_META_SCHEMA", "meta_schema_20240725.json"))
        if not schema.is_file():
            pytest.skip("MONAI's schema is not here; download what metadata.json names, set MONAI_PASSION_META_SCHEMA")
    with contextlib.redirect_stdout(io.StringIO()):
        verify_metadata(str(BUNDLES / name / "configs" / "metadata.json"), filepath=str(schema))


@pytest.mark.parametrize("name", NAMES)
def test_metadata_agree_with_the_configuration(name):
    metadata, config = (
        json.loads((BUNDLES / name / "configs" / f"{file}.json").read_text()) for file in ("metadata", "inference")
    )
    assert metadata["version"] == list(metadata["changelog"])[-1]
    image, pred = (metadata["network_data_format"][end][key] for end, key in (("inputs", "image"), ("outputs", "pred")))
    assert len(image["channel_def"]) == image["num_channels"] == len(config["modalities"])
    assert len(pred["channel_def"]) == pred["num_channels"] == config["num_classes"]
    assert len(image["spatial_shape"]) == config["spatial_dims"] == len(config["roi_size"])
    labels = {label for region in config["regions"].values() for label in region}
    assert labels == set(range(1, config["num_classes"]))


@pytest.mark.parametrize("name", NAMES)
def test_the_network_takes_and_gives_what_the_metadata_say(name):
    folder = BUNDLES / name / "configs"
    with contextlib.redirect_stdout(io.StringIO()):
        verify_net_in_out(
            "network_def",
            meta_file=str(folder / "metadata.json"),
            config_file=str(folder / "inference.json"),
            device="cpu",
            n=1,
        )


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_readme_has_no_placeholder_left(row):
    readme = (BUNDLES / row["name"] / "docs" / "README.md").read_text()
    for placeholder in (*row, "network_title", "network_text", "missing_rates", "some_files", "limits"):
        assert "{" + placeholder + "}" not in readme


@pytest.mark.parametrize("name", NAMES)
def test_what_shapes_a_network_is_stored_with_its_weights(name):
    config = json.loads((BUNDLES / name / "configs" / "train.json").read_text())
    shaping = {key: value for key, value in config["network_def"].items() if key not in TOLD_BY_THE_TASK}
    references = set(re.findall(r"@(\w+)", json.dumps(shaping)))
    assert all(isinstance(value, str) and "@" in value for value in shaping.values())
    assert references <= config["settings"].keys()
