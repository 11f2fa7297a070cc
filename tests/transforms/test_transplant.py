import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_passion.data.donors import donor_from_patient
from monai_passion.transforms import (
    EnsureLabeld,
    Placement,
    RandTransplantTumord,
    TransplantTumor,
    TransplantTumord,
    make_healthy,
)

SHAPE = (40, 44, 36)
TUMOR = (26, 24, 18)
LATERAL = (30, 24, 18)


def distance(center):
    axes = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)))


def head(name, center=None, spacing=2.0, seed=0):
    """An ellipsoid brain, z-scored, with a tumor of three shells around ``center``."""
    rng = np.random.default_rng(seed)
    brain = (
        sum(
            ((a - (n - 1) / 2) / (n / 2 - 2)) ** 2
            for a, n in zip(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), SHAPE, strict=True)
        )
        < 1
    )
    image = np.where(brain, rng.normal(0, 0.3, (4, *SHAPE)), 0).astype(np.float32)
    label = np.zeros(SHAPE, np.float32)
    if center is not None:
        r = distance(center)
        for k, (radius, value) in enumerate([(8, 2), (5, 3), (3, 1)]):
            label[(r < radius) & brain] = value
            image[k, (r < radius) & brain] = 3 + k
    affine = np.diag([spacing] * 3 + [1.0])
    return {
        "patient": name,
        "image": MetaTensor(torch.from_numpy(image), affine=affine),
        "label": MetaTensor(torch.from_numpy(label[None]), affine=affine),
        "available": torch.ones(4, dtype=torch.bool),
    }


@pytest.fixture
def donor():
    return donor_from_patient(head("donor", TUMOR))


@pytest.fixture
def host():
    return head("host", seed=1)


def center(label):
    return np.argwhere(np.asarray(label)[0] > 0).mean(axis=0)


def dice(a, b):
    a, b = np.asarray(a) > 0, np.asarray(b) > 0
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_tumor_at_its_true_place_is_the_donors(donor, host):
    image, label = TransplantTumor(donor)(host["image"], host["label"])
    patient = head("donor", TUMOR)
    assert dice(label, patient["label"]) > 0.98
    for value in (1, 2, 3):
        mine = np.asarray(label)[0] == value
        assert dice(mine, np.asarray(patient["label"])[0] == value) > 0.9
    inside = np.asarray(label)[0] > 0
    assert np.abs(np.asarray(image - patient["image"])[:, inside]).mean() < 0.15


def test_far_from_the_tumor_the_host_is_untouched_and_so_is_what_was_given(donor, host):
    before = host["image"].clone(), host["label"].clone()
    image, _ = TransplantTumor(donor)(host["image"], host["label"])
    far = distance(TUMOR) > 18
    assert torch.equal(image[:, torch.from_numpy(far)], before[0][:, torch.from_numpy(far)])
    assert torch.equal(host["image"], before[0])
    assert torch.equal(host["label"], before[1])


def test_a_head_takes_tumors_only_of_donors_who_have_all_its_modalities(host):
    def without(name, absent):
        patient = head(name, TUMOR)
        patient["image"][absent] = 0
        patient["available"][absent] = False
        return donor_from_patient(patient)

    donors = [without("no t1c", [1]), without("no t2", [3]), without("flair alone", [1, 2, 3])]
    transplant = RandTransplantTumord(["image", "label"], donors, prob=1.0, healthy_prob=0.0).set_random_state(0)
    host["image"][1] = 0
    drawn = [transplant(dict(host)) and transplant.donor.patient for _ in range(5)]
    assert set(drawn) == {"no t1c"}
    host["image"][[2, 3]] = 0
    drawn = [transplant(dict(host)) and transplant.donor.patient for _ in range(30)]
    assert set(drawn) == {"no t1c", "no t2", "flair alone"}
    whole = transplant(head("complete", seed=2))
    assert transplant.donor is None
    assert not whole["label"].any()


def test_nothing_is_put_outside_the_brain_or_into_an_absent_modality(donor, host):
    host["image"][2] = 0
    outside = ~(host["image"] != 0).any(dim=0)
    image, label = TransplantTumor(donor, Placement(shift=(12.0, 0.0, 0.0)))(host["image"], host["label"])
    assert not image[2].any()
    assert not image[:, outside].any()
    assert not label[0][outside].any()
    assert label.any()


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (Placement(shift=(6.0, -4.0, 2.0)), (29, 22, 19)),
        (Placement(mirror=True), (39 - 26, 24, 18)),
        (Placement(scale=0.5), (26, 24, 18)),
    ],
)
def test_the_placement_decides_where_and_how_large(donor, host, placement, expected):
    _, label = TransplantTumor(donor, placement)(host["image"], host["label"])
    assert np.abs(center(label) - expected).max() < 0.6
    volume = int((head("donor", TUMOR)["label"] > 0).sum())
    assert int((label > 0).sum()) == pytest.approx(volume * placement.scale**3, rel=0.15)


