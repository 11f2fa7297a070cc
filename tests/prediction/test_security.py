"""Files of strangers: none is unpickled, run or let out of its folder, wherever one is read."""

import ast
import logging
import os
import pickle
import stat
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import monai_passion
from monai_passion.bundle.facts import find_bundle
from monai_passion.cli import main
from monai_passion.data.cache import CachedOnDisk
from monai_passion.data.datalists import load_datalist, make_datalist
from monai_passion.data.nifti import read_volume
from monai_passion.data.presence import read_presence
from monai_passion.data.sources import read_cohort
from monai_passion.errors import InputError, PassionError, WeightsError
from monai_passion.evaluation.summary import read_metrics
from monai_passion.handlers import newest_checkpoint, read_checkpoint
from monai_passion.networks import RFNet
from monai_passion.networks.weights import load_weights, save_weights, write_sidecar
from monai_passion.prediction.cohort import MANIFEST, predict_cohort
from monai_passion.prediction.run import Options
from monai_passion.reporting.examples import read_example
from monai_passion.reporting.runs import load_runs
from monai_passion.system.files import write_text
from tests.handlers.test_checkpoint import Malicious
from tests.helpers.tasks import BRATS_MRI

PACKAGE = Path(monai_passion.__file__).parent


def read_bundle_zip(path):
    return find_bundle(str(path))


def read_manifest(path):
    return predict_cohort({}, path.parent, None, lambda: None, Options())


def read_cache(path):
    transform = CachedOnDisk([], path.parent)
    transform({"case": "a"})
    (item,) = path.parent.glob("[0-9a-f]*.pt")
    item.write_bytes(path.read_bytes())
    transform({"case": "a"})
    raise InputError("computed again")


READERS = {
    "weights.pt": load_weights,
    "weights.pth": load_weights,
    "weights.npz": load_weights,
    "weights.safetensors": load_weights,
    "checkpoint_epoch=1.pt": read_checkpoint,
    "datalist.json": load_datalist,
    "presence.csv": lambda path: read_presence(path, BRATS_MRI),
    "cohort.csv": lambda path: read_cohort(path, BRATS_MRI),
    "metrics.csv": read_metrics,
    "slice.npz": read_example,
    "run/metrics.csv": lambda path: load_runs([path.parent]),
    "image.nii": read_volume,
    "image.nii.gz": read_volume,
    "dataset.json": lambda path: make_datalist(path.parent),
    "index.csv": lambda path: make_datalist(path.parent),
    "bundle.zip": read_bundle_zip,
    "bundle/configs/inference.json": lambda path: find_bundle(str(path.parents[1])),
    MANIFEST: read_manifest,
    "cache/planted": read_cache,
}


@pytest.mark.parametrize("how", ["pickle", "torch", "numpy"])
@pytest.mark.parametrize("name", READERS)
def test_a_pickle_planted_where_a_file_is_read_is_not_run(tmp_path, name, how):
    path, harm = tmp_path / "files" / name, tmp_path / "harm"
    path.parent.mkdir(parents=True)
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(harm)))
    elif how == "torch":
        torch.save({"model": Malicious(harm)}, path)
    else:
        with path.open("wb") as file:
            np.savez(file, image=np.array([Malicious(harm)], dtype=object))
    write_sidecar(path)  # whoever plants a file plants its checksum too
    with pytest.raises(PassionError):
        READERS[name](path)
    assert not harm.exists()
    if name.startswith("checkpoint"):
        assert newest_checkpoint(path.parent) is None


def test_the_planted_pickles_would_do_harm(tmp_path):
    pickle.loads(pickle.dumps(Malicious(tmp_path / "harm")))
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"roi_size": "$__import__('pathlib').Path('harm').touch()"},
        {"network_def": {"_target_": "pathlib.Path.touch"}},
        {"network_def#_target_": "builtins.exec"},
        {"width": [8, ["$exit()"]]},
        "$exit()",
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_carry_no_code_into_the_configuration_of_a_bundle(tmp_path, settings, suffix, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = RFNet(4, 4, width=2)
    facts = {"modalities": list(BRATS_MRI), "settings": settings}
    if suffix == ".pt":
        torch.save({"model": network.state_dict(), "metadata": facts}, "weights.pt")
    else:
        save_weights(network, "weights.safetensors", facts)
    with pytest.raises(WeightsError, match="settings"):
        load_weights(f"weights{suffix}")
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((32, 32, 32), np.float32), np.eye(4)), "flair.nii.gz")
    assert main(["predict", "--flair", "flair.nii.gz", "--output", "out", "--weights", f"weights{suffix}"]) == 4
    assert not Path("harm").exists()
    assert not Path("out").exists()


