import pytest
import torch
from monai.inferers import SimpleInferer, SliceInferer, SlidingWindowInferer

from monai_passion.inferers import IncompleteModalityInferer, count_windows, find_available, sliding_window
from monai_passion.modalities import all_masks
from monai_passion.networks import RFNet

ALL = torch.ones(1, 3).bool()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return RFNet(3, 2, width=2, levels=2).eval()


@pytest.fixture
def image():
    return torch.randn(1, 3, 12, 8, 8)


def windows(**kwargs):
    return IncompleteModalityInferer(SlidingWindowInferer((4, 8, 8), overlap=0.5), **kwargs)


def test_probabilities_of_one_window_are_the_softmax_of_the_network(network, image):
    expected = network(image, ALL).softmax(dim=1)
    torch.testing.assert_close(IncompleteModalityInferer(SimpleInferer())(image, network, available=ALL), expected)


def test_what_an_absent_channel_holds_changes_no_bit(network, image):
    available = torch.tensor([[1, 0, 1]]).bool()
    expected = windows()(image, network, available=available)
    for filler in (0.0, 5.0, 1e30):
        spoiled = image.clone()
        spoiled[:, 1] = filler
        assert torch.equal(windows()(spoiled, network, available=available), expected)


def test_without_a_mask_a_constant_channel_counts_as_absent(network, image):
    image[:, 1] = 7.0
    expected = windows()(image, network, available=torch.tensor([[1, 0, 1]]).bool())
    assert torch.equal(windows()(image, network), expected)


def test_a_channel_that_is_constant_in_one_window_only_is_not_absent(network, image):
    image[:, 1, :4] = 0.0
    assert find_available(image[0]).tolist() == [True, True, True]
    assert torch.equal(windows()(image, network), windows()(image, network, available=ALL))


def test_each_sample_has_its_own_mask(network):
    images = torch.randn(2, 3, 8, 8, 8)
    available = torch.tensor([[1, 0, 0], [0, 1, 1]]).bool()
    together = windows()(images, network, available=available)
    for b in range(2):
        assert torch.equal(together[b], windows()(images[b : b + 1], network, available=available[b : b + 1])[0])


def test_all_combinations_equal_one_run_each(network, image):
    masks = all_masks("abc")
    together = windows(combinations=masks)(image, network, available=ALL)
    assert together.shape == (1, 7 * 2, 12, 8, 8)
    for k, mask in enumerate(masks):
        alone = windows()(image, network, available=torch.tensor([mask]))
        torch.testing.assert_close(together[:, 2 * k : 2 * k + 2], alone, rtol=1e-4, atol=1e-5)


def test_combinations_that_the_patient_lacks_are_nan(network, image):
    result = windows(combinations=[(True, False, False), (False, True, False)])(
        image, network, available=torch.tensor([[1, 0, 1]]).bool()
    )
    assert result[:, :2].isfinite().all()
    assert result[:, 2:].isnan().all()


def test_windows_outside_the_head_are_background_and_not_computed(network, image):
    image[:, :, 8:] = 0.0
    calls = []
    hook = network.encoders[0].register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    skipped = windows()(image, network, available=ALL)
    computed = sum(calls)
    calls.clear()
    full = windows(skip_empty=False)(image, network, available=ALL)
    hook.remove()
    assert computed < sum(calls)
    assert torch.equal(skipped[:, :, :6], full[:, :, :6])
    assert (skipped[:, 0, 10:] == 1).all()


def test_a_slice_inferer_gets_the_mask_too(image):
    torch.manual_seed(1)
    flat = RFNet(3, 2, spatial_dims=2, width=2, levels=2).eval()
    available = torch.tensor([[0, 1, 1]]).bool()
    volume = IncompleteModalityInferer(SliceInferer(spatial_dim=2, roi_size=(12, 8)))(image, flat, available=available)
    alone = flat(image[..., 3], available).softmax(dim=1)
    torch.testing.assert_close(volume[..., 3], alone, rtol=1e-4, atol=1e-5)


def test_no_modality_at_all_is_refused(network):
    with pytest.raises(ValueError, match="no modality"):
        windows()(torch.zeros(1, 3, 8, 8, 8), network)


@pytest.mark.parametrize(
    ("shape", "roi_size", "overlap"),
    [
        ((20, 9, 33), (8, 16, 8), 0.5),
        ((8, 8, 8), (8, 8, 8), 0.5),
        ((20, 30, 5), (8, 8), 0.25),
        ((7, 17, 40), (4, 4, 4), 0.9),
    ],
)
def test_windows_are_counted_as_monai_makes_them(shape, roi_size, overlap):
    counted = []
    inferer = sliding_window(roi_size, overlap, batch_size=3)
    inferer.on_windows = counted.append
    inferer.skip_empty = False
    inferer(torch.rand(1, 2, *shape), lambda windows, has: windows[:, :1], available=torch.ones(1, 2).bool())
    assert sum(counted) == count_windows(shape, roi_size, overlap)
