"""Tasks that this package does not know: from a folder to a trained bundle and a report, by commands alone."""

import json

import nibabel as nib
import numpy as np
import pytest

from monai_passion.bundle.run import ARGUMENTS
from monai_passion.cli import main
from monai_passion.data.layouts import find_cohort
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


@pytest.fixture(params=[pytest.param(name, marks=() if name == "ms" else pytest.mark.slow) for name in TASKS])
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


def train(data, file, run, dims, *more):
    small = ["width=2", "epochs=1", "val_interval=1", f"crop_size={[16] * dims}", f"roi_size={[16] * dims}"]
    words = ["--task", str(file), "--output", str(run), "--device", "cpu", "--set", *small, *more]
    return main(["train", str(data), *words])


def test_what_a_task_and_its_files_do_not_share_is_told(tmp_path, capsys):
    for name in ("p1_flair", "p1_seg", "p2_flair", "p2_seg"):
        values = np.full((8, 8, 8), 4 if "seg" in name else 1, np.int16)
        write(tmp_path / "data" / name[:2] / f"{name}.nii.gz", values)
    words = ["--modalities", "flair,pd", "--classes", "lesion=1", "--output", str(tmp_path / "task.json")]
    assert main(["task", str(tmp_path / "data"), *words]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    told = ("no file is named pd", "label maps have the values 4, too", "no label map of 2 has the value 1 (lesion)")
    assert all(text in line for line, text in zip(warnings, told, strict=True))


def test_a_new_task_needs_no_python(cohort, tmp_path, capsys):
    name, data = cohort
    modalities, nobody, labels, dims = TASKS[name]
    file, run = tmp_path / f"{name}.json", tmp_path / "run"
    known = [f"{label}={value}" for label, value in labels.items()]
    words = ["--classes", *known, "--spatial-dims", str(dims), "--name", name, "--output", str(file)]
    assert main(["task", str(data), "--modalities", ",".join(modalities), *words]) == 0

    assert train(data, file, run, dims) == 0
    said = "".join(capsys.readouterr())
    assert f"monai-passion bundles make --task {file} --network rfnet --output {run / f'{name}_rfnet'}" in said
    assert "python -m monai.bundle run training" in said
    assert [f"no training patient has {m}: " in said for m in modalities] == [m in nobody for m in modalities]
    trained = json.loads((run / "datalist.json").read_text())
    assert (trained["task"], trained["modalities"]) == (name, list(modalities))

    moved = run.rename(tmp_path / "moved")
    words = ["--split", "training", "--output", str(tmp_path / "scores"), "--device", "cpu"]
    assert main(["evaluate", str(moved), *words]) == 0
    assert main(["report", str(tmp_path / "scores"), "--output", str(tmp_path / "report")]) == 0
    assert load_task(file).modalities[0].title in (tmp_path / "report" / "report.html").read_text()

    given = [f"{m}={data / 'p1' / f'p1_{m}.nii.gz'}" for m in modalities if m not in nobody]
    results = []
    for k, source in enumerate((["--image", *given], [str(data / "p1")])):
        words = ["--bundle", str(moved), "--output", str(tmp_path / f"one{k}"), "--device", "cpu"]
        assert main(["predict", *source, *words]) == 0
        results.append(nib.load(tmp_path / f"one{k}" / "segmentation.nii.gz"))
    assert results[0].shape == nib.load(data / "p1" / "p1_seg.nii.gz").shape
    assert set(np.unique(results[0].get_fdata())) <= {0, *labels.values()}
    assert np.array_equal(results[0].get_fdata(), results[1].get_fdata())
    report = json.loads((tmp_path / "one0" / "report.json").read_text())
    assert [row["name"] for row in report["labels"]] == list(labels)
    assert report["modalities"]["absent"] == list(nobody)
    said = capsys.readouterr().err
    assert "internal error" not in said
    if nobody:
        (m,) = nobody
        image = np.random.default_rng(0).normal(100, 5, results[0].shape).astype(np.float32)
        extra = f"{m}={write(tmp_path / 'extra.nii.gz', image)}"
        assert main(["predict", "--image", *given, extra, "--bundle", str(moved), "--check", "--strict"]) == 6
        title = load_task(file).titles[m]
        assert f"no patient in the training of these weights had {title}" in capsys.readouterr().err


def test_a_training_makes_its_bundle_once_and_only_where_it_can_begin(tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    write(data / "p0" / "p0_ct.nii.gz", np.ones((8, 8, 2), np.float32))
    file, other = tmp_path / "petct.json", tmp_path / "other.json"
    words = ["--modalities", "ct", "pet", "--spatial-dims", "2", "--name", "petct"]
    assert main(["task", str(data), *words, "--classes", "tumor=1", "--output", str(file)]) == 0
    assert main(["task", str(data), *words, "--classes", "tumor=2", "--output", str(other)]) == 0
    assert train(data, file, run, 2, "widht=3") == 2
    assert train(data, file, run, 2) == 3  # nobody has a label
    assert not run.exists()

    assert main(["bundles", "make", "--task", str(file), "--output", str(run / "petct_rfnet")]) == 0
    assert train(data, other, run, 2) == 2
    assert "is a bundle of another task" in capsys.readouterr().err
    (run / ARGUMENTS).write_text("{}")
    assert main(["predict", str(data / "p0"), "--bundle", str(run), "--check"]) == 3
    assert f"{ARGUMENTS}: 'run_id' is a required property" in capsys.readouterr().err


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


def test_files_that_call_a_modality_otherwise_need_no_other_name(tmp_path):
    for patient in ("P1", "P2"):
        for name in (f"{patient}_t2w", f"{patient}_ep2d_diff_ADC", f"{patient}_dwi_b1400"):
            write(tmp_path / "data" / patient / f"{name}.nii.gz", np.ones((4, 4, 4), np.float32))
    words = [
        "--modalities",
        "t2",
        "adc",
        "hbv=b1400",
        "hbv=highb",
        "--classes",
        "PZ=1",
        "--output",
        str(tmp_path / "t.json"),
    ]
    assert main(["task", str(tmp_path / "data"), *words]) == 0
    task = load_task(tmp_path / "t.json")
    assert task.modalities[2].aliases[:2] == ("b1400", "highb")
    (_, two) = find_cohort(tmp_path / "data", task).cases
    assert {m: path.name for m, path in two.images.items()} == {
        "adc": "P2_ep2d_diff_ADC.nii.gz",
        "hbv": "P2_dwi_b1400.nii.gz",
        "t2": "P2_t2w.nii.gz",
    }


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["task", "{data}", "--classes", "a=1"], 2, "--modalities"),
        (["task", "{data}", "--modalities", "t1"], 2, "--classes NAME=VALUE"),
        (["task", "{data}", "--modalities", "t1", "--classes", "a"], 2, "NAME=VALUE"),
        (["task", "{data}", "--modalities", "t1", "--classes", "a=0"], 2, "from 1"),
        (["task", "{data}", "--modalities", "t3", "--classes", "a=1"], 3, "whose name tells t3"),
        (["task", "{data}/nothing", "--modalities", "t1", "--classes", "a=1"], 3, "does not exist"),
        (["task", "{data}", "--modalities", "t1", "--classes", "a=1"], 2, "t1 is a single modality"),
        (["bundles", "make", "--task", "brats", "--network", "rfnet"], 2, "did you mean brats_mri"),
        (["bundles", "make", "--task", "brats_mri", "--network", "rfnets"], 2, "known are rfnet"),
        (["bundles", "make", "--task", "brats_mri", "--method", "passions"], 2, "known are baseline"),
        (["bundles", "make", "--task", "{task}"], 3, "leave them out"),
    ],
)
def test_a_wrong_task_ends_in_one_line_and_writes_nothing(words, code, said, tmp_path, capsys):
    write(tmp_path / "data" / "p" / "p_t1.nii.gz", np.ones((4, 4, 4), np.float32))
    wrong = {"task": "x", "modalities": [{"name": "a", "title": "$import os"}, {"name": "b"}]}
    classes = [{"name": "background", "value": 0}, {"name": "l", "value": 1}]
    (tmp_path / "wrong.json").write_text(json.dumps({**wrong, "classes": classes}))
    words = [word.format(data=tmp_path / "data", task=tmp_path / "wrong.json") for word in words]
    assert main([*words, "--output", str(tmp_path / "new")]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "new").exists()
