import pytest

from monai_passion.bundle.facts import DEFAULT_BUNDLE, find_bundle
from monai_passion.errors import UsageError


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("rfnet", DEFAULT_BUNDLE),
        ("mmformer", "brats_mri_segmentation_mmformer_passion"),
        ("myops_rfnet", "myops_cmr_segmentation_rfnet_passion"),
        ("RFNet", DEFAULT_BUNDLE),
    ],
)
def test_a_bundle_goes_by_a_part_of_its_name(short, full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_bundle(short).name == full


@pytest.mark.parametrize("name", ["passion", "rfnets", "cmr"])
def test_a_name_that_means_none_or_several_is_refused_with_those_there_are(name):
    with pytest.raises(UsageError, match=DEFAULT_BUNDLE):
        find_bundle(name)
