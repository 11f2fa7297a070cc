"""MONAI Label's server, really started on loopback, and asked by its own client.

``MONAI_PASSION_LABEL_VENV`` is its environment, see docs/how-to/monai-label.md; ``MONAI_PASSION_LABEL_TRANSCRIPT`` a
file for what was asked and answered.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest

from monai_passion.bundle.export import export_bundle
from tests.bundles.conftest import BUNDLES, ROOT, add_weights, row_of, small, write_case

NAME = "brats_mri_segmentation_rfnet_passion"
STARTUP, TRAINING = 900, 3000  # seconds, on a busy machine
VENV = Path(os.environ.get("MONAI_PASSION_LABEL_VENV", ROOT / ".venv-label"))
TRANSCRIPT = os.environ.get("MONAI_PASSION_LABEL_TRANSCRIPT")


class Client:
    """`monailabel.client.MONAILabelClient`: its methods, called by keyword, in its own environment."""

    def __init__(self, url, folder, environment):
        self.url, self.folder = url, folder
        command = [str(VENV / "bin" / "python"), str(Path(__file__).with_name("client.py")), url, str(folder)]
        self.pipe = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __getattr__(self, method):
        def call(**arguments):
            self.pipe.stdin.write(json.dumps([method, arguments]) + "\n")
            answer = json.loads(self.pipe.stdout.readline())
            if method != "train_status" or not arguments:
                self.tell(method, arguments, answer)
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer["answer"]

        return call

    def tell(self, method, arguments, answer):
        said = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        self.note(f">>> client.{method}({said})\n{json.dumps(answer.get('answer', answer))}\n")

    def note(self, text):
        """A line of the transcript, without the folders of this machine."""
        if TRANSCRIPT:
            with open(TRANSCRIPT, "a") as file:
                file.write(text.replace(str(self.folder.parent), "...") + "\n")

    def options(self, section="models"):
        """What Slicer sends where nobody changes an option: of each list, the first."""
        config = self.info()[section][NAME]["config"]
        return {key: value[0] if isinstance(value, list) else value for key, value in config.items()}

    def segment(self, image, **more):
        """Path of the label map, and what was said beside it, as Slicer asks for both."""
        sent = {"result_extension": ".nrrd", "result_dtype": "uint8", **self.options(), **more.pop("params", {})}
        return self.infer(model=NAME, image_id=image, params=sent, **more)

    def submit(self, image, label):
        """A label map of BraTS as Slicer sends it: its segments are counted 1, 2, 3, and their names sent along."""
        label, path = nib.load(label), self.folder / f"{image}.nii.gz"
        counted = np.where(label.get_fdata() == 4, 3, label.get_fdata()).astype(np.uint8)
        nib.save(nib.Nifti1Image(counted, label.affine), path)
        segments = [{"name": name, "idx": k} for k, name in enumerate(("ncr/net", "ed", "et"), start=1)]
        return self.save_label(image_id=image, label_in=str(path), params={"label_info": segments})

    def train(self, **changes):
        """Start a training and wait for its end; its last lines."""
        self.train_start(model=NAME, params={**self.options("trainers"), **changes})
        for _ in range(TRAINING):
            time.sleep(1)
            if not self.train_status(check_if_running=True):
                status = self.train_status()
                if status["status"] not in ("SUBMITTED", "RUNNING"):
                    return status
        raise TimeoutError


def voxels(path):
    return np.asarray(itk.imread(path)).transpose()


@pytest.fixture(scope="package")
def studies(tmp_path_factory):
    """The studies: Anna and Carl lack T1, Ben's four volumes are in one file; their labels are in ``raw`` beside."""
    top = tmp_path_factory.mktemp("label")
    (top / "studies").mkdir()
    for seed, patient in enumerate(("anna", "ben", "carl")):
        write_case(top / "raw", patient, "brats_mri", seed)
    for patient in ("anna", "carl"):
        for name in ("flair", "t1ce", "t2"):
            shutil.copy(top / "raw" / patient / f"{patient}_{name}.nii.gz", top / "studies")
    volumes = [nib.load(top / "raw" / "ben" / f"ben_{name}.nii.gz") for name in ("flair", "t1ce", "t1", "t2")]
    data = np.stack([volume.get_fdata(dtype=np.float32) for volume in volumes], axis=-1)
    nib.save(nib.Nifti1Image(data, volumes[0].affine), top / "studies" / "ben.nii.gz")
    return top / "studies"


@pytest.fixture(scope="package")
def monailabel():
    """Skips where MONAI Label is not installed."""
    if not (VENV / "bin" / "monailabel").is_file():
        pytest.skip(
            f"no MONAI Label at {VENV}; docs/how-to/monai-label.md makes one, MONAI_PASSION_LABEL_VENV is where"
        )


def add_small_bundle(app):
    """A small bundle, with weights that nobody trained, into a copied app's ``model``."""
    top = app.parent
    source = Path(shutil.copytree(BUNDLES / NAME, top / "source" / NAME))
    for config in ("train", "inference"):
        path = source / "configs" / f"{config}.json"
        content = {**json.loads(path.read_text()), **small(row_of(source), config)}
        path.write_text(json.dumps({**content, **({"learning_rate": 0.01} if config == "train" else {})}))
    add_weights(source)
    export_bundle(source, top / "x.zip")
    with zipfile.ZipFile(top / "x.zip") as archive:
        archive.extractall(app / "model")


@contextlib.contextmanager
def serve(app, studies, *conf):
    """A server of the bundles in the copied app's ``model``, and a client of it."""
    top = app.parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",  # its script calls `python`
        "PYTHONPATH": str(ROOT),
        "HOME": str(top),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    words = ["start_server", "--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    for pair in conf:
        words += ["--conf", *pair.split("=")]
    log = top / "server.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [VENV / "bin" / "monailabel", *words],
            cwd=top,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    client = None
    try:
        for _ in range(STARTUP):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/info/", timeout=10).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        client = Client(f"http://127.0.0.1:{port}", top, environment)
        client.log = log
        yield client
    finally:
        if client is not None:
            client.pipe.terminate()
        os.killpg(process.pid, 15)
        process.wait(30)
