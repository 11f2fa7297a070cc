"""A bundle in MONAI Label's own app ``monaibundle``, without any code of ours but the bundle's."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from tests.monailabel_app.conftest import NAME, VENV, add_small_bundle, serve

pytestmark = pytest.mark.label


@pytest.fixture(scope="module")
def client(monailabel, tmp_path_factory, studies):
    stock = VENV / "monailabel" / "sample-apps" / "monaibundle"
    if not stock.is_dir():
        pytest.skip(f"no {stock}, which comes with MONAI Label; see docs/how-to/monai-label.md")
    app = tmp_path_factory.mktemp("stock") / "app"
    shutil.copytree(stock, app, ignore=shutil.ignore_patterns("__pycache__"))
    add_small_bundle(app)
    with serve(app, studies, f"models={NAME}", "zoo_source=local", "sam2=false") as client:
        yield client


@pytest.mark.parametrize("image", ["ben", "anna_t2"])
def test_segments_one_file_of_all_and_a_patient_of_several_without_being_told_a_format(client, studies, image):
    path, _ = client.infer(model=NAME, image_id=image, params={})
    found = nib.load(path)
    assert found.shape == nib.load(studies / f"{image}.nii.gz").shape[:3]
    assert set(np.unique(found.get_fdata())) <= {0, 1, 2, 4}


def test_shows_the_numbers_of_the_classes_where_the_file_has_the_values_of_the_data_set(client):
    assert client.info()["models"][NAME]["labels"] == {"ncr/net": 1, "ed": 2, "et": 3}


def test_takes_the_sequence_of_a_volume_under_a_temporary_name(client, studies, tmp_path):
    shutil.copy(studies / "anna_flair.nii.gz", tmp_path / "tmpq3x9.nii.gz")
    session = client.create_session(image_in=str(tmp_path / "tmpq3x9.nii.gz"))["session_id"]
    path, _ = client.infer(model=NAME, image_id="", params={"sequence": "flair"}, session_id=session)
    assert nib.load(path).shape == nib.load(studies / "anna_flair.nii.gz").shape


def test_trains(client, studies):
    client.save_label(
        image_id="anna_t2", label_in=str(studies.parent / "raw" / "anna" / "anna_seg.nii.gz"), tag="final", params={}
    )
    status = client.train(max_epochs=1, val_split=0.0, run_id="run")
    assert status["status"] == "DONE", status["details"]
