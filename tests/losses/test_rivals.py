import math

import pytest
import torch

from monai_passion.errors import UsageError
from monai_passion.handlers.curves import term_means
from monai_passion.handlers.modulation import GradientModulationHandler, modulation
from monai_passion.losses import (
    BackboneLoss,
    GradientModulationLoss,
    PassionLoss,
    PassionReleasedLoss,
    PMRLoss,
    RelativeAdvantageLoss,
    SubsetStudentsLoss,
    TeacherDistillationLoss,
    UnimodalDistillationLoss,
)
from monai_passion.losses.distillation import pixel_distillation
from monai_passion.losses.modulation import true_class_score
from monai_passion.losses.pmr import imbalance_ratio, prototypical_terms
from monai_passion.losses.segmentation import make_target
from tests.losses import toy
from tests.losses.toy import K, M

MIXED = [[1, 1, 1], [0, 1, 1], [1, 0, 0]]


def run(loss, net, available=MIXED):
    image, available, label = toy.batch(available)
    output = net(image, available)
    return loss(output, label), output


def test_score_is_the_mean_over_the_classes_of_the_true_probability():
    target = make_target(torch.tensor([[[0, 0, 0, 1]]]), 3)
    p = torch.tensor([[[0.9, 0.6, 0.3, 0.2], [0.05, 0.2, 0.3, 0.7], [0.05, 0.2, 0.4, 0.1]]])
    score = true_class_score(p.log(), target.onehot, target.voxels)
    torch.testing.assert_close(score, torch.tensor([(0.6 + 0.7) / 2]))


def test_prototypical_terms_voxel_by_voxel():
    label = torch.tensor([0, 0, 1, 1, 1])
    target = make_target(label.reshape(1, 1, -1), 3)
    features = torch.randn(2, 4, 5)
    for row, ours in enumerate(zip(*(t.tolist() for t in prototypical_terms(features, *target[1:])), strict=True)):
        centers = [features[row][:, label == k].mean(dim=1) for k in (0, 1)]
        expected = [0.0, 0.0, 0.0]
        for i, k in enumerate(label.tolist()):
            near = [math.exp(-(features[row][:, i] - c).norm().item()) for c in centers]
            p = [x / sum(near) for x in near]
            weight = 0.5 / (label == k).sum().item()
            for n, term in enumerate((-math.log(p[k]), p[k], -sum(q * math.log(q) for q in p))):
                expected[n] += weight * term
        assert ours == pytest.approx(expected, rel=1e-4)


def test_ratio_of_two_modalities_is_that_of_the_paper():
    ratio = imbalance_ratio(torch.tensor([[0.6, 0.2, 0.9]]), torch.tensor([[1, 1, 0]]).bool())
    torch.testing.assert_close(ratio, torch.tensor([[3.0, 1 / 3, 1.0]]))


@pytest.mark.parametrize(("mask", "score"), [([0, 1, 0], 0.5), ([1, 1, 1], 0.0)], ids=["alone", "all zero"])
def test_ratio_without_another_is_one(mask, score):
    assert (imbalance_ratio(torch.full((1, M), score), torch.tensor([mask]).bool()) == 1).all()


def test_pmr_speeds_up_the_slow_and_regularizes_the_dominant_in_early_epochs():
    loss = PMRLoss(M, K, lambda_pce=0.5, lambda_entropy=0.2, entropy_epochs=1)
    value, _ = run(loss, toy.network(separate=True))
    terms = loss.terms
    base = BackboneLoss(M, K).combine(terms).mean().item()
    ratio = imbalance_ratio(terms.modal["score"], terms.modal["score"] > 0)
    pce = entropy = 0.0
    for b in range(len(MIXED)):
        for m in range(M):
            r = ratio[b, m].item()
            pce += min(max(1 / r - 1, 0), 1) * terms.modal["prototypical_cross_entropy"][b, m].item() / len(MIXED)
            entropy += min(max(r - 1, 0), 1) * terms.modal["entropy"][b, m].item() / len(MIXED)
    assert pce > 0
    assert entropy > 0
    assert value.item() == pytest.approx(base + 0.5 * pce - 0.2 * entropy, rel=1e-5)
    loss.end_epoch()
    assert loss.combine(terms).mean().item() == pytest.approx(base + 0.5 * pce, rel=1e-5)


def teacher_loss(*args, **options):
    return TeacherDistillationLoss(M, K, toy.network(2).backbone, **options)


@pytest.mark.parametrize("recipe", [PMRLoss, teacher_loss, GradientModulationLoss])
def test_single_modality_samples_learn_as_in_the_baseline(recipe):
    image, available, label = toy.batch([[0, 1, 0]])
    output = toy.network(separate=True)(image, available)
    torch.testing.assert_close(recipe(M, K)(output, label), BackboneLoss(M, K)(output, label), rtol=0, atol=0)


def test_the_teacher_sees_only_samples_with_every_modality():
    teacher = toy.network(2).backbone
    seen = []
    teacher.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    image, available, label = toy.batch([[0, 1, 1], [1, 1, 1]])
    TeacherDistillationLoss(M, K, teacher)(toy.network()(image, available), label)
    assert len(seen) == 1
    assert torch.equal(seen[0], image[1:])


