import pytest

from monai_passion.errors import UsageError
from monai_passion.modalities import (
    combination_mask,
    combination_name,
    combinations,
    parse_combination,
    resolve,
)
from tests.helpers.tasks import BRATS_MRI, MYOPS_CMR


@pytest.mark.parametrize(("modalities", "count"), [(BRATS_MRI, 15), (MYOPS_CMR, 7), (("a", "b"), 3)])
def test_every_nonempty_subset_once(modalities, count):
    found = combinations(modalities)
    assert len(found) == len(set(found)) == count
    assert all(found)


def test_names_and_masks_are_inverse():
    for combination in combinations(BRATS_MRI):
        mask = combination_mask(combination, BRATS_MRI)
        assert parse_combination(combination_name(mask, BRATS_MRI), BRATS_MRI) == combination


@pytest.mark.parametrize(
    ("alias", "name"), [("T1ce", "t1c"), ("t1gd", "t1c"), ("T1N", "t1"), ("t2w", "t2"), ("T2f", "flair")]
)
def test_aliases(alias, name):
    assert resolve(alias, BRATS_MRI) == name


def test_cardiac_aliases():
    assert [resolve(n, MYOPS_CMR) for n in ("C0", "DE", "T2")] == list(MYOPS_CMR)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"'flare'.*did you mean 'flair'"):
        resolve("flare", BRATS_MRI)


@pytest.mark.parametrize("text", ["", "t1+t1", "t1+t1n", "+"])
def test_not_a_combination(text):
    with pytest.raises(UsageError):
        parse_combination(text, BRATS_MRI)
