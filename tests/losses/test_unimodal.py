"""Each modality alone through the fusing decoder (L_reg of Eq. 1), in every method; distillation and subsets on top."""

import pytest
import torch

from monai_passion.losses import (
    BackboneLoss,
    PassionLoss,
    PMRLoss,
    RelativeAdvantageLoss,
    SubsetStudentsLoss,
    UnimodalDistillationLoss,
)
from monai_passion.losses.redcore import relative_advantage
from monai_passion.losses.segmentation import dice_loss, make_target, weighted_cross_entropy
from tests.losses import toy
from tests.losses.toy import K, M

MIXED = [[1, 1, 1], [0, 1, 1], [1, 0, 0]]


def supervised(logits, label):
    """Dice + weighted cross-entropy of one decode, (1, K, *spatial)."""
    target, p = make_target(label, K), logits.softmax(dim=1).flatten(2)
    return (dice_loss(p, target) + weighted_cross_entropy(p, target)).item()


def regularization(net, image, available, label):
    """Sum of L_reg over the batch, each modality of each sample decoded by hand."""
    total = 0.0
    for b, m in available.nonzero().tolist():
        alone = torch.eye(M).bool()[m : m + 1]
        total += supervised(net.backbone(image[b : b + 1], alone), label[b : b + 1])
    return total


@pytest.mark.parametrize("skip_single", [True, False])
@pytest.mark.parametrize(
    "recipe",
    [
        BackboneLoss,
        PMRLoss,
        UnimodalDistillationLoss,
        RelativeAdvantageLoss,
        lambda *args, **options: PassionLoss(*args, [0.1] * M, **options),
    ],
)
def test_every_method_adds_the_same_named_term(recipe, skip_single):
    net, (image, available, label) = toy.network(skip_single=skip_single), toy.batch(MIXED)
    output = net(image, available)
    with_it, without = recipe(M, K, lambda_unimodal=0.7), recipe(M, K, lambda_unimodal=0.0)
    added = regularization(net, image, available, label)
    assert with_it.eval()(output, label).item() > 0
    assert with_it.terms.modal["unimodal"].sum().item() == pytest.approx(added, rel=1e-4)
    assert (with_it.terms.modal["unimodal"][~available] == 0).all()
    if recipe is not RelativeAdvantageLoss:
        gained = with_it(output, label) - without(output, label)
        assert gained.item() == pytest.approx(0.7 * added / len(MIXED), rel=1e-4)


def test_students_without_gradients_are_refused():
    net, (image, available, label) = toy.network(unimodal="monitor"), toy.batch(MIXED)
    with pytest.raises(ValueError, match="unimodal='train'"):
        BackboneLoss(M, K, lambda_unimodal=1.0)(net(image, available), label)
    net = toy.network(unimodal="off")
    with pytest.raises(ValueError, match="unimodal='train'"):
        BackboneLoss(M, K, lambda_unimodal=1.0)(net(image, available), label)


def test_distillation_is_scaled_by_the_squared_temperature_and_ramped_over_epochs():
    image, available, label = toy.batch(MIXED)
    output = toy.network()(image, available)
    loss = UnimodalDistillationLoss(
        M, K, lambda_unimodal=0.0, lambda_pixel=0.5, temperature=3.0, ramp_epochs=4, level_decay=0.5
    )
    pixel = 0.0
    for row, (b, _) in enumerate(output.pairs):
        for level, (s, t) in enumerate(zip(output.unimodal.logits, output.fused.logits, strict=True)):
            p, q = ((z / 3).softmax(dim=0) for z in (s[row], t[b]))
            pixel += 0.5**level * (p * (p / q).log()).sum(dim=0).mean().item()
    for ramp in (0.25, 0.5, 0.75, 1.0, 1.0):
        value = loss(output, label) - loss.terms.segmentation.mean()
        assert value.item() == pytest.approx(ramp * 0.5 * 9 * pixel / len(MIXED), rel=1e-4)
        loss.end_epoch()


def test_random_subsets_are_decoded_and_supervised():
    net, (image, available, label) = toy.network(random_subsets=2), toy.batch(MIXED)
    output = net(image, available)
    assert output.subset_samples == (0, 0)  # two of two modalities are no subset, one is a student already
    assert (output.subset_masks.sum(dim=1) == 2).all()
    loss = SubsetStudentsLoss(M, K, lambda_unimodal=0.0, lambda_subset=0.3)
    value = loss(output, label) - loss.terms.segmentation.mean()
    expected = sum(supervised(net.backbone(image[:1], mask[None]), label[:1]) for mask in output.subset_masks)
    assert value.item() == pytest.approx(0.3 * expected / len(MIXED), rel=1e-4)


def test_every_subset_is_drawn():
    net, (image, available, _) = toy.network(random_subsets=20), toy.batch([[1, 1, 1]])
    masks = net(image, available).subset_masks
    assert {tuple(row) for row in masks.tolist()} == {(True, True, False), (True, False, True), (False, True, True)}


def test_relative_advantage_by_hand():
    torch.testing.assert_close(relative_advantage(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([0.5, 0.0, -0.5]))
    assert (relative_advantage(torch.zeros(3)) == 0).all()


def test_the_modality_with_the_largest_loss_gains_weight():
    loss, net = RelativeAdvantageLoss(M, K, eta=0.1, interval=1, momentum=1.0).train(), toy.network()
    image, available, label = toy.batch([[1, 1, 1]])
    output = net(image, available)
    first = loss(output, label)
    own = loss.terms.modal["unimodal"][0]
    torch.testing.assert_close(first, loss.terms.segmentation.mean() + (loss.beta * own).sum())
    expected = 1 - 0.1 * (own.mean() - own) / own.mean()
    torch.testing.assert_close(loss.beta, expected * M**0.5 / expected.norm())
    assert loss.beta.argmax() == own.argmax()


def test_an_absent_modality_keeps_its_running_loss():
    loss, net = RelativeAdvantageLoss(M, K, momentum=0.5).train(), toy.network()
    for mask in ([[1, 1, 1]], [[1, 1, 0]]):
        before = loss.running.clone()
        image, available, label = toy.batch(mask)
        loss(net(image, available), label)
    assert loss.running[2] == before[2]
    torch.testing.assert_close(loss.running[:2], (before + loss.terms.modal["unimodal"][0])[:2] / 2)


def test_a_modality_that_nobody_has_keeps_its_weight_and_stops_no_update():
    loss, net = RelativeAdvantageLoss(M, K, eta=0.1, interval=1, momentum=1.0).train(), toy.network()
    image, available, label = toy.batch([[1, 1, 0]])
    loss(net(image, available), label)
    own = loss.terms.modal["unimodal"][0, :2]
    expected = 1 - 0.1 * (own.mean() - own) / own.mean()
    torch.testing.assert_close(loss.beta[:2], expected * 2**0.5 / expected.norm())
    assert loss.beta[2] == 1
