import pytest
import torch

from monai_passion.networks import MMFormer
from monai_passion.networks.blocks import resize_tokens
from tests.networks.contract import BackboneContract

SMALL = {"width": 4, "levels": 3, "roi_size": 16, "embedding": 16, "heads": 4, "mlp": 32}
T2_ALONE = torch.tensor([[0, 0, 0, 1]]).bool()


class TestMMFormer(BackboneContract):
    def build(self, **kwargs):
        return MMFormer(**SMALL, **kwargs)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"roi_size": 18}, {"roi_size": 4}, {"heads": 3}])
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MMFormer(**{**SMALL, **wrong})


def test_positions_of_another_size_are_interpolated():
    # A linear ramp along the last axis, 1 apart on the grid of 4: between its ends it stays one, half as steep.
    ramp = torch.arange(4.0).expand(4, 4).reshape(1, 16, 1)
    resized = resize_tokens(ramp, (4, 4), (4, 8)).reshape(4, 8)
    torch.testing.assert_close(resized[0, 1:-1], torch.arange(0.25, 3, 0.5))
    assert torch.equal(resized[0], resized[3])
    assert resize_tokens(ramp, (4, 4), (4, 4)) is ramp


def used_transformers(network, available, masks):
    """Modalities whose own transformer has a part in the last of the decodes."""
    image = torch.randn(1, 4, 16, 16)
    decoded = network.decode(network.encode(image, available), masks, [0] * len(masks))
    decoded.logits[0][-1].square().mean().backward()
    grads = [next(t.parameters()).grad for t in network.intra]
    return [m for m, grad in enumerate(grads) if grad is not None and grad.abs().max() > 0]


@pytest.mark.parametrize(
    ("available", "with_teacher", "used"),
    [([1, 1, 1, 1], False, [2]), ([1, 0, 0, 1], False, []), ([0, 0, 0, 1], True, []), ([0, 0, 0, 1], False, [3])],
    ids=["t1 is there", "t1 is not", "t2 only, student", "t2 only, teacher"],
)
def test_released_t2_bottleneck_is_that_of_t1(available, with_teacher, used):
    network = MMFormer(spatial_dims=2, released_t2_bottleneck=True, **SMALL).train()
    available = torch.tensor([available]).bool()
    assert used_transformers(network, available, torch.cat([available] * with_teacher + [T2_ALONE])) == used


def test_released_t2_bottleneck_is_for_training_only():
    network = MMFormer(spatial_dims=2, released_t2_bottleneck=True, **SMALL).eval()
    assert used_transformers(network, torch.ones(1, 4).bool(), T2_ALONE) == [3]


def test_released_t2_bottleneck_needs_the_four_modalities():
    with pytest.raises(ValueError, match="released_t2_bottleneck"):
        MMFormer(num_modalities=3, released_t2_bottleneck=True, **SMALL)


@pytest.mark.parametrize(("modality", "used"), [(0, []), (1, [1])], ids=["not in the teacher", "in the teacher"])
def test_released_masked_tokens_are_those_of_the_teacher(modality, used):
    network = MMFormer(spatial_dims=2, released_masked_tokens=True, **SMALL).train()
    masks = torch.zeros(2, 4).bool()
    masks[0, 1:] = True
    masks[1, modality] = True
    assert used_transformers(network, torch.ones(1, 4).bool(), masks) == used
