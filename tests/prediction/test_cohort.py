"""The cohort's bookkeeping, with a segmenter that is none."""

import csv
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from monai_passion.bundle.facts import find_bundle
from monai_passion.errors import UsageError
from monai_passion.prediction.cohort import predict_cohort
from monai_passion.prediction.output.cohort_page import write_index
from monai_passion.prediction.run import Options
from monai_passion.prediction.segmenter import Segmentation
from tests.helpers.images import smooth_noise

SHAPE = (20, 20, 20)


class Threshold:
    bundle = find_bundle()
    settings = {"roi_size": [16, 16, 16], "overlap": 0.5, "precision": "fp32", "mirror_axes": []}  # noqa: RUF012
    facts: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, weights):
        self.weights, self.calls = weights, 0

    def segment(self, volumes, decode, probabilities, progress):
        self.calls += 1
        labels = (next(v for v in volumes if v is not None).data > 0.5).astype(np.uint8) * 4
        return Segmentation(labels, None, {}, {})


@pytest.fixture
def cohort(tmp_path):
    data = smooth_noise(SHAPE, 0, 0.5, 0.12)
    for name in ("a", "b", "c"):
        (tmp_path / "in" / name).mkdir(parents=True)
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "in" / name / f"{name}_flair.nii.gz")
    (tmp_path / "in" / "b" / "b_flair.nii.gz").write_bytes(b"broken")
    (tmp_path / "w").touch()
    patients = {name: tmp_path / "in" / name for name in ("a", "b", "c")}
    segmenter = Threshold(tmp_path / "w")

    def run(**options):
        return predict_cohort(
            patients, tmp_path / "out", segmenter.bundle, lambda: segmenter, Options(**options)
        ), segmenter.calls

    return run


class Deadly(Threshold):
    """Kills its process, as the system does when memory is short, for images with a mark in the first voxel."""

    def segment(self, volumes, *rest):
        if next(v for v in volumes if v is not None).data[0, 0, 0] == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().segment(volumes, *rest)


@pytest.mark.slow
def test_workers_do_the_same_and_survive_one_that_is_killed(cohort, tmp_path):
    for name in ("d", "e"):
        data = smooth_noise(SHAPE, 1, 0.5, 0.12)
        data[0, 0, 0] = 7 if name == "d" else 0
        (tmp_path / "in" / name).mkdir()
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "in" / name / "flair.nii.gz")
    patients = {name: tmp_path / "in" / name for name in "abcde"}
    opener = functools.partial(Deadly, tmp_path / "w")
    entries = predict_cohort(patients, tmp_path / "out", Threshold.bundle, opener, Options(page=False), workers=2)
    assert {name: entry["exit_code"] for name, entry in entries.items()} == {"a": 0, "b": 3, "c": 0, "d": 5, "e": 0}
    assert "was killed" in entries["d"]["message"]
    with open(tmp_path / "out" / "volumes.csv") as file:
        assert [row["patient"] for row in csv.DictReader(file)] == ["a", "c", "e"]
    labels = nib.load(tmp_path / "out" / "e" / "segmentation.nii.gz").get_fdata()
    image = nib.load(tmp_path / "in" / "e" / "flair.nii.gz").get_fdata()
    assert np.array_equal(labels == 4, image > 0.5)


