import math

import pytest
import torch
from monai.inferers import SimpleInferer, SliceInferer, SlidingWindowInferer

from monai_passion.inferers import (
    MAPS_OF_DECODER,
    MAPS_PER_MODALITY,
    IncompleteModalityInferer,
    count_windows,
    find_available,
    largest_window,
    sliding_window,
)
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


def test_they_are_nan_in_empty_windows_too(network, image):
    image[:, :, :8] = 0.0  # as slices above the heart
    masks = [(True, False, False), (True, True, False)]
    result = windows(combinations=masks)(image, network, available=torch.tensor([[1, 0, 1]]).bool())
    assert (result[:, 0, 0] == 1).all()
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
    shares = []
    inferer = sliding_window(roi_size, overlap)
    inferer.skip_empty = False
    image, available = torch.rand(1, 2, *shape), torch.ones(1, 2).bool()
    inferer(image, lambda windows, has: windows[:, :1], available=available, progress=shares.append)
    count = count_windows(shape, roi_size, overlap)
    assert shares == pytest.approx([(n + 1) / count for n in range(count)])


def test_a_call_takes_precedence_over_the_combinations_and_windows_of_the_inferer(network, image):
    masks, seen = all_masks("abc"), []
    hook = network.encoders[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    given = windows()(image, network, available=ALL, combinations=masks, roi_size=(8, 8, 8), batch_size=2)
    hook.remove()
    expected = IncompleteModalityInferer(SlidingWindowInferer((8, 8, 8), 2, overlap=0.5), masks)
    torch.testing.assert_close(given, expected(image, network, available=ALL))
    assert set(seen) == {(2, 1, 8, 8, 8)}


def test_a_window_as_large_as_memory_allows_sees_the_whole_image_padded_to_the_stride(network):
    image = torch.randn(1, 3, 13, 8, 7)
    result = sliding_window([-1, -1, -1], 0.25)(image, network, available=ALL)
    padded = torch.nn.functional.pad(image, (0, 1, 0, 0, 0, 1))
    expected = network(padded, ALL).softmax(dim=1)[..., :13, :, :7]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(240, 240, 155), (61, 500, 33), (9, 9, 9), (2000, 3)])
@pytest.mark.parametrize("memory", [4e9, 3e8, 1e6])
def test_the_largest_window_fits_the_memory_or_is_the_smallest_there_is(shape, memory):
    network = RFNet(4, 4, spatial_dims=len(shape), width=4, levels=3)
    window = largest_window(shape, network, 0.25, memory=memory)
    assert all(size % 4 == 0 and size >= 8 for size in window)
    assert all(size < edge + 8 for size, edge in zip(window, shape, strict=True))
    values = 4 * (4 * MAPS_PER_MODALITY + MAPS_OF_DECODER) + 3 * 4
    assert 4 * values * math.prod(window) <= memory or set(window) == {8}
    unlimited = largest_window(shape, network, 0.25, memory=float("inf"))
    assert count_windows(shape, unlimited, 0.25) == 1


def test_sizes_that_are_given_are_kept_beside_those_that_memory_decides(network):
    assert largest_window((40, 40, 40), network, 0.25, memory=1e6, roi_size=(-1, 16, 16))[1:] == (16, 16)


def test_several_windows_as_large_as_memory_allows_meet_smoothly(network, image, monkeypatch):
    monkeypatch.setattr("monai_passion.inferers.MEMORY", 1.0)
    small = sliding_window([-1, -1, -1], 0.25)(image, network, available=ALL)
    expected = IncompleteModalityInferer(SlidingWindowInferer((4, 4, 4), overlap=0.25, mode="gaussian"))
    torch.testing.assert_close(small, expected(image, network, available=ALL))


def test_the_result_can_lie_on_another_device_than_the_windows(network, image):
    result = sliding_window([8, 8, 8], 0.5, device="cpu", sw_device="cpu")(image, network, available=ALL)
    torch.testing.assert_close(result, sliding_window([8, 8, 8], 0.5)(image, network, available=ALL))


@pytest.mark.parametrize("combinations", [None, all_masks("abc")])
def test_half_precision_is_close_and_gives_single_precision(network, image, combinations):
    single, half = (
        sliding_window([8, 8, 8], 0.5, combinations=combinations, precision=p)(image, network, available=ALL)
        for p in ("fp32", "bf16")
    )
    assert half.dtype == torch.float32
    assert not torch.equal(half, single)
    assert (half - single).abs().mean() < 0.01


@pytest.mark.parametrize("axes", [(0,), (0, 2)])
def test_mirrored_views_are_averaged_so_that_a_mirrored_image_gives_the_mirrored_result(network, image, axes):
    shares = []
    inferer = windows(mirror_axes=axes)
    result = inferer(image, network, available=ALL, progress=shares.append)
    flips = [2 + axis for axis in axes]
    assert not torch.allclose(windows()(image, network).flip(flips), windows()(image.flip(flips), network))
    torch.testing.assert_close(inferer(image.flip(flips), network).flip(flips), result)
    one_by_one = [windows()(image.flip(view), network).flip(view) for view in ([], [2], [4], [2, 4])]
    used = one_by_one if len(axes) == 2 else one_by_one[:2]
    torch.testing.assert_close(result, torch.stack(used).mean(dim=0))
    assert shares[-1] == 1
    assert shares == sorted(shares)


@pytest.mark.parametrize(("roi_size", "seen"), [((16, 16), {(16, 16)}), ((-1, -1), {(32, 40)})])
def test_windows_of_slices_are_those_that_a_call_asks_for(roi_size, seen, monkeypatch):
    network = RFNet(num_modalities=2, num_classes=3, spatial_dims=2, width=2, levels=3).eval()
    sizes, run = set(), network.encode
    monkeypatch.setattr(network, "encode", lambda image, available: sizes.add(image.shape[2:]) or run(image, available))
    inferer = sliding_window((24, 24), overlap=0.0)
    inferer(torch.randn(1, 2, 30, 38, 2), network, available=torch.ones(1, 2), roi_size=roi_size)
    assert sizes == seen


def test_where_a_combination_shows_nothing_it_is_background_as_it_is_alone(network):
    image = torch.randn(1, 3, 16, 16, 32)
    image[:, 1, :, :, 16:] = 0
    masks = [(False, True, False), (True, True, False)]
    inferer = sliding_window((16, 16, 16), overlap=0.0)
    available = torch.tensor([[True, True, False]])
    together = inferer(image, network, available=available, combinations=masks)
    alone = image.clone()
    alone[:, 0] = 0
    one = inferer(alone, network, available=torch.tensor([[False, True, False]]), combinations=masks[:1])
    classes = one.shape[1]
    torch.testing.assert_close(together[:, :classes], one)
    assert (together[:, 0, :, :, 16:] == 1).all()
    assert (together[:, classes, :, :, 16:] < 1).any()
