import numpy as np
import pytest

from monai_passion.data.nifti import Volume
from monai_passion.data.phantom.brain import brain_case
from monai_passion.data.plausibility import check_images
from monai_passion.tasks import load_task
from tests.helpers.tasks import BRATS_MRI

BRAIN, HEART = load_task("brats_mri"), load_task("myops_cmr")

SIGNAL = {  # fluid, gray and white matter
    "flair": (0.1, 0.7, 0.6),
    "t1c": (0.2, 0.6, 0.9),
    "t1": (0.2, 0.6, 0.9),
    "t2": (1.6, 0.6, 0.5),
}


def head(modality, radius=1.0, shift=0, seed=0):
    """A ball of fluid, gray and white matter, from the inside out 12, 40 and 48 % of it, in an empty box."""
    x, y, z = np.meshgrid(*(np.linspace(-1.3, 1.3, 28),) * 3, indexing="ij")
    r = np.sqrt((x - shift) ** 2 + y**2 + z**2) / radius
    fluid, gray, white = SIGNAL[modality]
    image = np.select([r < 0.5, r < 0.8, r < 1], [fluid, gray, white], 0)
    noise = np.random.default_rng(seed).normal(0, 0.03, r.shape)
    return Volume(np.where(r < 1, image + noise, 0).astype(np.float32), np.eye(4), None, ())


def texts(volumes, task=BRAIN):
    return [finding.text for finding in check_images(volumes, task)]


def test_good_images_raise_no_doubt():
    assert texts({m: head(m, seed=i) for i, m in enumerate(BRATS_MRI)}) == []


@pytest.mark.parametrize("other", ["flair", "t1", "t1c"])
def test_a_t2_given_as_another_sequence_is_noticed(other):
    found = texts({other: head("t2"), "t2": head(other, seed=1)})
    assert found == [f"{other} looks like T2 and t2 does not (fluid is bright in {other}); are the two files swapped?"]


def test_heads_that_do_not_lie_on_each_other_are_noticed():
    assert any("overlap by" in text for text in texts({"flair": head("flair"), "t1": head("t1", shift=0.4)}))
    assert texts({"flair": head("flair"), "t1": head("t1", shift=0.02)}) == []


@pytest.fixture(scope="module")
def phantom():
    pytest.importorskip("nilearn")
    case = brain_case(3, 0, 64)
    return {m: Volume(case.images[m], case.affine, None, ()) for m in BRATS_MRI}


@pytest.mark.parametrize(("axis", "sides"), enumerate(("left-right", "front-back", "upside down")))
def test_a_mirrored_sequence_is_noticed_and_named(phantom, axis, sides):
    assert texts(phantom) == []
    for m in ("flair", "t1c", "t2"):
        turned = {**phantom, m: phantom[m]._replace(data=np.flip(phantom[m].data, axis))}
        text = f"{m} fits the others better when mirrored {sides}; is its orientation wrong?"
        assert text in texts(turned)
        assert sum("mirrored" in found for found in texts(turned)) == 1


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("away", [2, 4, 8])
def test_a_sequence_that_lies_to_the_side_is_not_mirrored_but_not_in_its_place(phantom, axis, away):
    moved = texts({**phantom, "t1": phantom["t1"]._replace(data=np.roll(phantom["t1"].data, away, axis))})
    assert not any("mirrored" in text for text in moved)
    assert sum("are they co-registered" in text for text in moved) == 3
    assert all("t1 " in text for text in moved)


def test_of_two_sequences_it_is_not_said_which_is_mirrored(phantom):
    two = {"t1": phantom["t1"], "t2": phantom["t2"]._replace(data=phantom["t2"].data[::-1])}
    (text,) = (text for text in texts(two) if "mirrored" in text)
    assert text == "t1 and t2 fit better when one is mirrored left-right; is the orientation of one of them wrong?"


def test_the_order_of_the_axes_in_the_file_does_not_matter(phantom):
    """Stored as (z, x, y): left-right is the second axis of the file."""
    order = [2, 0, 1]
    affine = phantom["t1"].affine @ np.eye(4)[:, [*order, 3]]
    turned = {m: Volume(v.data.transpose(order), affine, None, ()) for m, v in phantom.items()}
    assert texts(turned) == []
    turned["t1"] = turned["t1"]._replace(data=np.flip(turned["t1"].data, 1))
    assert [text for text in texts(turned) if "mirrored left-right" in text]


def test_a_skull_that_was_not_stripped_is_noticed_in_heads_only():
    full = {"t2": Volume(np.random.default_rng(0).random((28, 28, 28), dtype=np.float32) + 1, np.eye(4), None, ())}
    assert "skull" in texts(full)[0]
    assert texts(full, HEART) == []


def test_real_heads_raise_no_doubt_and_swapped_ones_do(real_data):
    from monai_passion.data.patient import read_patient

    for number in (1, 2, 3):
        prefix = real_data / f"brats2013_whole/brats_2013_pat000{number}_1/brats_2013_pat000{number}_1"
        files = {"flair": f"{prefix}_flair.nii.gz", "t1c": f"{prefix}_t1ce.nii.gz"}
        assert texts(read_patient(files, BRATS_MRI).used) == []
    for prefix, t1c in (("glioma_full/TCGA-DU-7294/TCGA-DU-7294", "t1c"), ("ms_whole/patient19/patient19", "t1ce")):
        names = {"flair": "flair", "t1c": t1c, "t1": "t1", "t2": "t2"}
        files = {m: real_data / f"{prefix}_{name}.nii.gz" for m, name in names.items()}
        volumes = read_patient(files, BRATS_MRI).used
        assert texts(volumes) == []
        for other in ("flair", "t1c", "t1"):
            swapped = {**volumes, other: volumes["t2"], "t2": volumes[other]}
            assert any(text.startswith(f"{other} looks like T2") for text in texts(swapped)), other