def test_doubts_stand_in_words_in_the_table_and_on_the_page_of_the_cohort(cohort, tmp_path):
    """Half of each image is segmented, which cannot be; b is damaged."""
    said = []
    segmenter = Threshold(tmp_path / "w")
    patients = {name: tmp_path / "in" / name for name in ("a", "b")}
    options = Options(page=False)
    predict_cohort(
        patients, tmp_path / "out", segmenter.bundle, lambda: segmenter, options, tell=lambda *a: said.append(a)
    )
    with open(tmp_path / "out" / "volumes.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["usable"] == "no"
    assert "do not use this result" in row["warnings"]
    assert float(row["ET_ml"]) == pytest.approx(4, rel=0.1)
    assert float(row["ED_ml"]) == 0
    assert {patient for _, patient in said} == {"a"}
    assert (row["ET_expected_dice"], row["expected_quality"]) == (
        "",
        "expected quality unknown: evaluate these weights",
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert 'src="a/preview.png"' in page
    assert "do not use this result" in page
    assert "failed (exit code 3)" in page
    assert "expected quality unknown: evaluate these weights" in page


def test_the_expected_dice_stands_beside_each_volume_with_its_interval_in_table_and_page(cohort, tmp_path):
    rows = [
        {"metric": "dice", "convention": "challenge", "region": region, "combination": "flair"} | numbers
        for region, numbers in (
            ("WT", {"mean": 0.81, "low": 0.7, "high": 0.9, "n": 7}),
            ("ET", {"mean": 0.62, "low": None, "high": None, "n": 7}),
        )
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"results": rows}))
    cohort()
    with open(tmp_path / "out" / "volumes.csv") as file:
        row = next(csv.DictReader(file))
    assert [row[f"WT_expected_{what}"] for what in ("dice", "low", "high")] == ["0.81", "0.7", "0.9"]
    assert [row[f"ET_expected_{what}"] for what in ("dice", "low", "high")] == ["0.62", "", ""]
    assert row["expected_quality"] == "from 7 patients"
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<small>0.81 (0.70 to 0.90)</small>" in page
    assert "<small>0.62</small>" in page


def test_the_page_of_a_cohort_says_what_its_short_names_stand_for(cohort, tmp_path):
    cohort()
    page = (tmp_path / "out" / "index.html").read_text()
    assert "WT: whole tumor; TC: tumor core; ET: enhancing tumor;" in page
    assert ">FLAIR</td>" in page


@pytest.mark.parametrize("ends_last", [1, 2])
def test_shards_do_each_patient_once_and_the_last_leaves_the_table_of_all(cohort, tmp_path, ends_last):
    patients = {name: tmp_path / "in" / name for name in ("a", "b", "c")}
    segmenter = Threshold(tmp_path / "w")

    def run(number, of=2):
        given = patients, tmp_path / "out", segmenter.bundle, lambda: segmenter, Options(page=False)
        return predict_cohort(*given, shard=(number, of))

    assert list(run(3 - ends_last)) == (["a", "c"] if ends_last == 2 else ["b"])
    run(ends_last)
    assert segmenter.calls == 2
    with open(tmp_path / "out" / "volumes.csv") as file:
        assert [row["patient"] for row in csv.DictReader(file)] == ["a", "c"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert all(f">{name}</" in page for name in patients)
    assert page.count("failed (exit code 3)") == 1
    assert {name: e["status"] for name, e in run(1, 1).items()} == {"a": "done", "b": "failed", "c": "done"}
    assert segmenter.calls == 2


def test_names_of_patients_cannot_break_the_page_of_a_cohort(cohort, tmp_path):
    cohort()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    write_index(tmp_path / "out", {"<b>x": manifest["b"], 'a"b': manifest["a"]})
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<b>x" not in page
    assert 'src="a%22b/preview.png"' in page


def test_a_patient_that_fails_does_not_stop_the_rest(cohort, tmp_path):
    entries, calls = cohort()
    assert [(e["status"], e["exit_code"]) for e in entries.values()] == [("done", 0), ("failed", 3), ("done", 0)]
    assert calls == 2
    assert "b_flair.nii.gz is not a NIfTI" in entries["b"]["message"]
    assert not (tmp_path / "out" / "b").exists()
    written = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert written["b"].pop("message").startswith("flair is not a NIfTI file")
    assert written == {**entries, "b": {key: value for key, value in entries["b"].items() if key != "message"}}
    with open(tmp_path / "out" / "volumes.csv") as file:
        assert [row["patient"] for row in csv.DictReader(file)] == ["a", "c"]


def test_what_is_done_stays_done_and_the_rest_is_done_again(cohort, tmp_path):
    assert cohort()[1] == 2
    assert cohort()[1] == 2
    good = (tmp_path / "in" / "a" / "a_flair.nii.gz").read_bytes()
    (tmp_path / "in" / "b" / "b_flair.nii.gz").write_bytes(good)
    entries, calls = cohort()
    assert calls == 3
    assert entries["b"]["status"] == "done"


def test_overwriting_does_all_again_and_is_no_setting_of_the_result(cohort):
    cohort()
    assert cohort(overwrite=True)[1] == 4
    assert cohort()[1] == 4


def test_other_weights_or_files_make_a_patient_undone(cohort, tmp_path):
    cohort()
    (tmp_path / "in" / "c" / "c_t2.nii.gz").write_bytes(
        (tmp_path / "in" / "c" / "c_flair.nii.gz").read_bytes()[:-1] + b"!"
    )
    entries, calls = cohort()
    assert (entries["c"]["status"], calls) == ("failed", 2)
    (tmp_path / "w").write_text("new")
    assert cohort()[1] == 3


def test_a_folder_with_something_else_in_it_is_refused(cohort, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UsageError, match="not empty"):
        cohort()


def test_a_patient_killed_while_it_was_replaced_is_done_again_and_its_remains_go(cohort, tmp_path):
    cohort()
    shutil.rmtree(tmp_path / "out" / "a")  # as a run with other weights does first
    (tmp_path / "out" / ".a.unfinished.123").mkdir()
    (tmp_path / "out" / ".mine").mkdir()
    entries, calls = cohort()
    assert calls == 3
    assert entries["a"]["status"] == "done"
    assert {path.name for path in (tmp_path / "out").glob(".*")} == {".mine"}


def test_a_run_killed_before_its_first_patient_can_be_started_again(cohort, tmp_path):
    (tmp_path / "out" / ".a.unfinished.123").mkdir(parents=True)
    (tmp_path / "out" / "manifest.json").write_text("{}\n")
    assert cohort()[1] == 2


def test_inputs_inside_of_the_output_are_not_removed(tmp_path):
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "manifest.json").write_text("{}\n")
    (tmp_path / "w").touch()
    file = tmp_path / "out" / "a" / "flair.nii.gz"
    nib.save(nib.Nifti1Image(smooth_noise(SHAPE, 0, 0.5, 0.12), np.eye(4)), file)
    segmenter = Threshold(tmp_path / "w")
    entries = predict_cohort({"a": {"flair": file}}, tmp_path / "out", segmenter.bundle, lambda: segmenter, Options())
    assert entries["a"]["exit_code"] == 2
    assert file.is_file()