def test_what_the_teacher_says_is_distilled_into_each_modality():
    loss = teacher_loss(lambda_teacher=0.3)
    image, available, label = toy.batch(MIXED)
    output = toy.network(separate=True)(image, available)
    value = loss(output, label)
    said = toy.network(2).backbone.eval()(image[:1], available[:1])
    expected = pixel_distillation(output.unimodal.logits[0][:M], said, 4.0).sum() / len(MIXED)
    assert expected > 0
    torch.testing.assert_close(value, BackboneLoss(M, K).combine(loss.terms).mean() + 0.3 * expected)


def test_the_teacher_is_not_trained_and_not_saved():
    teacher = toy.network(2).backbone
    net, loss = toy.network(separate=True), TeacherDistillationLoss(M, K, teacher)
    run(loss, net)[0].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert list(loss.state_dict()) == list(BackboneLoss(M, K).state_dict())


def test_modulation_by_hand():
    # Means over those who have it: 0.6, 0.2 and none; so the first is three times as good as the other.
    score = torch.tensor([[0.6, 0.1, 0.0], [0.0, 0.3, 0.0]])
    k = modulation(score, score > 0, alpha=0.5)
    torch.testing.assert_close(k, torch.tensor([1 - math.tanh(1.5), 1.0, 1.0]))


def test_gradients_of_the_encoders_are_scaled_and_no_others():
    loss, net = GradientModulationLoss(M, K), toy.network(unimodal="monitor", separate=True)
    run(loss, net)[0].backward()
    before = {name: p.grad.clone() for name, p in net.named_parameters()}
    GradientModulationHandler(net.backbone, loss, alpha=1.0, noise=False)(None)
    k = modulation(loss.terms.modal["score"], loss.terms.modal["score"] > 0, 1.0).tolist()
    assert min(k) < 1
    for name, p in net.named_parameters():
        encoder = name.split("encoders.")
        factor = k[int(encoder[1][0])] if len(encoder) == 2 else 1.0
        torch.testing.assert_close(p.grad, factor * before[name])


def test_the_noise_is_as_wide_as_the_gradient():
    loss, net = GradientModulationLoss(M, K), toy.network(unimodal="monitor", separate=True)
    run(loss, net)[0].backward()
    for p in net.parameters():
        p.grad.copy_(torch.randn_like(p.grad))
    before = [p.grad.clone() for p in net.backbone.modality_parameters(0)]
    GradientModulationHandler(net.backbone, loss, alpha=0.0)(None)
    added = torch.cat(
        [(p.grad - b).flatten() for p, b in zip(net.backbone.modality_parameters(0), before, strict=True)]
    )
    assert added.std().item() == pytest.approx(1.0, rel=0.1)
    assert abs(added.mean().item()) < 0.1


@pytest.mark.parametrize(
    ("loss", "least"),
    [
        (BackboneLoss(M, K), "off"),
        (BackboneLoss(M, K, lambda_unimodal=1.0), "train"),
        (GradientModulationLoss(M, K), "monitor"),
        (PassionLoss(M, K, [0.0] * M), "train"),
        (PassionReleasedLoss(M, K, [1.0] * M), "train"),
        (PMRLoss(M, K), "train"),
        (RelativeAdvantageLoss(M, K), "train"),
        (TeacherDistillationLoss(M, K, torch.nn.Identity()), "train"),
        (UnimodalDistillationLoss(M, K, lambda_unimodal=0.0), "train"),
        (SubsetStudentsLoss(M, K), "train"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else value,
)
def test_a_network_without_the_decodes_that_a_method_learns_from_is_refused(loss, least):
    order = ("off", "monitor", "train")
    for unimodal in order:
        net = toy.network(unimodal=unimodal, random_subsets=1)
        if order.index(unimodal) >= order.index(least):
            loss.check_network(net)
        else:
            with pytest.raises(UsageError, match=f"unimodal: {unimodal}; .* set wrapper#unimodal to {least}"):
                loss.check_network(net)


def test_random_subsets_are_needed_where_they_teach():
    with pytest.raises(UsageError, match="random_subsets"):
        SubsetStudentsLoss(M, K).check_network(toy.network())


def test_balancing_uni_modal_losses_of_no_weight_is_refused():
    with pytest.raises(UsageError, match="set lambda_unimodal above 0"):
        RelativeAdvantageLoss(M, K, lambda_unimodal=0.0).check_network(toy.network(unimodal="train"))


@pytest.mark.parametrize(
    "loss",
    [
        PassionLoss(M, K, [0.0] * M),
        PMRLoss(M, K),
        GradientModulationLoss(M, K),
        TeacherDistillationLoss(M, K, toy.network().backbone),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_terms_are_logged_alike_however_samples_are_put_into_batches(loss):
    net = toy.network(unimodal="train")
    image, available, label = toy.batch([[1, 1, 1], [1, 1, 1], [1, 0, 0]])
    together, apart = {}, {}
    for sums, batches in ((together, [[0, 1, 2]]), (apart, [[0], [1], [2]])):
        for rows in batches:
            loss(net(image[rows], available[rows]), label[rows])
            for name, m, value, count in term_means(loss.terms, "abc"):
                total, n = sums.get((name, m), (0.0, 0.0))
                sums[name, m] = (total + value * count, n + count)
    assert {key: n for key, (_, n) in together.items()} == {key: n for key, (_, n) in apart.items()}
    for key, (total, _) in together.items():
        assert apart[key][0] == pytest.approx(total, rel=1e-4, abs=1e-6), key
