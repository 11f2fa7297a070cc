"""What `make label` serves: the weights that come with the package, which segment phantoms and learn in every round."""

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import ListedColormap

from tests.bundles.conftest import ROOT
from tests.monailabel_app.conftest import NAME, TRANSCRIPT, serve, voxels

pytestmark = pytest.mark.label
PATIENT = "BraTS20_Training_{:03d}"


@pytest.fixture(scope="module")
def label(monailabel, tmp_path_factory):
    """The folder that `make label` fills: ``app``, ``studies`` and, with the labels, ``raw``."""
    folder = tmp_path_factory.mktemp("made") / "label"
    places = [f"LABEL={folder}", f"BIN={Path(sys.executable).parent}"]
    subprocess.run(["make", "-s", "-o", "install", *places, str(folder / "app")], cwd=ROOT, check=True)
    files = [folder / "studies" / f"{PATIENT.format(4)}_{name}.nii.gz" for name in ("flair", "t1ce", "t1", "t2")]
    volumes = [nib.load(file) for file in files]
    data = np.stack([volume.get_fdata(dtype=np.float32) for volume in volumes], axis=-1)
    nib.save(nib.Nifti1Image(data, volumes[0].affine), folder / "studies" / "four.nii.gz")
    return folder


@pytest.fixture(scope="module")
def client(label):
    with serve(label / "app", label / "studies") as client:
        yield client


def draw(image, maps, path):
    """The slice with most of the tumor, with each of the server's answers over it."""
    image = nib.load(image).get_fdata()
    k = int((maps[0] > 0).sum(axis=(0, 1)).argmax())
    figure, axes = plt.subplots(1, len(maps), figsize=(2.5 * len(maps), 2.8), layout="constrained")
    for n, (axis, found) in enumerate(zip(axes, maps, strict=True)):
        axis.imshow(np.rot90(image[:, :, k]), cmap="gray")
        shown = np.ma.masked_equal(np.rot90(found[:, :, k]), 0)
        axis.imshow(shown, cmap=ListedColormap(["tab:red", "tab:green", "tab:blue", "gold"]), vmin=1, vmax=4, alpha=0.6)
        axis.set_title(f"after round {n}" if n else "as shipped", fontsize=10)
        axis.set_axis_off()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def dice(client, label, number, image, **more):
    """Of the whole tumor, as the server segments an image of a patient."""
    found = voxels(client.segment(image, **more)[0])
    truth = nib.load(label / "raw" / PATIENT.format(number) / f"{PATIENT.format(number)}_seg.nii.gz").get_fdata()
    sizes = {f"label {value}": int((found == value).sum()) for value in np.unique(found) if value}
    value = 2 * np.sum((found > 0) & (truth > 0)) / (np.sum(found > 0) + np.sum(truth > 0))
    client.note(f"# voxels: {sizes}; Dice of the whole tumor: {value:.2f}\n")
    return value, found


def test_segments_patients_of_several_files_of_one_4d_file_and_a_volume_under_a_temporary_name(client, label, tmp_path):
    assert client.info()["models"][NAME]["labels"] == {"ncr/net": 1, "ed": 2, "et": 4}
    assert dice(client, label, 2, f"{PATIENT.format(2)}_t2")[0] > 0.6
    assert dice(client, label, 4, "four")[0] > 0.6
    shutil.copy(label / "studies" / f"{PATIENT.format(4)}_flair.nii.gz", tmp_path / "tmpq3x9.nii.gz")
    session = client.create_session(image_in=str(tmp_path / "tmpq3x9.nii.gz"))["session_id"]
    with pytest.raises(RuntimeError, match="does not tell its sequence"):
        client.segment("", session_id=session)
    assert dice(client, label, 4, "", session_id=session, params={"sequence": "flair"})[0] > 0.4


def test_three_rounds_of_annotating_and_training_each_change_the_segmentation(client, label):
    maps = [dice(client, label, 2, f"{PATIENT.format(2)}_t2")[1]]
    for number in (1, 2, 3):
        image = f"{PATIENT.format(number)}_t2"
        client.submit(image, label / "raw" / PATIENT.format(number) / f"{PATIENT.format(number)}_seg.nii.gz")
        assert client.train(max_epochs=2, val_split=0.0)["status"] == "DONE"
        maps.append(dice(client, label, 2, f"{PATIENT.format(2)}_t2")[1])
        client.note(f"# {np.sum(maps[-1] != maps[-2])} of {maps[-1].size} voxels changed\n")
    if TRANSCRIPT:
        draw(label / "studies" / f"{PATIENT.format(2)}_t2.nii.gz", maps, f"{TRANSCRIPT}.png")
    assert all(not np.array_equal(before, after) for before, after in itertools.pairwise(maps))
