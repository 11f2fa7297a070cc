import pytest

from monai_passion.bundle.weights import PHANTOM, shipped_weights
from monai_passion.networks.weights import load_weights


@pytest.mark.parametrize("name", ["brats_mri_segmentation_rfnet_passion", PHANTOM])
def test_shipped_weights_are_small_have_a_card_and_say_how_to_use_them(name):
    path = shipped_weights(name)
    _, facts = load_weights(path)  # checks the checksum
    assert path.stat().st_size < 10e6
    assert len(facts["settings"]["spacing"]) == len(facts["settings"]["roi_size"]) == 3
    assert "Research use only" in path.with_name("README.md").read_text()
    assert path.with_name("summary.json").is_file()
