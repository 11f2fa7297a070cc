"""Tasks that this package does not know: from a folder to a trained bundle and a report, by commands alone."""

import json

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from monai_passion.cli import main
from monai_passion.tasks import load_task

TASKS = {
    # Modalities, those that nobody has, labels, spatial dimensions, how `task` is called.
    "ms": (("flair", "t1", "pd"), ("pd",), {"lesion": 1}, 3),
    "prostate": (("t2", "adc", "hbv"), (), {"PZ": 1, "TZ": 2}, 3),
    "petct": (("ct", "pet"), (), {"tumor": 7}, 2),
}


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return path


@pytest.fixture(params=TASKS)
def cohort(request, tmp_path):
    """Five patients, of whom the first lacks the first modality, and all lack those that nobody has."""
    modalities, nobody, labels, dims = TASKS[request.param]
    shape, rng = ((18, 20, 17) if dims == 3 else (18, 20, 3)), np.random.default_rng(0)
    for n in range(5):
        label = np.zeros(shape, np.int16)
        for k, value in enumerate(labels.values()):
            label[4 + 5 * k : 9 + 5 * k, 5:12, :9] = value
        home = tmp_path / "data" / f"p{n}"
        for m, name in enumerate(modalities):
            if name not in nobody and (n, m) != (0, 0):
                image = rng.normal(100, 5, shape) + 30 * (m + 1) * (label > 0)
                write(home / f"p{n}_{name}.nii.gz", image.astype(np.float32))
        write(home / f"p{n}_seg.nii.gz", label)
    return request.param, tmp_path / "data"


def run(config, bundle, **changes):
    small = {"width": 2, "crop_size": [16] * changes["dims"], "roi_size": [16] * changes.pop("dims")}
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / f"{config}.json"),
        workflow_type="train" if config == "train" else "infer",
        logging_file=False,
        device="cpu",
        bundle_root=str(bundle),
        **small,
        **changes,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def test_a_new_task_needs_no_python(cohort, tmp_path, capsys, caplog):
    name, data = cohort
    modalities, nobody, labels, dims = TASKS[name]
    file, bundle = tmp_path / f"{name}.json", tmp_path / f"{name}_bundle"
    known = [f"{label}={value}" for label, value in labels.items()]
    words = ["--labels", *known, "--spatial-dims", str(dims), "--name", name, "--output", str(file)]
    assert main(["task", str(data), "--modalities", ",".join(modalities), *words]) == 0
    assert main(["bundles", "make", "--task", str(file), "--network", "rfnet", "--output", str(bundle)]) == 0

    run("train", bundle, dataset_dir=str(data), epochs=1, val_interval=1, dims=dims)
    warned = [record.message for record in caplog.records if "no training patient has" in record.message]
    assert [all(m in text for m in nobody) for text in warned] == [True] * bool(nobody)
    trained = json.loads((bundle / "models" / "datalist.json").read_text())
    assert (trained["task"], trained["modalities"]) == (name, list(modalities))

    run("evaluate", bundle, dataset_dir=str(data), split="training", output_dir=str(tmp_path / "scores"), dims=dims)
    assert main(["report", str(tmp_path / "scores"), "--output", str(tmp_path / "report")]) == 0
    assert load_task(file).modalities[0].title in (tmp_path / "report" / "report.html").read_text()

    given = [f"{m}={data / 'p1' / f'p1_{m}.nii.gz'}" for m in modalities if m not in nobody]
    words = ["--bundle", str(bundle), "--image", *given, "--output", str(tmp_path / "one"), "--device", "cpu"]
    assert main(["predict", *words]) == 0
    result = nib.load(tmp_path / "one" / "segmentation.nii.gz")
    assert result.shape == nib.load(data / "p1" / "p1_seg.nii.gz").shape
    assert set(np.unique(result.get_fdata())) <= {0, *labels.values()}
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert [row["name"] for row in report["labels"]] == list(labels)
    assert report["modalities"]["absent"] == list(nobody)
    assert "internal error" not in capsys.readouterr().err


def test_dataset_json_of_nnunet_tells_modalities_and_labels(tmp_path):
    index = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"background": 0, "PZ": 1, "TZ": 2}}
    for k in range(2):
        write(tmp_path / "Dataset005" / "imagesTr" / f"a_{k:04}.nii.gz", np.ones((40, 130, 20), np.float32))
    (tmp_path / "Dataset005" / "dataset.json").write_text(json.dumps(index))
    assert main(["task", str(tmp_path / "Dataset005"), "--output", str(tmp_path / "t.json")]) == 0
    task = load_task(tmp_path / "t.json")
    assert task.modality_names == ("t2", "adc")
    assert task.titles == {"t2": "T2", "adc": "ADC"}
    assert [(label.name, label.value) for label in task.classes[1:]] == [("PZ", 1), ("TZ", 2)]
    assert task.settings == {"spacing": [1.0, 1.0, 3.0], "crop_size": [48, 80, 32], "roi_size": [48, 80, 32]}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["task", "{data}", "--labels", "a=1"], 2, "--modalities"),
        (["task", "{data}", "--modalities", "t1"], 2, "--labels NAME=VALUE"),
        (["task", "{data}", "--modalities", "t1", "--labels", "a"], 2, "NAME=VALUE"),
        (["task", "{data}", "--modalities", "t1", "--labels", "a=0"], 2, "from 1"),
        (["task", "{data}", "--modalities", "t3", "--labels", "a=1"], 3, "ends in _t3"),
        (["task", "{data}/nothing", "--modalities", "t1", "--labels", "a=1"], 3, "does not exist"),
        (["bundles", "make", "--task", "brats", "--network", "rfnet"], 2, "did you mean brats_mri"),
        (["bundles", "make", "--task", "brats_mri", "--network", "rfnets"], 2, "known are rfnet"),
        (["bundles", "make", "--task", "brats_mri", "--method", "passions"], 2, "known are baseline"),
        (["bundles", "make", "--task", "{task}"], 3, "leave them out"),
    ],
)
def test_a_wrong_task_ends_in_one_line_and_writes_nothing(words, code, said, tmp_path, capsys):
    write(tmp_path / "data" / "p" / "p_t1.nii.gz", np.ones((4, 4, 4), np.float32))
    wrong = {"task": "x", "modalities": [{"name": "a", "title": "$import os"}]}
    classes = [{"name": "background", "value": 0}, {"name": "l", "value": 1}]
    (tmp_path / "wrong.json").write_text(json.dumps({**wrong, "classes": classes}))
    words = [word.format(data=tmp_path / "data", task=tmp_path / "wrong.json") for word in words]
    assert main([*words, "--output", str(tmp_path / "new")]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "new").exists()
