"""Memory that does not suffice, simulated by a network that refuses what a larger machine would do."""

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_passion.bundle.facts import find_bundle
from monai_passion.cli import main
from monai_passion.data.nifti import Volume
from monai_passion.errors import ResourceError, is_out_of_memory
from monai_passion.prediction.run import Options, predict_patient
from monai_passion.prediction.segmenter import Segmenter
from monai_passion.system.schemas import check_schema

ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "a library below": lambda: RuntimeError("cuDNN error: out of memory"),
    "torch on the cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "numpy": lambda: MemoryError("Unable to allocate 1.00 TiB"),
}


def volume(seed=0, size=48):
    shape = (size, 32, 32)
    grid = np.stack(np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij"))
    values = np.random.default_rng(seed).normal(100, 20, shape)
    return Volume(np.where((grid**2).sum(0) < 1, values, 0).astype(np.float32), np.eye(4), None, ())


@pytest.fixture
def segmenter(weights):
    # In bfloat16 a batch of windows and one of them are rounded differently, on processors that compute in it.
    made = Segmenter(find_bundle(), weights=weights, device="cpu", roi_size=[32], overlap=0.0, precision="fp32")
    made.parser["sw_batch_size"] = 4
    return made


def refuse(segmenter, when, error=ERRORS["cuda"]):
    """Make encoding raise ``error`` for the images that ``when(image)`` is true of; gives the shapes that passed."""
    encode, passed = segmenter.network.encode, []

    def guarded(image, available):
        if when(image):
            raise error()
        passed.append(tuple(image.shape))
        return encode(image, available)

    segmenter.network.encode = guarded
    return passed


@pytest.mark.parametrize("kind", ERRORS)
def test_a_lack_of_memory_is_known_by_what_each_library_says(kind):
    assert is_out_of_memory(ERRORS[kind]())


def test_windows_run_one_by_one_give_the_same_when_a_batch_of_them_does_not_fit(segmenter):
    volumes = [volume(0), None, None, volume(3)]
    whole = segmenter.segment(volumes, "all", probabilities=True)
    passed = refuse(segmenter, lambda image: len(image) > 1)
    spared = segmenter.segment(volumes, "all", probabilities=True)
    assert {shape[0] for shape in passed} == {1}
    np.testing.assert_allclose(spared.probabilities, whole.probabilities, atol=1e-5)
    np.testing.assert_allclose(spared.uncertainty, whole.uncertainty, atol=1e-5)
    assert spared.combinations.keys() == whole.combinations.keys() == {"flair", "t2"}
    for name, labels in whole.combinations.items():
        assert (spared.combinations[name] != labels).mean() < 1e-4
    assert (spared.device, whole.findings) == ("cpu", ())
    assert [(r.level, "one after the other" in r.text) for r in spared.findings] == [("note", True)]


def test_what_does_not_fit_the_device_is_done_on_the_cpu_with_the_same_result(segmenter, monkeypatch):
    """The device is one that torch has no tensors for on this machine; what runs there refuses."""
    volumes = [volume(0), None, None, None]
    whole = segmenter.segment(volumes, probabilities=True)
    monkeypatch.setattr(Segmenter, "device", property(lambda self: "cuda:7"))
    move = torch.nn.Module.to

    def to(self, device):
        if str(device) == "cuda:7":
            raise ERRORS["cuda"]()
        return move(self, device)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    spared = segmenter.segment(volumes, probabilities=True)
    assert spared.device == "cpu"
    assert "on the CPU in place of cuda:7" in spared.findings[0].text
    np.testing.assert_allclose(spared.probabilities, whole.probabilities, atol=1e-5)


def test_smaller_windows_come_last_and_are_a_warning(segmenter, tmp_path):
    passed = refuse(segmenter, lambda image: image.shape[-1] > 16)
    nib.save(nib.Nifti1Image(volume().data, np.eye(4)), tmp_path / "flair.nii.gz")
    files = {"flair": tmp_path / "flair.nii.gz"}
    report = predict_patient(files, tmp_path / "out", segmenter.bundle, lambda: segmenter, Options(page=False))
    assert {shape[2:] for shape in passed} == {(16, 16, 16)}
    assert {
        "level": "warning",
        "text": "memory was short: segmented in windows of 16x16x16 voxels, which changes the result a little",
    } in report["findings"]
    check_schema(report, "report", "report.json")


def test_the_next_patient_is_tried_as_the_bundle_says_again(segmenter):
    first = iter([True])
    refuse(segmenter, lambda image: next(first, False))
    volumes = [volume(), None, None, None]
    assert segmenter.segment(volumes).findings
    assert segmenter.segment(volumes).findings == ()


def test_when_nothing_helps_one_line_says_so(segmenter, weights, monkeypatch, tmp_path, capsys):
    refuse(segmenter, lambda image: True)
    with pytest.raises(ResourceError, match="16x16x16"):
        segmenter.segment([volume(), None, None, None])
    monkeypatch.setattr("monai_passion.prediction.segmenter.Segmenter", lambda *_, **__: segmenter)
    nib.save(nib.Nifti1Image(volume().data, np.eye(4)), tmp_path / "flair.nii.gz")
    command = ["predict", "--weights", str(weights), "--flair", str(tmp_path / "flair.nii.gz")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 5
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("monai-passion: error: not enough memory on cpu")
    assert not (tmp_path / "out").exists()


def test_another_failure_is_not_taken_for_a_lack_of_memory(segmenter):
    refuse(segmenter, lambda image: True, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        segmenter.segment([volume(), None, None, None])
    assert not is_out_of_memory(ValueError("out of memory"))


def test_probabilities_add_up_to_one_and_their_largest_is_the_label_where_that_is_the_decision(weights):
    segmenter = Segmenter(
        find_bundle(), weights=weights, device="cpu", roi_size=[32], overlap=0.0, decision="most_probable"
    )
    result = segmenter.segment([volume(), None, volume(1), None], probabilities=True)
    np.testing.assert_allclose(result.probabilities.sum(-1), 1, atol=1e-4)
    assert (result.probabilities[0, 0, 0] == [1, 0, 0, 0]).all()
    values = np.array(segmenter.bundle.label_values)
    assert (values[result.probabilities.argmax(-1)] == result.labels).mean() > 0.9999
