from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_passion.errors import InputError
from monai_passion.transforms import (
    DropModalities,
    EnsureAvailabled,
    RandDropModalities,
    RandDropModalitiesd,
    RandMaskModalitiesd,
)

ALL = torch.tensor([True, True, True, True])


@pytest.fixture
def image():
    return MetaTensor(torch.rand(4, 3, 3, 2) + 1, affine=np.diag([1, 2, 3, 1]))


def test_only_what_is_kept_and_available_is_left(image):
    left, available = DropModalities([True, False, True, False])(image, torch.tensor([False, True, True, True]))
    assert available.tolist() == [False, False, True, False]
    assert torch.equal(left[2], image[2])
    assert not left[[0, 1, 3]].any()
    assert torch.equal(left.affine, image.affine)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
def test_a_dropped_channel_is_plus_zero_whatever_was_in_it(image, value):
    image[1] = value
    left, _ = DropModalities([True, False, True, True])(image, ALL)
    assert left[1].as_tensor().numpy().tobytes() == np.zeros((3, 3, 2), np.float32).tobytes()


def test_the_input_is_left_as_it_was(image):
    before = image.clone()
    DropModalities([True, False, False, False])(image, ALL)
    assert torch.equal(image, before)
    assert ALL.all()


@pytest.mark.parametrize("kept", [[True, True], [False, False, False, True]])
def test_a_wrong_length_or_nothing_left_is_refused(image, kept):
    with pytest.raises(ValueError, match="kept"):
        DropModalities(kept)(image, torch.tensor([True, True, True, False]))


def test_each_nonempty_subset_of_what_is_available_is_equally_likely(image):
    drop = RandDropModalities().set_random_state(0)
    available = torch.tensor([True, False, True, True])
    found = Counter()
    for _ in range(3500):
        drop.randomize(available)
        found[drop.kept] += 1
    assert len(found) == 7
    assert all(not kept[1] and any(kept) for kept in found)
    assert all(abs(count - 500) < 5 * 500**0.5 for count in found.values())


def test_the_recorded_argument_does_the_same_again(image):
    drop = RandDropModalities().set_random_state(5)
    for _ in range(10):
        dropped, available = drop(image, ALL)
        again, available_again = DropModalities(drop.kept)(image, ALL)
        assert torch.equal(dropped, again)
        assert torch.equal(available, available_again)


def test_without_the_chance_nothing_is_dropped(image):
    dropped, available = RandDropModalities(prob=0.0)(image, ALL)
    assert torch.equal(dropped, image)
    assert available.all()


def test_the_dictionary_version_follows_the_seed_of_its_compose(image):
    def run(seed):
        transform = Compose([RandDropModalitiesd(["image", "other"])]).set_random_state(seed)
        items = [transform({"image": image, "other": image * 2, "available": ALL}) for _ in range(8)]
        for item in items:
            assert torch.equal(item["other"], item["image"] * 2)
            assert item["image"].flatten(1).any(dim=1).tolist() == item["available"].tolist()
        return [item["available"].tolist() for item in items]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert len(set(map(tuple, run(1)))) > 2


def test_the_dictionary_version_records_its_argument(image):
    drop = RandDropModalitiesd("image").set_random_state(1)
    item = {"image": image, "available": ALL}
    dropped, (again, available) = drop(item), DropModalities(drop.kept)(image, ALL)
    assert torch.equal(dropped["image"], again)
    assert torch.equal(dropped["available"], available)


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.as_tensor(), lambda x: x.numpy()])
def test_constant_channels_are_absent_where_nobody_says(image, convert):
    image[0] = 0
    image[2] = -3.5
    item = EnsureAvailabled()({"image": convert(image), "image_meta_dict": "a path", "label": None})
    assert item["available"].tolist() == [False, True, False, True]
    assert not item["image"][[0, 2]].any()
    assert torch.equal(torch.as_tensor(item["image"][1]), image[1].as_tensor())


def test_one_voxel_makes_a_channel_available(image):
    image[0] = 0
    image[0, 1, 1, 1] = 1
    assert EnsureAvailabled()({"image": image})["available"].tolist() == [True] * 4


@pytest.mark.parametrize("convert", [torch.tensor, np.array, list])
def test_what_the_item_says_is_believed_and_its_absent_channels_are_zeroed(image, convert):
    image[3] = 0
    item = EnsureAvailabled()({"image": image, "available": convert([True, False, True, True])})
    assert item["available"].dtype == torch.bool
    assert item["available"].tolist() == [True, False, True, True]
    assert not item["image"][1].any()


@pytest.mark.parametrize(
    ("available", "match"),
    [([True, True], "2 flags"), ([False] * 4, "no modality"), (None, "every channel is constant")],
)
def test_nothing_available_or_a_wrong_number_of_flags_is_an_error(image, available, match):
    image = image if available else torch.ones_like(image)
    with pytest.raises(InputError, match=match):
        EnsureAvailabled()({"image": image, **({} if available is None else {"available": available})})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_voxels_that_are_no_numbers_are_an_error_but_in_what_is_absent(image, value):
    image[1, 0, 0, 0] = value
    item = EnsureAvailabled()({"image": image.clone(), "available": [True, False, True, True]})
    assert item["image"].isfinite().all()
    with pytest.raises(InputError, match="not numbers"):
        EnsureAvailabled()({"image": image})


def test_the_items_meta_may_be_anything(image):
    image.meta["filename_or_obj"] = "somewhere"
    item = EnsureAvailabled()({"image": image})
    assert item["image"].meta["filename_or_obj"] == "somewhere"


def test_masks_are_uniform_over_what_is_available_and_touch_nothing_else():
    item = {"image": torch.ones(4, 2, 2), "available": torch.tensor([True, False, True, True])}
    transform = RandMaskModalitiesd().set_random_state(0)
    drawn = [transform(item) for _ in range(7 * 300)]
    counts = Counter(tuple(result["mask"].tolist()) for result in drawn)
    assert len(counts) == 7
    assert all(not mask[1] and any(mask) for mask in counts)
    assert all(240 < n < 360 for n in counts.values())
    assert all(result["image"] is item["image"] and result["available"] is item["available"] for result in drawn)


def test_masks_are_drawn_again_from_the_same_state():
    item = {"available": torch.ones(4).bool()}
    first, second = (
        [RandMaskModalitiesd().set_random_state(seed)(item)["mask"].tolist() for seed in range(20)] for _ in range(2)
    )
    assert first == second
