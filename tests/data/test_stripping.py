import sys

import nibabel as nib
import numpy as np
import pytest

from monai_passion.data import stripping
from monai_passion.data.nifti import Volume
from monai_passion.data.stripping import brain_mask, choose_mask, strip
from monai_passion.errors import InputError, PassionError, UsageError


def head(affine, shape=(40, 44, 36)):
    """A bright brain in a darker shell, and a bright dot outside; axes as ``affine`` has them."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    r = np.sqrt((grid**2).sum(0))
    image = np.where(r < 0.6, 100.0, np.where(r < 0.85, 40.0, 0.0)).astype(np.float32)
    image[1, 1, 1] = 100
    return Volume(image, affine, None, ()), r < 0.6


@pytest.fixture
def thresholds(monkeypatch):
    """In place of the networks: what is brighter than the mean gray value of the training is brain."""
    import torch

    def bright(image):
        brain = (image > 0.449 + 0.226).float()
        return torch.cat([1 - brain, brain], dim=1)

    monkeypatch.setattr(stripping, "_networks", lambda: (bright, bright))
    monkeypatch.setattr(stripping, "COARSE", (24,) * 3)
    monkeypatch.setattr(stripping, "FINE", (48,) * 3)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1)])
def test_the_mask_lies_where_the_brain_is_however_the_file_is_oriented(thresholds, axes, signs):
    affine = nib.affines.from_matvec(np.diag(signs)[:, axes] * [1.0, 0.9, 2.0], [3, -4, 5])
    volume, brain = head(affine)
    mask = brain_mask(volume)
    assert mask.shape == volume.shape
    assert not mask[1, 1, 1]
    assert 2 * (mask & brain).sum() / (mask.sum() + brain.sum()) > 0.93


def test_all_sequences_get_the_mask_that_agrees_best(thresholds):
    volume, brain = head(np.diag([1.0, 1, 1, 1]))
    poor = volume._replace(data=np.where(np.arange(40)[:, None, None] < 20, volume.data, volume.data / 10))
    found = strip({"t1": volume, "flair": poor, "t2": volume})
    assert found.modality in ("t1", "t2")
    assert 0.5 < found.agreement < 1
    assert found.brain_ml == pytest.approx(brain.sum() / 1000, rel=0.15)
    for stripped in found.volumes.values():
        assert not stripped.data[~found.mask].any()


def test_the_only_mask_is_taken_as_it_is():
    assert choose_mask({"t1": np.ones((2, 2, 2), bool)}) == ("t1", 1.0)


def test_a_mask_without_a_brain_is_not_taken_beside_one_with_a_brain():
    empty = np.zeros((2, 2, 2), bool)
    assert choose_mask({"t1": empty, "t2": empty, "flair": ~empty})[0] == "flair"


def test_no_brain_is_said_at_once(monkeypatch):
    monkeypatch.setattr("monai_passion.data.stripping.brain_mask", lambda volume: np.zeros(volume.shape, bool))
    volume, _ = head(np.eye(4))
    with pytest.raises(InputError, match="deepbet finds no brain in"):
        strip({"t1": volume, "t2": volume})


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(name):
        raise PackageNotFoundError(name)

    stripping._networks.cache_clear()
    monkeypatch.setattr(stripping, "distribution", missing)
    with pytest.raises(UsageError, match=r"monai_passion\[strip\]"):
        brain_mask(head(np.eye(4))[0])


HD_BET = """#!{python}
import os, sys
import nibabel as nib, numpy as np
words = sys.argv[1:]
assert "--save_bet_mask" in words and "--no_bet_image" in words and "-device" in words
heads, brains = words[words.index("-i") + 1], words[words.index("-o") + 1]
os.makedirs(brains)
for name in os.listdir(heads):
    if name == "t2.nii.gz":
        sys.exit("no weights could be loaded")
    image = nib.load(os.path.join(heads, name))
    mask = (np.asarray(image.dataobj) > 50).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, image.affine), os.path.join(brains, name[:-7] + "_bet.nii.gz"))
"""


def test_hd_bet_is_run_once_for_all_sequences_where_it_is_asked_for(monkeypatch, tmp_path):
    volume, _ = head(np.diag([1.0, 1.0, 2.0, 1.0]))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="pip install hd-bet"):
        strip({"t1": volume}, "hd-bet")
    (tmp_path / "hd-bet").write_text(HD_BET.format(python=sys.executable))
    (tmp_path / "hd-bet").chmod(0o755)
    found = strip({"t1": volume, "flair": volume}, "hd-bet")
    assert np.array_equal(found.mask, volume.data > 50)
    assert found.agreement == 1
    with pytest.raises(UsageError, match="the stripper is 'bet'; give deepbet or hd-bet"):
        strip({"t1": volume}, "bet")
    with pytest.raises(PassionError, match=r"no weights could be loaded.*--stripper deepbet"):
        strip({"t2": volume}, "hd-bet")
