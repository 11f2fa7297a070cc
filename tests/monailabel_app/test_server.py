"""MONAI Label's server, really started on loopback, with our app; see docs/how-to/monai-label.md for the environment.

``MONAI_PASSION_LABEL_VENV`` is its folder.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_passion.bundle.export import export_bundle
from tests.bundles.conftest import BUNDLES, ROOT, add_weights, row_of, small, write_case

pytestmark = pytest.mark.label
NAME = "brats_mri_segmentation_rfnet_passion"
STARTUP, REQUEST = 900, 900  # seconds, on a busy machine
VENV = Path(os.environ.get("MONAI_PASSION_LABEL_VENV", ROOT / ".venv-label"))


class Server:
    """A running server, and what was asked of it and answered."""

    def __init__(self, url, process, transcript):
        self.url, self.process, self.transcript = url, process, transcript

    def ask(self, method, path, data=None, kind="application/json"):
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=REQUEST) as answer:
            body = answer.read()
        said = body.decode() if len(body) < 2000 and b"\x00" not in body else f"{len(body)} bytes"
        with open(self.transcript, "a") as file:
            file.write(
                f"{method} {path} {data.decode() if data and len(data) < 200 else ''}\n{answer.status} {said}\n\n"
            )
        return body

    def segment(self, image):
        """The label map of `POST /infer/`."""
        query = urllib.parse.urlencode({"image": image, "output": "image"})
        body = self.ask("POST", f"/infer/{NAME}?{query}", b"params={}", "application/x-www-form-urlencoded")
        return nib.Nifti1Image.from_stream(io.BytesIO(_unpacked(body)))

    def put_label(self, image, path):
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="label"; filename="{path.name}"\r\n\r\n'
        data = head.encode() + path.read_bytes() + f"\r\n--{edge}--\r\n".encode()
        self.ask("PUT", f"/datastore/label?image={image}&tag=final", data, f"multipart/form-data; boundary={edge}")


def _unpacked(body):
    import gzip

    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The app with a small bundle; studies of which Anna and Carl lack T1, and Ben's four volumes are in one file."""
    top = tmp_path_factory.mktemp("label")
    source = Path(shutil.copytree(BUNDLES / NAME, top / "source" / NAME))
    for config in ("train", "inference"):
        path = source / "configs" / f"{config}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **small(row_of(source), config)}))
    add_weights(source)
    export_bundle(source, top / "x.zip")
    shutil.copytree(
        ROOT / "monai_passion" / "monailabel_app", top / "app", ignore=shutil.ignore_patterns("__pycache__")
    )
    with zipfile.ZipFile(top / "x.zip") as archive:
        archive.extractall(top / "app" / "model")
    (top / "studies").mkdir()
    for seed, patient in enumerate(("anna", "ben", "carl")):
        write_case(top / "raw", patient, "brats_mri", seed)
    for patient in ("anna", "carl"):
        for name in ("flair", "t1ce", "t2"):
            shutil.copy(top / "raw" / patient / f"{patient}_{name}.nii.gz", top / "studies")
    volumes = [nib.load(top / "raw" / "ben" / f"ben_{name}.nii.gz") for name in ("flair", "t1ce", "t1", "t2")]
    data = np.stack([volume.get_fdata(dtype=np.float32) for volume in volumes], axis=-1)
    nib.save(nib.Nifti1Image(data, volumes[0].affine), top / "studies" / "ben.nii.gz")
    return top


@pytest.fixture(scope="module")
def server(folder):
    script = VENV / "bin" / "monailabel"
    if not script.is_file():
        pytest.skip(
            f"no MONAI Label at {VENV}; docs/how-to/monai-label.md makes one, MONAI_PASSION_LABEL_VENV is where"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",  # its script calls `python`
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    arguments = ["start_server", "--app", "app", "--studies", "studies", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [script, *arguments], cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, process_group=0
        )
    transcript = Path(os.environ.get("MONAI_PASSION_LABEL_TRANSCRIPT", folder / "transcript.txt"))
    transcript.write_text(f"$ monailabel {' '.join(arguments)}\n\n")
    running = Server(f"http://127.0.0.1:{port}", process, transcript)
    try:
        for _ in range(STARTUP):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                running.ask("GET", "/info/")
                break
            except urllib.error.URLError:
                time.sleep(1)
        yield running
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_info_lists_the_bundle_with_the_label_values_of_the_files(server):
    info = json.loads(server.ask("GET", "/info/"))
    assert info["models"][NAME]["labels"] == {"ncr/net": 1, "ed": 2, "et": 4}
    assert NAME in info["trainers"]


@pytest.mark.parametrize(("image", "patient"), [("anna_t2", "anna"), ("ben", "ben")])
def test_segments_several_files_of_which_one_is_missing_and_one_file_of_all(server, folder, image, patient):
    found, flair = server.segment(image), nib.load(folder / "raw" / patient / f"{patient}_flair.nii.gz")
    assert found.shape == flair.shape
    assert np.allclose(found.affine, flair.affine)
    assert set(np.unique(found.get_fdata())) <= {0, 1, 2, 4}


def test_every_file_of_a_patient_gives_the_same_segmentation(server):
    one, other = (server.segment(image).get_fdata() for image in ("anna_t2", "anna_flair"))
    assert np.array_equal(one, other)


def test_trains_on_what_was_labelled_and_segments_with_the_result(server, folder):
    weights = folder / "app" / "model" / NAME / "models" / "model.pt"
    before = weights.read_bytes()
    for image, patient in (("anna_t2", "anna"), ("carl_flair", "carl"), ("ben", "ben")):
        server.put_label(image, folder / "raw" / patient / f"{patient}_seg.nii.gz")
    request = {"model": NAME, "max_epochs": 1, "val_split": 0, "device": "cpu", "multi_gpu": False}
    server.ask("POST", f"/train/{NAME}?run_sync=true", json.dumps(request).encode())
    assert weights.read_bytes() != before
    assert re.search("Training Finished", (folder / "server.log").read_text())
    assert server.segment("anna_t2").shape == nib.load(folder / "studies" / "anna_t2.nii.gz").shape