def test_the_name_of_a_file_of_weights_is_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "$__import__('os').mkdir('harm').safetensors"
    save_weights(RFNet(4, 4, width=2), name, {"settings": {"width": 2}})
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((32, 32, 32), np.float32), np.eye(4)), "flair.nii.gz")
    command = ["predict", "--flair", "flair.nii.gz", "--output", "out", "--device", "cpu", "--roi-size", "32"]
    assert main([*command, "--weights", name]) == 0
    assert not Path("harm").exists()


@pytest.mark.parametrize("name", ["../outside", "..", ".", "a/b", "/tmp/outside", "a\\b", ""])
def test_no_patient_of_a_cohort_table_is_written_outside_of_the_output(tmp_path, name):
    (tmp_path / "cohort.csv").write_text(f'patient,flair\n"{name}",flair.nii.gz\n')
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        read_cohort(tmp_path / "cohort.csv", BRATS_MRI)


def test_a_zip_is_no_bundle_and_nothing_of_it_is_unpacked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("bundle.zip", "w") as archive:
        archive.writestr("../outside", "harm")
        archive.writestr("bundle/configs/inference.json", "{}")
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)), "flair.nii.gz")
    assert main(["predict", "--flair", "flair.nii.gz", "--output", "out", "--bundle", "bundle.zip"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.zip", "flair.nii.gz"]
    assert not (tmp_path.parent / "outside").exists()


FORBIDDEN = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    *(("os", name) for name in ("system", "popen")),
    *(("pickle", name) for name in ("load", "loads", "Unpickler")),
    *(("np", name) for name in ("fromregex", "genfromtxt")),
    *(("pd", name) for name in ("read_pickle", "eval")),
    ("subprocess", "getoutput"),
    ("yaml", "load"),
    ("shutil", "unpack_archive"),
}


def test_the_package_evaluates_no_text_starts_no_shell_and_unpickles_nothing():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            keywords = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            function = node.func
            bad = isinstance(function, ast.Name) and function.id in FORBIDDEN
            if isinstance(function, ast.Attribute):
                owner = function.value.id if isinstance(function.value, ast.Name) else None
                bad |= (owner, function.attr) in FORBIDDEN_ATTRIBUTES or function.attr in ("extractall", "extract")
                bad |= (owner, function.attr) == ("torch", "load") and keywords.get("weights_only") is not True
                bad |= (owner, function.attr) == ("np", "load") and keywords.get("allow_pickle") is not False
            bad |= bool(keywords.get("shell") or keywords.get("allow_pickle"))
            if bad:
                wrong.append(f"{path.name}:{node.lineno}")
    assert not wrong


def test_outputs_have_the_permissions_of_the_umask_and_none_is_executable(tmp_path):
    before = os.umask(0o027)
    try:
        save_weights(RFNet(4, 4, width=2), tmp_path / "new" / "w.safetensors")
        write_text(tmp_path / "new" / "a.txt", "a")
        CachedOnDisk([], tmp_path / "cache")({"case": "a"})
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new", tmp_path / "cache")} == {0o750}


def test_a_report_names_no_file_of_the_patient_unless_asked(tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "Qvist Zwingli 1970"
    folder.mkdir()
    image = np.pad(np.random.default_rng(0).random((28, 28, 28), np.float32) + 1, 2)
    nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "Zwingli_flair.nii.gz")
    save_weights(RFNet(4, 4, width=2), tmp_path / "w.safetensors", {"settings": {"width": 2}})
    command = ["predict", str(folder), "--weights", str(tmp_path / "w.safetensors"), "--device", "cpu"]
    for more in ([], ["--keep-names"]):
        output = tmp_path / f"out{len(more)}"
        assert main([*command, "--roi-size", "32", "--output", str(output), *more]) == 0
        leaks = {path.name for path in output.iterdir() if b"Zwingli" in path.read_bytes()}
        assert leaks == ({"report.json"} if more else set())
