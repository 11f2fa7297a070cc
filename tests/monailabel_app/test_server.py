"""The app in MONAI Label's server, asked as Slicer's plugin asks it."""

import itertools
import json
import shutil
import time
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.bundles.conftest import ROOT
from tests.monailabel_app.conftest import NAME, add_small_bundle, serve, voxels

pytestmark = pytest.mark.label


@pytest.fixture(scope="module")
def client(monailabel, tmp_path_factory, studies):
    app = tmp_path_factory.mktemp("ours") / "app"
    shutil.copytree(ROOT / "monai_passion" / "monailabel_app", app, ignore=shutil.ignore_patterns("__pycache__"))
    add_small_bundle(app)
    with serve(app, studies) as client:
        client.model = app / "model" / NAME
        yield client


def test_info_lists_the_bundle_with_the_label_values_of_the_files_and_the_sequences(client):
    info = client.info()
    assert info["models"][NAME]["labels"] == {"ncr/net": 1, "ed": 2, "et": 4}
    assert info["models"][NAME]["config"]["sequence"][1:] == ["flair", "t1c", "t1", "t2"]
    assert NAME in info["trainers"]


@pytest.mark.parametrize(
    ("image", "sequences"), [("anna_t2", ["flair", "t1c", "t2"]), ("ben", ["flair", "t1c", "t1", "t2"])]
)
def test_segments_several_files_of_which_one_is_missing_and_one_file_of_all(client, studies, image, sequences):
    path, said = client.segment(image)
    assert said["sequences"] == sequences
    assert voxels(path).shape == nib.load(studies / f"{image}.nii.gz").shape[:3]
    assert set(np.unique(voxels(path))) <= {0, 1, 2, 4}


def test_every_file_of_a_patient_gives_the_same_segmentation(client):
    one, other = (voxels(client.segment(image)[0]) for image in ("anna_t2", "anna_flair"))
    assert np.array_equal(one, other)


def test_a_volume_under_a_temporary_name_is_segmented_once_its_sequence_is_said(client, studies, tmp_path):
    shutil.copy(studies / "anna_flair.nii.gz", tmp_path / "tmpq3x9.nii.gz")
    session = client.create_session(image_in=str(tmp_path / "tmpq3x9.nii.gz"))["session_id"]
    with pytest.raises(RuntimeError, match=r"Status: 400.*does not tell its sequence"):
        client.segment("", session_id=session)
    _, said = client.segment("", session_id=session, params={"sequence": "flair"})
    assert said["sequences"] == ["flair"]


def test_a_damaged_file_is_one_sentence_for_whoever_asked(client, studies, tmp_path):
    (tmp_path / "dora_t1.nii.gz").write_bytes((studies / "anna_t2.nii.gz").read_bytes()[:200])
    session = client.create_session(image_in=str(tmp_path / "dora_t1.nii.gz"))["session_id"]
    with pytest.raises(RuntimeError, match=r"Status: 400.*dora_t1.nii.gz is cut short or damaged"):
        client.segment("", session_id=session)


def ask(client, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{client.url}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_all_patients_of_a_folder_are_segmented_once_though_one_image_tells_no_sequence(client, studies):
    mystery = shutil.copy(studies / "anna_flair.nii.gz", studies / "mystery.nii.gz")
    try:
        while "mystery" not in str(ask(client, "/datastore/?output=all")):
            time.sleep(1)
        ask(client, f"/batch/infer/{NAME}?images=all", {"device": "cpu"})
        while (answer := ask(client, "/batch/infer/"))["status"] == "RUNNING":
            time.sleep(1)
        assert answer["status"] == "DONE", answer
        stats = ask(client, "/datastore/?output=stats")
        assert stats["label_tags"] == {"original": 3}, stats  # anna, ben and carl, of seven files and the mystery
    finally:
        Path(mystery).unlink()
        shutil.rmtree(studies / "labels" / "original", ignore_errors=True)


def test_training_with_nothing_labeled_says_so(client):
    status = client.train()
    assert status["status"] == "ERROR"
    assert "nothing is labeled yet" in " ".join(status["details"])


def test_three_rounds_of_annotating_and_training_each_change_the_segmentation(client, studies):
    maps = [voxels(client.segment("anna_t2")[0])]
    for round, (image, patient) in enumerate((("anna_t2", "anna"), ("carl_flair", "carl"), ("ben", "ben")), start=1):
        client.submit(image, studies.parent / "raw" / patient / f"{patient}_seg.nii.gz")
        status = client.train(max_epochs=2, val_split=0.0)
        assert status["status"] == "DONE", status["details"]
        assert (client.model / "trainings" / f"{round:03d}" / "model.pt").is_file()
        maps.append(voxels(client.segment("anna_t2")[0]))
    for before, after in itertools.pairwise(maps):
        assert not np.array_equal(before, after)
    assert set(np.unique(maps[-1])) <= {0, 1, 2, 4}


def test_trains_from_the_start_where_the_pretrained_weights_are_not_wanted(client):
    assert client.train(max_epochs=1, val_split=0.0, pretrained=False)["status"] == "DONE"