def test_what_somebody_put_beside_a_result_stays_and_so_does_the_result_until_there_is_a_new_one(cohort, tmp_path):
    cohort()
    mine, labels = (tmp_path / "out" / "a" / name for name in ("corrected.nii.gz", "segmentation.nii.gz"))
    mine.touch()
    old = labels.read_bytes()
    (tmp_path / "w").write_text("other weights")
    Threshold.segment, segment = lambda *_: 1 / 0, Threshold.segment
    try:
        assert cohort()[0]["a"]["status"] == "failed"
    finally:
        Threshold.segment = segment
    assert labels.read_bytes() == old
    assert cohort()[0]["a"]["status"] == "done"
    assert mine.is_file()


@pytest.mark.parametrize("text", ["[1, 2]", '{"name": "x"}', '{"a": {"status": "done"}, "b": 3}'])
def test_a_manifest_of_something_else_is_refused(cohort, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(text)
    with pytest.raises(UsageError, match="not a manifest of an earlier run"):
        cohort()


def test_patients_of_two_tasks_in_one_folder_have_a_table_with_the_columns_of_both(cohort, tmp_path):
    cohort()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    heart = {**manifest["a"], "row": {"patient": "heart", "used": "lge", "LVB_ml": 40.0}}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"heart": heart, **manifest}))
    (tmp_path / "out" / "heart").mkdir()
    (tmp_path / "out" / "heart" / "report.json").touch()
    cohort()
    with (tmp_path / "out" / "volumes.csv").open() as file:
        rows = {row["patient"]: row for row in csv.DictReader(file)}
    assert rows["heart"]["LVB_ml"] == "40.0"
    assert rows["heart"]["WT_ml"] == ""
    assert float(rows["a"]["WT_ml"]) > 0


def test_the_layout_says_that_a_folder_is_one_patient_s(cohort, tmp_path):
    folder = tmp_path / "in" / "a"
    (folder / "a_flair.nii.gz").rename(folder / "exam1_flair.nii.gz")
    data = np.asarray(nib.load(folder / "exam1_flair.nii.gz").dataobj)
    nib.save(nib.Nifti1Image(data[::-1], np.eye(4)), folder / "exam2_t1.nii.gz")
    segmenter = Threshold(tmp_path / "w")
    for layout, status in (("auto", "failed"), ("folders", "done")):
        out = tmp_path / layout
        entries = predict_cohort({"a": folder}, out, segmenter.bundle, lambda: segmenter, Options(), layout=layout)
        assert entries["a"]["status"] == status


