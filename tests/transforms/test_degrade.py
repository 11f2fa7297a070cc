import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_passion.transforms import DegradeModality, DegradeModalityd, RandDegradeModalityd
from monai_passion.transforms.degrade import KINDS


@pytest.fixture
def volume():
    """A smooth head on a black background."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (24, 20, 16)], indexing="ij"))
    inside = (grid**2).sum(axis=0) < 0.8
    texture = 100 + 30 * np.sin(7 * grid[0]) + 20 * np.cos(11 * grid[2])
    return MetaTensor(torch.tensor(np.where(inside, texture, 0)[None], dtype=torch.float32), affine=np.eye(4))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_the_inside_and_keeps_background_shape_and_affine(volume, kind):
    poorer = DegradeModality(kind, 0.8, seed=1)(volume)
    assert poorer.shape == volume.shape
    assert torch.equal(poorer.affine, volume.affine)
    assert torch.isfinite(poorer).all()
    assert not poorer[volume == 0].any()
    assert (poorer - volume)[volume != 0].abs().mean() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_more_strength_moves_further_from_the_original(volume, kind):
    far = [float((DegradeModality(kind, s, seed=1)(volume) - volume).abs().mean()) for s in (0, 0.2, 0.6, 1)]
    assert far[0] == 0
    assert far == sorted(far)


@pytest.mark.parametrize("kind", KINDS)
def test_normalized_images_may_be_negative(volume, kind):
    inside = volume != 0
    normal = torch.where(inside, (volume - volume[inside].mean()) / volume[inside].std(), 0)
    poorer = DegradeModality(kind, 0.3, seed=1)(normal)
    assert torch.corrcoef(torch.stack([normal[inside], poorer[inside]]).as_tensor())[0, 1] > 0.3


def test_thick_slices_blur_along_their_axis_alone():
    ramp = torch.arange(1.0, 25).reshape(1, 24, 1, 1).expand(1, 24, 8, 8)
    assert torch.allclose(DegradeModality("thick_slices", 1, axis=1)(ramp), ramp)
    assert not torch.allclose(DegradeModality("thick_slices", 1, axis=0)(ramp), ramp)


def test_ghosts_repeat_the_image_along_their_axis():
    image = torch.full((1, 64, 8), 1e-6)
    image[0, 4:8] = 1
    ghosts = DegradeModality("ghosts", 0.8, axis=0)(image)[0, :, 0]
    assert ghosts[20:24].mean() > 2 * ghosts[12:16].mean()  # a quarter of the field away, as each fourth line is weak


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 12, 10), (1, 12, 10, 1)])
def test_flat_images(kind, shape):
    assert DegradeModality(kind, 1.0)(torch.rand(shape) + 1).shape == shape


@pytest.mark.parametrize(("kind", "strength"), [("fog", 0.5), ("noise", 1.1), ("noise", -0.1)])
def test_what_is_no_degradation_is_refused(kind, strength):
    with pytest.raises(ValueError, match="no degradation"):
        DegradeModality(kind, strength)


def item(volume):
    image = torch.cat([volume, volume * 2, torch.zeros_like(volume)])
    return {"image": image, "available": torch.tensor([True, True, False])}


def test_only_the_channel_is_degraded_and_the_input_left_as_it_was(volume):
    data = item(volume)
    before = data["image"].clone()
    poorer = DegradeModalityd("image", 1, "noise", 0.5)(data)["image"]
    assert torch.equal(data["image"], before)
    assert torch.equal(poorer[[0, 2]], before[[0, 2]])
    assert not torch.equal(poorer[1], before[1])


def test_the_recorded_arguments_do_the_same_again(volume):
    transform = RandDegradeModalityd("image", prob=0.7).set_random_state(3)
    seen = set()
    for _ in range(12):
        data = item(volume)
        poorer = transform(data)["image"]
        for channel, degradation in transform.degradations.items():
            data = DegradeModalityd("image", channel, *degradation)(data)
            seen.add(degradation.kind)
        assert torch.equal(poorer, data["image"])
    assert seen == set(KINDS)


def test_absent_modalities_stay_zero_and_each_has_its_own_chance(volume):
    transform = RandDegradeModalityd("image", prob=[1.0, 0.0, 1.0])
    poorer = transform(item(volume))["image"]
    assert list(transform.degradations) == [0]
    assert not poorer[2].any()


def test_the_seed_of_the_compose_decides(volume):
    def run(seed):
        return Compose([RandDegradeModalityd("image", 1.0)]).set_random_state(seed)(item(volume))["image"]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
