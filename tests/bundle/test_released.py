import pytest

from monai_passion.bundle.weights import PHANTOM, shipped_weights
from monai_passion.networks.weights import load_weights


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("brats_mri_segmentation_rfnet_passion", 10e6),
        ("brats_mri_segmentation_mmformer_passion", 25e6),
        (PHANTOM, 10e6),
    ],
)
def test_shipped_weights_are_small_have_a_card_and_say_how_to_use_them(name, largest):
    path = shipped_weights(name)
    _, facts = load_weights(path)  # checks the checksum
    assert path.stat().st_size < largest
    assert len(facts["settings"]["spacing"]) == len(facts["settings"]["roi_size"]) == 3
    assert "Research use only" in path.with_name("README.md").read_text()
    assert path.with_name("summary.json").is_file()


def test_all_shipped_weights_are_at_most_40_mb():
    files = shipped_weights(PHANTOM).parents[1].glob("*/model.safetensors")
    assert 5e6 < sum(path.stat().st_size for path in files) < 40e6