def add(tmp_path, name, data=None, file="flair.nii.gz"):
    folder = tmp_path / "in" / name
    folder.mkdir()
    if data is None:
        nib.save(nib.Nifti1Image(smooth_noise(SHAPE, 1, 0.5, 0.12), np.eye(4)), folder / file)
    else:
        (folder / file).write_bytes(data)
    return folder


def run_all(tmp_path, **options):
    patients = {path.name: path for path in sorted((tmp_path / "in").iterdir())}
    (tmp_path / "w").touch()
    segmenter = Threshold(tmp_path / "w")
    return predict_cohort(
        patients, tmp_path / "out", segmenter.bundle, lambda: segmenter, Options(page=False, **options)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names of files that are no text")
def test_a_name_that_is_no_text_stops_nobody(tmp_path):
    (tmp_path / "in").mkdir()
    names = ["A", os.fsdecode(b"M\xfcller"), "Z"]
    for name in names:
        add(tmp_path, name)
    for _ in range(2):
        assert [entry["status"] for entry in run_all(tmp_path).values()] == ["done"] * 3
    assert (tmp_path / "out" / names[1] / "segmentation.nii.gz").is_file()
    assert r"M\udcfcller" in (tmp_path / "out" / "volumes.csv").read_text()


def test_what_fails_has_no_row_and_the_message_says_what_its_folder_still_has(tmp_path):
    (tmp_path / "in").mkdir()
    folder = add(tmp_path, "P")
    run_all(tmp_path)
    (folder / "flair.nii.gz").write_bytes(b"broken")
    assert "P/ still has the result of an earlier run" in run_all(tmp_path)["P"]["message"]
    assert (tmp_path / "out" / "volumes.csv").read_text().splitlines() == ["patient"]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("file", ["Doe_Jane_flair.nii.gz", "Doe_Jane_dwi.nii.gz"])
def test_a_name_of_a_file_is_told_and_not_written(tmp_path, keep, file):
    (tmp_path / "in").mkdir()
    add(tmp_path, "P", b"broken" * 100, file)
    assert "Doe_Jane" in run_all(tmp_path, keep_names=keep)["P"]["message"]
    written = "".join((tmp_path / "out" / name).read_text() for name in ("manifest.json", "index.html"))
    assert ("Doe_Jane" in written, str(tmp_path) in written) == (keep, keep)


def test_a_second_run_leaves_a_running_one_alone(tmp_path):
    (tmp_path / "in").mkdir()
    add(tmp_path, "P")
    run_all(tmp_path)
    held = (
        "import sys\nfrom monai_passion.system.locks import RunLock\nRunLock(sys.argv[1], '.manifest.lock').acquire()"
    )
    held += "\nprint('locked', flush=True)\nsys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", held, tmp_path / "out"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        half = tmp_path / "out" / ".P.unfinished.123"
        half.mkdir()
        with pytest.raises(UsageError, match=f"in use by another run .process {other.pid} "):
            run_all(tmp_path)
        assert half.is_dir()
        other.communicate("\n")
    run_all(tmp_path)
    assert not half.exists()
    assert not list((tmp_path / "out").glob(".manifest*"))


def test_names_that_a_spreadsheet_would_compute_are_quoted(tmp_path):
    (tmp_path / "in").mkdir()
    add(tmp_path, "=1+1")
    run_all(tmp_path)
    assert (tmp_path / "out" / "volumes.csv").read_text().splitlines()[1].startswith("'=1+1,")


POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from monai_passion.prediction.cohort import _start

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start, (int, 1, os.getpid()))
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows ends no process that way")
def test_workers_end_with_the_process_that_started_them_however_it_ends(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    process = subprocess.Popen([sys.executable, tmp_path / "pool.py"], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker lives on")


@pytest.mark.parametrize("name", ["volumes.csv", "index.html", "manifest_2.json"])
def test_a_patient_called_like_a_file_of_the_result_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="as a file of the result"):
        predict_cohort({name: {"flair": tmp_path / "f.nii"}}, tmp_path / "out", find_bundle(), Threshold, Options())
    assert not (tmp_path / "out").exists()
