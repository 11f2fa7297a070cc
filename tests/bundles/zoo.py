"""What the model zoo's own checks ask of a bundle, by its published rules (https://github.com/Project-MONAI/model-zoo).

``python -m tests.bundles.zoo docs/reference/model-zoo.md`` runs them all and writes the table.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, download_large_files, verify_metadata
from monai.bundle import verify_net_in_out as verify_shapes

from monai_passion.bundle.export import export_bundle
from monai_passion.system.files import sha256
from tests.bundles.conftest import BUNDLES, NAMES, add_weights, row_of, small, write_cohort

SCHEMA = Path(__file__).with_name("metadata.schema.json")
HEADINGS = ("Authors", "Tags", "Data", "Training configuration", "Model Input", "Model Output", "Performance",
            "System Configuration", "Limits", "References", "License")  # fmt: skip
LARGE = 25 * 2**20
"""Bytes above which the zoo wants a file to be downloaded."""
KINDS = {("train",): "train", ("train", "evaluate"): "eval", ("inference",): "infer"}
"""The workflows of the zoo's unit tests: an evaluation is train.json with evaluate.json on top."""


def directory(bundle, cohort):
    """configs/metadata.json is there, LICENSE too, and no file is larger than 25 MB."""
    assert (bundle / "configs" / "metadata.json").is_file()
    assert (bundle / "LICENSE").is_file()
    assert all(path.stat().st_size < LARGE for path in bundle.rglob("*") if path.is_file())


def version(bundle, cohort):
    """The version of metadata.json is in its changelog."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]


def readme(bundle, cohort):
    """docs/README.md has the zoo's headings, and something under each."""
    text = (bundle / "docs" / "README.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert not set(HEADINGS) - sections.keys()
    assert all(sections[heading].strip() for heading in HEADINGS)


def metadata(bundle, cohort):
    """`verify_metadata`, by the schema of MONAI's specification, without a network connection."""
    schema = bundle / "eval" / "schema.json"  # where the zoo looks for it, and downloads it to
    schema.parent.mkdir()
    schema.write_text(SCHEMA.read_text())
    meta = str(bundle / "configs" / "metadata.json")
    verify_metadata(meta_file=meta, filepath=str(schema), hash_val=sha256(schema), hash_type="sha256")


def shapes(bundle, cohort):
    """`verify_net_in_out`: the network takes and gives what metadata.json says."""
    configs = bundle / "configs"
    verify_shapes(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        bundle_root=str(bundle),
    )


def workflows(bundle, cohort):
    """`check_properties` and `run` of training, evaluation (train.json and evaluate.json) and inference, small."""
    configs, data = bundle / "configs", {"bundle_root": str(bundle), "dataset_dir": str(cohort), "device": "cpu"}
    for files, kind in KINDS.items():
        workflow = ConfigWorkflow(
            workflow_type=kind,
            config_file=[str(configs / f"{file}.json") for file in files],
            logging_file=str(configs / "logging.conf"),
            meta_file=str(configs / "metadata.json"),
            **{**small(row_of(bundle), files[-1]), **data},
        )
        workflow.initialize()
        assert not workflow.check_properties(), files
        workflow.run()
        workflow.finalize()


def large_files(bundle, cohort):
    """`download_large_files` puts the weights that large_files.yml lists in place, and their hashes fit."""
    add_weights(bundle)
    away = bundle.parent / "away"
    export_bundle(bundle, away / "x.zip", url=(away / "x_weights").as_uri())
    shutil.unpack_archive(away / "x.zip", away)
    assert not (away / bundle.name / "models").exists()
    download_large_files(bundle_path=str(away / bundle.name))
    for name in ("model.pt", "model.safetensors"):
        assert sha256(away / bundle.name / "models" / name) == sha256(away / "x_weights" / name)


def traced(bundle, cohort):
    """`ckpt_export` of `torchscript`, the network traced; it is loaded and run."""
    inference = bundle / "configs" / "inference.json"
    inference.write_text(json.dumps({**json.loads(inference.read_text()), **small(row_of(bundle), "inference")}))
    add_weights(bundle)
    export_bundle(bundle, bundle.parent / "x.zip")
    shutil.unpack_archive(bundle.parent / "x.zip", bundle.parent / "there")
    folder, file = bundle.parent / "there" / bundle.name, bundle.parent / "x.ts"
    config = str(folder / "configs" / "inference.json")
    ckpt_export("torchscript", bundle_root=str(folder), config_file=config, filepath=str(file))
    parser = ConfigParser()
    parser.read_config(config)
    modalities = len(parser["modalities"])
    image = torch.randn(1, modalities, *parser["roi_size"])
    assert torch.jit.load(file)(image, torch.ones(1, modalities).bool()).shape[1] == parser["num_classes"]


CHECKS = (directory, version, readme, metadata, shapes, workflows, large_files, traced)
EXCLUDED = {
    "`ckpt_export` of `network_def`: the network scripted": "The network skips the encoders of absent modalities, "
    "which cannot be scripted: the bundle belongs in `exclude_verify_torchscript_list`, and its README says so.",
    "`verify_tensorrt`": "The zoo does it for listed bundles alone, with the image as the only input; ours take "
    "`available`, too, and go to TensorRT by ONNX.",
}
"""Check -> why our bundles are left out of it."""


def quietly(check, *arguments, **named):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return check(*arguments, **named)


def outcome(check, name):
    """One cell of the table."""
    print(f"{check.__name__} {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(shutil.copytree(BUNDLES / name, Path(folder) / name))
        cohort = write_cohort(Path(folder) / "cohort", row_of(bundle)["task"])
        try:
            quietly(check, bundle, cohort)
        except Exception as error:
            return f"FAILS: {type(error).__name__}"
    return "pass"


def page():
    """The table of all checks, a row each, of all bundles, in columns."""
    short = [name.replace("_segmentation_", " ").replace("_passion", "").replace("_", " ") for name in NAMES]
    lines = [
        "# The model zoo's checks",
        "",
        "What the [model zoo](https://github.com/Project-MONAI/model-zoo)'s continuous integration asks of a bundle,",
        "by its published rules and MONAI's own functions, for each of ours, as",
        "`python -m tests.bundles.zoo docs/reference/model-zoo.md` writes it.",
        "`make test-zoo` runs the same as tests.",
        "",
        f"| check | {' | '.join(short)} |",
        f"|---|{'---|' * len(NAMES)}",
    ]
    for check in CHECKS:
        said = check.__doc__.rstrip(".")
        lines.append(f"| {said} | {' | '.join(outcome(check, name) for name in NAMES)} |")
    for number, check in enumerate(EXCLUDED, start=1):
        lines.append(f"| {check} | {' | '.join([f'excluded ({number})'] * len(NAMES))} |")
    reasons = [f"{number}. {reason}" for number, reason in enumerate(EXCLUDED.values(), start=1)]
    return "\n".join([*lines, "", *reasons, "", "Research use only, not a medical device.", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
