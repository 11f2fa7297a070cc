"""What the model zoo's own checks ask of a bundle, by its published rules (https://github.com/Project-MONAI/model-zoo),
for every bundle."""

import contextlib
import io
import json
import re

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, download_large_files, verify_metadata, verify_net_in_out

from monai_passion.bundle.export import export_bundle
from monai_passion.system.files import sha256
from tests.bundles.conftest import BUNDLES, NAMES, row_of, small
from tests.bundles.test_conformity import SCHEMA
from tests.bundles.test_export import shrunk, unzipped

HEADINGS = ("Authors", "Tags", "Data", "Training configuration", "Model Input", "Model Output", "Performance",
            "System Configuration", "Limits", "References", "License")  # fmt: skip
LARGE = 25 * 2**20
"""Bytes above which the zoo wants a file to be downloaded."""
every = pytest.mark.parametrize(
    "bundle",
    [pytest.param(name, marks=() if name == NAMES[0] else pytest.mark.zoo) for name in NAMES],
    indirect=True,
)


def quietly(check, *arguments, **named):
    with contextlib.redirect_stdout(io.StringIO()):
        return check(*arguments, **named)


@pytest.mark.parametrize("name", NAMES)
def test_readme_has_the_headings_of_the_zoo_and_no_paragraph_under_them_is_empty(name):
    readme = (BUNDLES / name / "docs" / "README.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL))
    assert not set(HEADINGS) - sections.keys()
    assert all(sections[heading].strip() for heading in HEADINGS)


@pytest.mark.parametrize("name", NAMES)
def test_the_version_is_in_the_changelog_and_no_file_is_too_large(name):
    metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert all(path.stat().st_size < LARGE for path in (BUNDLES / name).rglob("*") if path.is_file())


@every
def test_metadata_are_valid_without_a_network_connection(bundle):
    schema = bundle / "eval" / "schema.json"  # where the zoo looks for it, and downloads it to
    schema.parent.mkdir()
    schema.write_text(SCHEMA.read_text())
    quietly(verify_metadata, meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema))


@every
def test_the_network_takes_and_gives_the_shapes_of_the_metadata(bundle):
    configs = bundle / "configs"
    quietly(
        verify_net_in_out,
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        bundle_root=str(bundle),
    )


@every
def test_trains_and_is_evaluated_and_segments_with_every_property_there(bundle, cohorts):
    """As the zoo's unit tests do: an evaluation is train.json with evaluate.json on top."""
    configs, row = bundle / "configs", row_of(bundle)
    data = {"bundle_root": str(bundle), "dataset_dir": str(cohorts[row["task"]]), "device": "cpu"}
    for files, kind in ((["train"], "train"), (["train", "evaluate"], "eval"), (["inference"], "infer")):
        workflow = ConfigWorkflow(
            workflow_type=kind,
            config_file=[str(configs / f"{file}.json") for file in files],
            logging_file=str(configs / "logging.conf"),
            meta_file=str(configs / "metadata.json"),
            **{**small(row, files[-1]), **data},
        )
        workflow.initialize()
        assert not workflow.check_properties(), files
        workflow.run()
        workflow.finalize()


@pytest.mark.parametrize("name", NAMES)
def test_readme_says_that_the_network_is_traced_and_not_scripted(name):
    """Tracing is tested in tests/bundles/test_export.py. What is skipped where a modality is absent cannot be scripted."""
    network = quietly(network_of, BUNDLES / name)
    with pytest.raises(Exception, match="annotation|script|compile|supported"):
        torch.jit.script(network)
    assert "exclude_verify_torchscript_list" in (BUNDLES / name / "docs" / "README.md").read_text()


def network_of(bundle):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update(small(row_of(bundle), "inference"))
    return parser.get_parsed_content("network_def")


def test_weights_at_a_url_are_downloaded_by_monai_and_fit_their_checksum(tmp_path):
    source = shrunk(NAMES[0], tmp_path)
    export_bundle(source, tmp_path / "x.zip", url=(tmp_path / "x_weights").as_uri())
    folder = unzipped(tmp_path / "x.zip", tmp_path / "there")
    assert not (folder / "models").exists()
    quietly(download_large_files, bundle_path=str(folder))
    for name in ("model.pt", "model.safetensors"):
        assert sha256(folder / "models" / name) == sha256(tmp_path / "x_weights" / name)
