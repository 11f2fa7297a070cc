"""The cache on the disk: never a wrong item, whatever is done to its files."""

import io
import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, NormalizeIntensityd, RandFlipd, ScaleIntensityd, SpatialCropd

from monai_passion.data import cache
from monai_passion.data.cache import CachedOnDisk, _checksum, _describe, cached
from monai_passion.transforms import LoadModalitiesd, is_foreground
from tests.handlers.test_checkpoint import Malicious, flip_bit

MODALITIES = ("flair", "t1")


CALLS = []


class Counted:
    """A transform that counts its calls outside of itself."""

    def __call__(self, item):
        CALLS.append(item["case"])
        return item


@pytest.fixture
def items(tmp_path):
    CALLS.clear()
    rng = np.random.default_rng(0)
    items = []
    for case in ("a", "b"):
        files = {m: str(tmp_path / f"{case}_{m}.nii.gz") for m in MODALITIES}
        for path in files.values():
            nib.save(nib.Nifti1Image(rng.random((5, 6, 7), np.float32), np.diag([1, 2, 3, 1])), path)
        items.append({"case": case, "image": files})
    items[1]["image"]["t1"] = None
    return items


def make(folder, *more):
    return CachedOnDisk(
        [LoadModalitiesd(MODALITIES), Counted(), NormalizeIntensityd("image", nonzero=True), *more], folder
    )


def equal(a, b):
    assert a.keys() == b.keys()
    assert type(a["image"]) is type(b["image"])
    assert a["image"].meta.keys() == b["image"].meta.keys()
    assert torch.equal(a["image"].affine, b["image"].affine)
    assert (a["image"].pixdim == b["image"].pixdim).all()
    return all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in ("image", "available"))


def test_an_item_is_computed_once_and_comes_back_bit_for_bit_in_another_object_too(items, tmp_path):
    for item in items:
        first = make(tmp_path / "cache")(item)
        assert equal(first, make(tmp_path / "cache")(item))
        assert first["case"] == item["case"]
    assert CALLS == ["a", "b"]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "swap", "pickle"])
def test_a_damaged_or_swapped_item_is_computed_again_with_one_warning(items, tmp_path, caplog, harm):
    transform = make(tmp_path / "cache")
    expected = [transform(item) for item in items]
    one, other = (tmp_path / "cache").glob("*.pt")
    if harm == "flip":
        flip_bit(one)
    elif harm in ("cut", "empty"):
        one.write_bytes(one.read_bytes()[: 100 if harm == "cut" else 0])
    elif harm == "swap":
        one.write_bytes(other.read_bytes())
    else:
        torch.save({"image": Malicious(tmp_path / "harm")}, one)
    with caplog.at_level(logging.WARNING):
        assert all(equal(transform(item), result) for item, result in zip(items, expected, strict=True))
        assert all(equal(transform(item), result) for item, result in zip(items, expected, strict=True))
    assert len(caplog.records) == 1
    assert "computed again" in caplog.text
    assert not (tmp_path / "harm").exists()


def test_a_pickle_under_the_right_checksum_is_not_run(items, tmp_path, caplog):
    transform = make(tmp_path / "cache")
    expected = transform(items[0])
    (path,) = (tmp_path / "cache").glob("*.pt")
    torch.save({"image": Malicious(tmp_path / "harm")}, path)
    path.write_bytes(_checksum(path.stem, data := path.read_bytes()) + data)
    assert equal(transform(items[0]), expected)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("change", ["argument", "transform", "order", "file", "version", "function"])
def test_whatever_changes_the_result_is_another_item(items, tmp_path, monkeypatch, change):
    make(tmp_path / "cache")(items[0])
    other = [LoadModalitiesd(MODALITIES), Counted(), NormalizeIntensityd("image", nonzero=True)]
    if change == "argument":
        other[2] = NormalizeIntensityd("image", nonzero=False)
    elif change == "transform":
        other.append(ScaleIntensityd("image"))
    elif change == "order":
        other[1:] = other[:0:-1]
    elif change == "function":
        other.append(lambda item: item)
    elif change == "version":
        monkeypatch.setattr("monai_passion.data.cache.VERSIONS", ["another"])
    else:
        image = nib.Nifti1Image(np.random.default_rng(1).random((5, 6, 7), np.float32), np.diag([1, 2, 3, 1]))
        nib.save(image, items[0]["image"]["t1"])
    result = CachedOnDisk(other, tmp_path / "cache")(items[0])
    assert CALLS == ["a", "a"]
    assert torch.equal(torch.as_tensor(result["image"]), torch.as_tensor(Compose(other)(items[0])["image"]))


