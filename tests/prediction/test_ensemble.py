"""Several networks, averaged."""

import json

import numpy as np
import pytest
import torch

from monai_passion.bundle.facts import find_bundle, find_member
from monai_passion.cli import main
from monai_passion.commands.predict import _words
from monai_passion.data.nifti import read_volume
from monai_passion.errors import UsageError, WeightsError
from monai_passion.networks import HeteroModalUNet, MMFormer, RFNet
from monai_passion.networks.weights import save_weights
from monai_passion.prediction.segmenter import Segmenter
from monai_passion.system.files import sha256
from tests.helpers.tasks import BRATS_MRI
from tests.prediction.test_run import head, write

SETTINGS = {"spacing": [1.0, 1.0, 1.0], "width": 4, "roi_size": [32, 32, 32]}


def make(path, seed, **settings):
    torch.manual_seed(seed)
    settings = {**SETTINGS, **settings}
    save_weights(RFNet(4, 4, width=settings["width"]), path, {"modalities": list(BRATS_MRI), "settings": settings})
    return path


def make_mmformer(path):
    torch.manual_seed(9)
    parts = {"width": 2, "embedding": 32, "heads": 2, "depth": 1, "mlp": 32}
    network = MMFormer(4, 4, roi_size=[32, 32, 32], **parts)
    settings = {"spacing": [1.0, 1.0, 1.0], "crop_size": [32, 32, 32], "roi_size": [32, 32, 32], **parts}
    save_weights(network, path, {"modalities": list(BRATS_MRI), "settings": settings})
    return path


def members(*files):
    return [find_member(file, find_bundle()) for file in files]


@pytest.fixture
def weights(tmp_path):
    return [make(tmp_path / f"{k}.safetensors", k) for k in range(3)]


@pytest.fixture
def volumes(tmp_path):
    return [read_volume(write(tmp_path / "flair.nii.gz", head(0))), None, None, None]


def test_the_probabilities_of_the_members_are_averaged(weights, volumes):
    shares = []

    def probabilities(first, *others):
        segmenter = Segmenter(find_bundle(), weights=first, device="cpu", overlap=0.0, ensemble=members(*others))
        return segmenter.segment(volumes, probabilities=True, progress=shares.append).probabilities

    alone = [probabilities(file) for file in weights]
    shares.clear()
    assert not np.allclose(alone[0], alone[1], atol=0.01)
    np.testing.assert_allclose(probabilities(*weights), np.mean(alone, axis=0), atol=1e-5)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_members_may_be_other_networks_each_in_its_own_windows(weights, volumes, tmp_path):
    narrow = make(tmp_path / "narrow.safetensors", 1, width=2, roi_size=[48, 48, 48])
    files = [weights[0], narrow, make_mmformer(tmp_path / "mmformer.safetensors")]
    together = Segmenter(find_bundle(), weights=files[0], device="cpu", ensemble=members(*files[1:]))
    assert [member.window(0) for member in (together, *together.others)] == [(32,) * 3, (48,) * 3, (32,) * 3]
    alone = [
        Segmenter(bundle, weights=file, device="cpu").segment(volumes, probabilities=True).probabilities
        for bundle, file in members(*files)
    ]
    mean = together.segment(volumes, probabilities=True).probabilities
    np.testing.assert_allclose(mean, np.mean(alone, axis=0), atol=1e-5)


def test_a_member_is_given_by_its_weights_or_by_a_bundle(weights):
    rfnet, mmformer = find_bundle(), find_bundle("brats_mmformer")
    assert find_member("brats_mmformer", rfnet) == (mmformer, mmformer.weights)
    assert find_member(weights[0], mmformer) == (rfnet, weights[0])


def test_members_that_see_other_images_are_refused_and_other_windows_and_rules_are_not(weights, tmp_path):
    other = make(tmp_path / "other.safetensors", 3, spacing=[2.0, 2.0, 2.0])
    with pytest.raises(WeightsError, match=r"other.* trained with spacing \[2.0, 2.0, 2.0\], .*0.safetensors with"):
        Segmenter(find_bundle(), weights=weights[0], device="cpu", ensemble=members(weights[1], other))
    with pytest.raises(WeightsError, match=r"is for Myocardial pathology CMR, .* for Brain tumor MRI"):
        Segmenter(find_bundle(), weights=weights[0], device="cpu", ensemble=members("myops_mmformer"))
    alike = make(tmp_path / "alike.safetensors", 3, roi_size=[48, 48, 48], minimum_et_ml=1.0)
    Segmenter(find_bundle(), weights=weights[0], device="cpu", ensemble=members(alike))


def test_a_network_is_not_averaged_with_itself(weights):
    for twice in (weights[:1], weights[1:2] * 2):
        with pytest.raises(UsageError, match=r"safetensors is in the ensemble twice"):
            Segmenter(find_bundle(), weights=weights[0], device="cpu", ensemble=members(*twice))


def test_weights_of_another_network_are_told_as_such_before_their_settings(weights, tmp_path):
    with pytest.raises(WeightsError, match="weights of RFNet, not of MMFormer"):
        Segmenter(find_bundle("brats_mmformer"), weights=weights[0], device="cpu")
    save_weights(HeteroModalUNet(4, 4, channels=(2, 4)), tmp_path / "unet.safetensors", {"modalities": list(BRATS_MRI)})
    with pytest.raises(WeightsError, match="weights of HeteroModalUNet, not of RFNet"):
        Segmenter(find_bundle(), weights=weights[0], device="cpu", ensemble=members(tmp_path / "unet.safetensors"))


@pytest.mark.parametrize(
    ("member", "message"),
    [("nowhere.safetensors", "no weights at"), ("narrow.safetensors", "does not fit RFNet as built here")],
)
def test_a_member_that_cannot_be_used_is_one_line_and_leaves_nothing(member, message, weights, tmp_path, capsys):
    torch.manual_seed(0)
    facts = {"modalities": list(BRATS_MRI), "settings": SETTINGS}
    save_weights(RFNet(4, 4, width=2), tmp_path / "narrow.safetensors", facts)
    flair, out = write(tmp_path / "flair.nii.gz", head(0)), tmp_path / "out"
    words = ["predict", "--flair", flair, "--weights", weights[0], "--ensemble", tmp_path / member, "--output", out]
    assert main([*map(str, words), "--device", "cpu"]) == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("monai-passion: error: ")
    assert message in error
    assert not out.exists()


def test_the_report_and_the_page_name_the_members(weights, tmp_path, capsys):
    flair = write(tmp_path / "flair.nii.gz", head(0))
    words = ["predict", "--flair", flair, "--weights", weights[0], "--ensemble", *weights[1:]]
    assert main([*map(str, words), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["weights"]["sha256"] == sha256(weights[0])
    members = [sha256(file) for file in weights[1:]]
    assert report["settings"]["ensemble"] == members
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"averaged with {member[:12]}" in page for member in members)


def test_a_part_of_a_cohort_that_runs_elsewhere_finds_the_members(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = _words({"input": "cohort", "output": "out", "ensemble": ["1.safetensors", "2.safetensors"]})
    at = words.index("--ensemble")
    assert words[at + 1 : at + 3] == [str(file) for file in weights[1:]]
