"""Faults of the real commands on phantoms: killed, fed with the wrong weights, poisoned."""

import contextlib
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import nibabel as nib
import pytest
import torch

from monai_passion.cli import main
from monai_passion.handlers import newest_checkpoint, read_checkpoint, verify_checkpoint
from monai_passion.networks import MMFormer, RFNet
from monai_passion.networks.weights import save_weights
from tests.faults.commands import bundle_run, predict
from tests.helpers.tasks import BRATS_MRI, MYOPS_CMR

pytestmark = pytest.mark.faults

BUNDLES = Path(__file__).parents[2] / "bundles"
RFNET, MMFORMER, MYOPS = (
    BUNDLES / f"{name}_passion"
    for name in ("brats_mri_segmentation_rfnet", "brats_mri_segmentation_mmformer", "myops_cmr_segmentation_rfnet")
)
PATIENTS = 6
SMALL = ("--width", 2, "--crop_size", [32, 32, 32], "--roi_size", [32, 32, 32], "--device", "cpu")
AS_STORED = ("--spacing", [-1, -1, -1])
SETTINGS = {"width": 2, "spacing": [-1, -1, -1]}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "cohort"
    assert main(["phantom", "brats", str(folder), "--cases", str(PATIENTS), "--size", "32", "--seed", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(RFNet(4, 4, width=2), path, {"modalities": list(BRATS_MRI), "settings": SETTINGS})
    return path


def training(cohort, folder, log, *more, bundle=RFNET, epochs=2, **options):
    places = ("--dataset_dir", cohort, "--ckpt_dir", folder, "--missing_rates", None, "--val_interval", 100)
    grid = () if bundle == MYOPS else AS_STORED  # slices are not resampled
    return bundle_run(
        "training", bundle, "train", *places, *SMALL, *grid, "--epochs", epochs, *more, log=log, **options
    )


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    """A training of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    command = training(cohort, folder / "ckpt", folder / "log", epochs=1)
    assert command.wait() == 0, command.said
    return folder / "ckpt"


def voxels(path):
    return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()


def whole_patients(output):
    """The patients in an output folder; whoever is there must be there whole."""
    found = {}
    for folder in sorted(output.glob("[!.]*/")):
        report = json.loads((folder / "report.json").read_text())
        assert (folder / "preview.png").read_bytes().endswith(b"IEND\xaeB`\x82")
        assert nib.load(folder / "segmentation.nii.gz").get_fdata().shape == tuple(report["grid"]["shape"])
        found[folder.name] = voxels(folder / "segmentation.nii.gz")
    return found


@pytest.mark.parametrize(
    ("number", "code", "times"), [(signal.SIGKILL, -9, 5), (signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 2)]
)
def test_a_cohort_prediction_stopped_again_and_again_ends_as_one_that_was_not(
    cohort, weights, tmp_path, outcome, number, code, times
):
    arguments = (cohort, "--weights", weights, "--device", "cpu", "--roi-size", 32, "--no-page", "--output")
    output, log = tmp_path / "out", tmp_path / "log"
    stopped, repeated = 0, 0
    for _ in range(times):
        before = whole_patients(output)
        command = predict(*arguments, output, log=log)
        new = {path.name for path in cohort.iterdir()} - set(before)
        assert command.until(lambda: f"{min(new)}: segmenting" in log.read_text()), command.said  # noqa: B023
        time.sleep(random.uniform(0, 0.5))
        command.send(number)
        assert command.wait() == code, command.said
        assert "Traceback" not in command.said
        stopped += 1
        after = whole_patients(output)
        assert before.items() <= after.items()
        if number != signal.SIGKILL:
            assert not list(output.glob(".*")), "something half-written is left"
        if len(after) >= PATIENTS - 1:
            break
    done = {path: path.stat().st_mtime_ns for path in output.glob("*/report.json")}
    recorded = json.loads((output / "manifest.json").read_text())
    command = predict(*arguments, output, log=log)
    assert command.wait() == 0, command.said
    repeated = [path for path, when in done.items() if path.stat().st_mtime_ns != when]
    assert {path.parent.name for path in repeated}.isdisjoint(recorded)
    assert not list(output.glob(".*")), "a killed run's half-written patient is left"
    whole = predict(*arguments, tmp_path / "whole", log=log)
    assert whole.wait() == 0, whole.said
    assert whole_patients(output) == whole_patients(tmp_path / "whole")
    assert (output / "volumes.csv").read_text() == (tmp_path / "whole" / "volumes.csv").read_text()
    outcome(
        f"{signal.Signals(number).name} in a cohort prediction",
        f"random moments of {PATIENTS} patients",
        stopped,
        "the running patient; none half-written; the end the same",
    )


def test_an_evaluation_killed_half_way_and_started_again_gives_the_same_tables(cohort, trained, tmp_path, outcome):
    def evaluation(output):
        places = ("--dataset_dir", cohort, "--ckpt_dir", trained, "--output_dir", output, "--split", "training")
        return bundle_run("evaluating", RFNET, "evaluate", *places, *SMALL, *AS_STORED, log=tmp_path / "log")

    tables = ("metrics.csv", "summary.json", "run.json")
    start = time.monotonic()
    assert evaluation(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - start
    killed = 0
    for number in range(4):
        command = evaluation(tmp_path / "out")
        time.sleep(seconds * random.uniform(0.3, 0.9) if number else seconds * 0.6)
        command.send(signal.SIGKILL)
        code = command.wait()
        assert code in (0, -9), command.said
        killed += code == -9
        for name in tables:  # not there, or whole
            if (tmp_path / "out" / name).exists():
                assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert killed, "every kill came too late"
    command = evaluation(tmp_path / "out")
    assert command.wait() == 0, command.said
    for name in tables:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    outcome("SIGKILL in an evaluation", "random moments", killed, "that run; started again, the tables are the same")


OTHERS = {
    "M = 3": lambda: (RFNet(3, 4, width=2), {"modalities": list(MYOPS_CMR)}),
    "K = 5": lambda: (RFNet(4, 5, width=2), {"modalities": list(BRATS_MRI)}),
    "another width": lambda: (RFNet(4, 4, width=4), {"modalities": list(BRATS_MRI)}),
    "another backbone": lambda: (MMFormer(4, 4, width=2, embedding=16, mlp=16), {"modalities": list(BRATS_MRI)}),
    "the channels in another order": lambda: (RFNet(4, 4, width=2), {"modalities": list(BRATS_MRI)[::-1]}),
}


def test_wrong_or_swapped_weights_end_with_4_and_leave_nothing(cohort, weights, tmp_path, outcome):
    patient = sorted(cohort.iterdir())[0]

    def fails(path, *parts):
        command = predict(patient, "--weights", path, "--output", tmp_path / "out", log=tmp_path / "log")
        assert command.wait() == 4, command.said
        errors = [line for line in command.said.splitlines() if "error" in line]
        assert len(errors) == 1, command.said
        assert "Traceback" not in command.said
        for part in (path.name, *parts):
            assert part in errors[0]
        assert not (tmp_path / "out").exists()

    for what, make in OTHERS.items():
        network, facts = make()
        save_weights(network, tmp_path / "other.safetensors", {"settings": SETTINGS, **facts})
        fails(tmp_path / "other.safetensors")
        outcome("wrong weights", f"{what}, through predict", 1, "nothing; exit 4, nothing written")
    save_weights(RFNet(4, 4, width=2), tmp_path / "other.safetensors", {"modalities": list(BRATS_MRI)})
    swapped = Path(shutil.copy(tmp_path / "other.safetensors", tmp_path / "model.safetensors"))
    shutil.copy(f"{weights}.sha256", f"{swapped}.sha256")
    fails(swapped, "SHA-256")
    outcome("swapped weights", "another file beside the old checksum, through predict", 1, "nothing; exit 4")


@pytest.mark.parametrize(
    ("what", "bundle", "more"),
    [
        ("another backbone", MMFORMER, ("--embedding", 16, "--mlp", 16)),
        ("M = 3", MYOPS, ("--crop_size", [32, 32], "--roi_size", [32, 32])),
        ("another width", RFNET, ("--width", 4)),
    ],
)
def test_a_checkpoint_of_another_network_is_not_continued(cohort, trained, tmp_path, outcome, what, bundle, more):
    data = cohort
    if bundle == MYOPS:
        data = tmp_path / "myops"
        assert main(["phantom", "myops", str(data), "--cases", str(PATIENTS), "--size", "32", "--seed", "1"]) == 0
    folder = tmp_path / "ckpt"
    folder.mkdir()
    for path in trained.glob("*.pt*"):
        shutil.copy(path, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = training(data, folder, tmp_path / "log", *more, bundle=bundle)
    assert command.wait() == 4, command.said
    assert "belongs to another training" in command.said
    assert {name: (folder / name).read_bytes() for name in before} == before
    outcome("checkpoint of another training", f"{what}, through the bundle", 1, "nothing; exit 4 with the differences")


def poisoned(folder, prob):
    """A configuration that makes voxels overflow, so that the loss is NaN."""
    path = folder / "poison.json"
    scale = {"_target_": "RandScaleIntensityd", "keys": "image", "factors": [3e38, 3e38], "prob": prob}
    path.write_text(json.dumps({"+augment": [scale]}))
    return path


@pytest.mark.parametrize("prob", [1.0, 0.4])
def test_a_nan_loss_is_skipped_with_its_case_and_at_last_ends_the_training(cohort, trained, tmp_path, outcome, prob):
    folder = Path(shutil.copytree(trained, tmp_path / "ckpt"))
    before = newest_checkpoint(folder).read_bytes()
    files = f"['{RFNET}/configs/train.json','{poisoned(tmp_path, prob)}']"
    command = training(cohort, folder, tmp_path / "log", "--config_file", files, epochs=4)
    code = command.wait()
    assert "case BraTS20_Training_" in command.said
    assert "step skipped" in command.said
    if prob == 1:
        assert code == 1, command.said
        assert "not finite 5 times in a row" in command.said
        assert "Traceback" not in command.said
        assert (folder / "checkpoint_epoch=1.pt").read_bytes() == before
        outcome("loss is NaN for good", "voxels overflow, a bundle on phantoms", 1, "nothing; exit 1 at the fifth")
    else:
        assert code == 0, command.said
        outcome("loss is NaN now and then", "4 of 10 items overflow, a bundle", 1, "the steps of these cases, named")
    kept = read_checkpoint(newest_checkpoint(folder))
    assert all(bool(value.isfinite().all()) for name in ("model", "objective") for value in kept[name].values())


def test_a_worker_killed_in_a_bundle_ends_with_5_and_resumes_to_the_same_weights(cohort, tmp_path, outcome):
    def run(name, **options):
        more = ("--num_workers", 2, "--cache_rate", 0.0)
        return training(cohort, tmp_path / name, tmp_path / f"{name}.log", *more, epochs=3, **options)

    whole = run("whole")
    assert whole.wait() == 0, whole.said
    command = run("ckpt")
    command.until(lambda: newest_checkpoint(tmp_path / "ckpt"))
    children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children")

    def killed():
        for worker in children.read_text().split()[:1] if children.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(worker), signal.SIGKILL)
        return False

    assert not command.until(killed)
    assert command.wait() == 5, command.said
    errors = [line for line in command.said.splitlines() if line.startswith("monai-passion: error: ")]
    assert len(errors) == 1
    assert "a worker of the data loader was killed" in errors[0]
    assert verify_checkpoint(newest_checkpoint(tmp_path / "ckpt"))
    again = run("ckpt")
    assert again.wait() == 0, again.said
    one, other = (read_checkpoint(tmp_path / name / "model_last.pt")["model"] for name in ("whole", "ckpt"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    outcome(
        "data loader worker killed", "SIGKILL to a worker of a bundle", 1, "the running epoch; exit 5; same weights"
    )


def test_two_deterministic_trainings_end_bit_identical(cohort, tmp_path, outcome):
    for name in ("a", "b"):
        command = training(cohort, tmp_path / name, tmp_path / "log", "--deterministic", True)
        assert command.wait() == 0, command.said
    one, other = (read_checkpoint(newest_checkpoint(tmp_path / name)) for name in ("a", "b"))
    for name in ("model", "objective"):
        assert all(torch.equal(one[name][key], other[name][key]) for key in one[name])
    outcome("none", "a bundle trained twice with deterministic=true", 2, "nothing; bit-identical weights")