def test_the_place_and_size_in_mm_do_not_depend_on_the_spacing(donor):
    """A host of voxels half as large holds the same tumor, of eight times as many voxels."""
    coarse = head("host", seed=1)
    fine = {
        key: MetaTensor(
            coarse[key].as_tensor().repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3),
            affine=np.diag([1.0, 1.0, 1.0, 1.0]),
        )
        for key in ("image", "label")
    }
    _, small = TransplantTumor(donor)(coarse["image"], coarse["label"])
    _, large = TransplantTumor(donor)(fine["image"], fine["label"])
    assert int((large > 0).sum()) / int((small > 0).sum()) == pytest.approx(8, rel=0.1)
    assert np.abs((center(large) + 0.5) / 2 - (center(small) + 0.5)).max() < 0.3


def test_what_the_donor_does_not_know_is_drawn_from_its_statistics(donor, host):
    known = donor.known.copy()
    known[known.shape[0] // 2 :] = 0
    half = donor._replace(image=donor.image * (known > 0), known=known)
    image, label = TransplantTumor(half, Placement(seed=3))(host["image"], host["label"])
    edema = torch.from_numpy((np.asarray(label)[0] == 2) & (np.arange(SHAPE[0])[:, None, None] > TUMOR[0] + 3))
    values = image[0][edema].as_tensor()
    assert float(values.mean()) == pytest.approx(donor.statistics[0, 1, 0], abs=1.0)
    assert torch.isfinite(image).all()


def test_a_tumor_that_would_lie_outside_the_brain_is_not_placed(donor, host):
    assert TransplantTumor(donor, Placement(shift=(200.0, 0.0, 0.0)))(host["image"], host["label"]) is None


def test_the_difference_of_the_surroundings_is_matched(donor, host):
    brain = host["image"] != 0
    brighter = torch.where(brain, host["image"] + 0.8, 0)
    plain, label = TransplantTumor(donor)(host["image"], host["label"])
    matched, _ = TransplantTumor(donor)(brighter, host["label"])
    inside = label[0] == 1
    assert float((matched - plain)[3][inside].mean()) == pytest.approx(0.8, abs=0.15)


def test_a_healthy_head_has_no_tumor_and_is_the_same_elsewhere():
    patient = head("patient", LATERAL)
    image, label = make_healthy(patient["image"], patient["label"])
    tumor = patient["label"][0] > 0
    assert not label.any()
    assert float(image[0][tumor].mean()) < 0.3 < float(patient["image"][0][tumor].mean())
    far = torch.from_numpy(distance(LATERAL) > 24)
    assert torch.allclose(image[:, far], patient["image"][:, far], atol=1e-3)


def test_a_tumor_across_the_middle_cannot_be_made_healthy():
    patient = head("patient", ((SHAPE[0] - 1) / 2, 24, 18))
    assert make_healthy(patient["image"], patient["label"]) is None


def test_the_seed_decides_and_what_was_done_can_be_done_again(donor):
    transform = RandTransplantTumord(["image", "label"], [donor], prob=0.8)

    def run(seed):
        return Compose([transform]).set_random_state(seed)(head("host", (9, 20, 18), seed=1))

    first, second = run(5), run(5)
    assert torch.equal(first["image"], second["image"])
    done = set()
    for seed in range(8):
        result, again = run(seed), head("host", (9, 20, 18), seed=1)
        if transform.healthy:
            again["image"], again["label"] = make_healthy(again["image"], again["label"])
        if transform.donor is not None:
            again = TransplantTumord(["image", "label"], transform.donor, transform.placement)(again)
        done.add((transform.healthy, transform.donor is not None))
        assert torch.equal(result["image"], again["image"])
        assert torch.equal(result["label"], again["label"])
    assert len(done) > 2


def test_nobody_is_a_donor_for_oneself(donor):
    transform = RandTransplantTumord(["image", "label"], [donor], prob=1.0, healthy_prob=0.0)
    patient = head("donor", TUMOR)
    assert torch.equal(transform(patient)["image"], patient["image"])
    assert transform.donor is None


def test_an_item_without_label_gets_one_of_zeros_and_a_label_stays():
    item = head("patient", TUMOR)
    assert torch.equal(EnsureLabeld()(item)["label"], item["label"])
    for empty in ({"label": None}, {}):
        healthy = EnsureLabeld()({"image": item["image"], **empty})
        assert healthy["label"].shape == item["label"].shape
        assert not healthy["label"].any()
        assert torch.equal(healthy["label"].affine, item["image"].affine)


def test_donors_without_a_class_can_be_drawn_more_often(donor):
    without = donor._replace(patient="without", label=np.where(donor.label == 3, 1, donor.label).astype(np.uint8))
    donors = [donor] * 9 + [without]

    def drawn(share):
        transform = RandTransplantTumord(["image", "label"], donors, prob=1.0, lacking=3, lacking_share=share)
        transform.set_random_state(4)
        transform.randomize(("host", np.ones(4, bool)))
        names = []
        for _ in range(100):
            transform.randomize(("host", np.ones(4, bool)))
            names += [chosen.patient for chosen, _ in transform._choices]
        return names.count("without") / len(names)

    assert drawn(0.0) == pytest.approx(0.1, abs=0.05)
    assert drawn(0.5) == pytest.approx(0.55, abs=0.08)
    everybody = RandTransplantTumord(["image", "label"], [donor], prob=1.0, lacking=3, lacking_share=1.0)
    everybody.randomize(("host", np.ones(4, bool)))
    assert {chosen.patient for chosen, _ in everybody._choices} == {"donor"}