def test_the_key_holds_no_address_or_order_of_a_process_and_does_not_change_with_use(items, tmp_path):
    used = make(tmp_path / "cache")
    used(items[0])
    assert used.hash == make(tmp_path / "cache").hash == CachedOnDisk(used.compute.transforms, tmp_path).hash
    assert " at 0x" not in json.dumps(_describe([*used.compute.transforms, is_foreground]))
    assert _describe({"b", "a"}) == _describe({"a", "b"}) == ['"a"', '"b"']


def lambdas(text):
    """As an expression in a configuration makes them."""
    return eval(text, {"__builtins__": {}, "np": np})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lambda x: np.sin(x)", "lambda x: np.cos(x)"),
        ("lambda x, a=1: x", "lambda x, a=2: x"),
        ("lambda x, *, a=1: x", "lambda x, *, a=2: x"),
        ("(lambda n: lambda x: x + n)(1)", "(lambda n: lambda x: x + n)(2)"),
        ("lambda x: (lambda y: np.sin(y))(x)", "lambda x: (lambda y: np.cos(y))(x)"),
        ("lambda x: x in ('a', 'b')", "lambda x: x in ('a', 'c')"),
        ("lambda x: x in {'a', 'b'}", "lambda x: x in {'a', 'c'}"),
    ],
)
def test_expressions_are_told_apart_by_all_that_they_compute_with(one, other):
    assert _describe(lambdas(one)) == _describe(lambdas(one)) != _describe(lambdas(other))


def test_methods_are_told_apart_by_their_object_which_may_hold_them():
    keys = []
    for number in (1, 1, 2):
        thing = Counted()
        thing.number, thing.call = number, thing.__call__
        keys.append(json.dumps(_describe(thing.call)))
    assert keys[0] == keys[1] != keys[2]


def test_a_full_disk_costs_the_cache_and_not_the_result(items, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert make(tmp_path / "cache")(items[0])["image"].shape == (2, 5, 6, 7)
    assert "goes on without" in caplog.text


def test_none_is_no_cache_and_random_transforms_stay_outside_of_it(items, tmp_path):
    transforms = [LoadModalitiesd(MODALITIES), Counted()]
    assert cached(transforms, None) == transforms
    data = CacheDataset(items, Compose([*cached(transforms, tmp_path / "cache"), RandFlipd("image", prob=1)]))
    flipped, whole = data[0]["image"], CachedOnDisk(transforms, tmp_path / "cache")(items[0])["image"]
    assert torch.equal(torch.as_tensor(flipped), torch.as_tensor(whole).flip(1, 2, 3))
    assert CALLS == ["a", "b"]


def test_what_was_cropped_is_kept_without_what_was_cropped_away(items, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda: 10**9)
    crop = SpatialCropd("image", roi_slices=[slice(1, 3)] * 3)
    load = LoadModalitiesd(MODALITIES)
    for item in (cache.CachedInMemory(items, Compose([load, crop]))[0], CachedOnDisk([load, crop], tmp_path)(items[0])):
        assert item["image"].untyped_storage().nbytes() == item["image"].nbytes == 2 * 2**3 * 4
        assert isinstance(item["image"], MetaTensor)
    (file,) = tmp_path.glob("*.pt")
    assert (
        torch.load(io.BytesIO(file.read_bytes()[32:]))["dict"]["image"]["MetaTensor"]["data"].untyped_storage().nbytes()
        == 64
    )


@pytest.mark.parametrize(("free", "kept"), [(None, 4), (10**9, 4), (2 * 2 * 4000, 2), (1, 1)])
def test_items_are_kept_in_half_of_the_free_memory_and_what_is_not_is_still_there(
    free, kept, monkeypatch, caplog, capsys
):
    monkeypatch.setattr(cache, "free_memory", lambda: free)
    items = [{"image": np.full(1000, k, np.float32)} for k in range(4)]
    with caplog.at_level(logging.WARNING):
        data = cache.CachedInMemory(items, Compose([]))
    assert data.cache_num == kept
    assert [float(item["image"][0]) for item in data] == [0, 1, 2, 3]
    assert bool(caplog.records) == (kept < 4)
    assert f"cached {kept} of 4 items" in capsys.readouterr().err
