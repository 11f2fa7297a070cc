"""The paper's recipe, Eq. 1-14: against slow re-computations, numbers worked out by hand, and what must hold."""

import math
import multiprocessing

import pytest
import torch
import torch.distributed

from monai_passion.losses import PassionLoss, PassionReleasedLoss
from monai_passion.losses.distillation import prototypes
from monai_passion.losses.fused import pixel_distillation, prototype_distillation
from monai_passion.losses.preference import (
    epoch_preference_released,
    initial_beta,
    relative_preference,
    task_mask,
    update_beta,
)
from monai_passion.losses.segmentation import (
    cross_entropy,
    deep_supervision,
    dice_loss,
    make_target,
    weighted_cross_entropy,
)
from tests.losses import toy
from tests.losses.toy import K, M

RATES = [0.6, 0.2, 0.5]
MIXED = [[1, 1, 1], [0, 1, 1], [1, 0, 0]]


def passion(**options):
    return PassionLoss(M, K, RATES, **options)


def entries(*tensors):
    return zip(*(t.flatten().tolist() for t in tensors), strict=True)


# Eq. 1-2


def test_cross_entropy_and_dice_by_hand():
    # Two voxels, classes 0 and 1, each half: the weights are 1/2 and the probabilities of the truth 0.8 and 0.4.
    target = make_target(torch.tensor([[[0, 1]]]), 2)
    p = torch.tensor([[[0.8, 0.6], [0.2, 0.4]]])
    torch.testing.assert_close(
        weighted_cross_entropy(p, target), torch.tensor([-(math.log(0.8) + math.log(0.4)) / 2 / 2])
    )
    torch.testing.assert_close(dice_loss(p, target), torch.tensor([1 - (2 * 0.8 / 2.4 + 2 * 0.4 / 1.6) / 2]))


def test_segmentation_losses_voxel_by_voxel():
    label = torch.randint(0, 3, (1, 1, 4, 5))
    p = torch.randn(1, 3, 4, 5).softmax(dim=1)
    target = make_target(label, 3)
    share = [(label == k).sum().item() / 20 for k in range(3)]
    entropy, dice = 0.0, 0.0
    for i, j in [(i, j) for i in range(4) for j in range(5)]:
        k = label[0, 0, i, j].item()
        entropy -= (1 - share[k]) * math.log(p[0, k, i, j]) / 20
    for k in range(3):
        both = sum(p[0, k, i, j].item() for i in range(4) for j in range(5) if label[0, 0, i, j] == k)
        dice += 2 * both / (p[0, k].sum().item() + 20 * share[k]) / 3
    assert weighted_cross_entropy(p.flatten(2), target).item() == pytest.approx(entropy, rel=1e-5)
    assert dice_loss(p.flatten(2), target).item() == pytest.approx(1 - dice, rel=1e-5)


def test_a_coarse_level_counts_as_its_enlargement():
    label = toy.batch([[1, 1, 1]])[2]
    constant = torch.randn(1, K, 1, 1)
    fine, coarse = (constant.expand(1, K, n, n) for n in (16, 4))
    levels = deep_supervision([fine, coarse], make_target(label, K))
    torch.testing.assert_close(*levels)


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"\[4\]; classes are 0 to 3"):
        make_target(torch.tensor([[[0, 4]]]), 4)


# Eq. 3


def test_pixel_distillation_by_hand():
    # p_s = (1/2, 1/2) and p_t = (1/4, 3/4) at temperature 2: KL = ln(2) / 2 + ln(2/3) / 2.
    student, teacher = torch.zeros(1, 2, 1, 1), torch.tensor([0.0, 2 * math.log(3)]).reshape(1, 2, 1, 1)
    expected = torch.tensor([math.log(2) / 2 + math.log(2 / 3) / 2])
    torch.testing.assert_close(pixel_distillation(student, teacher, 2.0), expected)


def test_pixel_distillation_voxel_by_voxel():
    student, teacher = torch.randn(2, K, 3, 4), torch.randn(1, K, 3, 4)
    for s, value in zip(student, pixel_distillation(student, teacher, 4.0), strict=True):
        total = 0.0
        for i, j in [(i, j) for i in range(3) for j in range(4)]:
            p, q = ((z[:, i, j] / 4).softmax(dim=0) for z in (s, teacher[0]))
            total += sum(a * math.log(a / b) for a, b in entries(p, q))
        assert value.item() == pytest.approx(total / 12, rel=1e-4)


def test_pixel_distillation_has_the_gradient_of_its_equation(monkeypatch):
    monkeypatch.setattr("monai_passion.losses.fused.PIECE", 5)
    student = torch.randn(2, K, 3, 4, dtype=torch.double, requires_grad=True)
    teacher = torch.randn(1, K, 3, 4, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda s: pixel_distillation(s, teacher, 4.0), student)


# Eq. 4-8


def test_prototypes_are_class_means():
    features = torch.tensor([[[[1.0, 3.0, 10.0]], [[0.0, 2.0, 20.0]]]])
    target = make_target(torch.tensor([[[0, 0, 1]]]), 3)
    expected = torch.tensor([[[2.0, 1.0], [10.0, 20.0], [0.0, 0.0]]])
    torch.testing.assert_close(prototypes(features, target.onehot, target.voxels), expected, rtol=1e-4, atol=0)


def slow_prototype_distillation(student, teacher, label, classes):
    """(L_proto, D) of one student, term by term."""

    def similarity(z, k):
        members = [z[:, i] for i in range(len(label)) if label[i] == k]
        c = sum(members) / len(members)
        return [(z[:, i] @ c / z[:, i].norm() / c.norm()).item() for i in range(len(label))]

    pairs = [pair for k in classes for pair in zip(similarity(student, k), similarity(teacher, k), strict=True)]
    return sum((s - t) ** 2 for s, t in pairs) / len(pairs), sum(abs(s - t) for s, t in pairs) / len(pairs)


@pytest.mark.parametrize("piece", [7, 2**15])
def test_prototype_distillation_voxel_by_voxel(monkeypatch, piece):
    monkeypatch.setattr("monai_passion.losses.fused.PIECE", piece)
    label = torch.randint(0, 3, (1, 1, 20))
    target = make_target(label, K)  # class 3 is absent
    student, teacher = torch.randn(2, 5, 20), torch.randn(1, 5, 20)
    loss, gap = prototype_distillation(student, teacher, *target[1:], target.voxels[0] > 0)
    for row, ours in enumerate(zip(loss.tolist(), gap.tolist(), strict=True)):
        slow = slow_prototype_distillation(student[row], teacher[0], label[0, 0].tolist(), range(3))
        assert ours == pytest.approx(slow, rel=1e-4)


def test_prototype_loss_has_the_gradient_of_its_equation(monkeypatch):
    monkeypatch.setattr("monai_passion.losses.fused.PIECE", 5)
    target = make_target(torch.randint(0, 3, (1, 1, 12)), K, torch.double)
    student = torch.randn(2, 3, 12, dtype=torch.double, requires_grad=True)
    teacher = torch.randn(1, 3, 12, dtype=torch.double)
    part = (*target[1:], target.voxels[0] > 0)
    assert torch.autograd.gradcheck(lambda s: prototype_distillation(s, teacher, *part)[0], student)


def test_features_of_zero_and_no_common_class_give_no_nan():
    target = make_target(torch.randint(0, 3, (1, 1, 12)), K)
    student = torch.zeros(2, 3, 12, requires_grad=True)
    for present in (target.voxels[0] > 0, torch.zeros(K).bool()):
        loss, gap = prototype_distillation(student, torch.randn(1, 3, 12), *target[1:], present)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert all(t.isfinite().all() for t in (loss, gap, gradient))


# Eq. 9-13


def test_relative_preference_by_hand():
    gap = torch.tensor([[1.0, 2.0, 3.0], [1.0, 9.0, 3.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 1]]).bool()
    expected = torch.tensor([[0.5, 0.0, -0.5], [0.5, 0.0, -0.5]])
    torch.testing.assert_close(relative_preference(gap, mask), expected)
    assert task_mask(expected).tolist() == [[False, False, True]] * 2


def test_relative_preference_sums_to_zero_over_what_is_available():
    mask = torch.tensor(MIXED).bool()
    preference = relative_preference(torch.rand(3, M), mask)
    torch.testing.assert_close(preference.sum(dim=1), torch.zeros(3), rtol=0, atol=1e-6)
    assert (preference[~mask] == 0).all()


@pytest.mark.parametrize("gap", [0.0, 0.7, math.nan])
def test_one_modality_or_no_distance_is_no_preference(gap):
    mask = torch.tensor([[0, 1, 0]]).bool() if gap else torch.ones(1, M).bool()
    assert (relative_preference(torch.full((1, M), gap), mask) == 0).all()


def test_beta_starts_at_the_inverse_of_presence():
    torch.testing.assert_close(passion().beta, torch.tensor([2.5, 1.25, 2.0]))


def test_a_modality_that_nobody_has_starts_with_no_weight_and_keeps_it():
    beta = initial_beta(torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(beta, torch.tensor([2.0, 0.0]))
    assert update_beta(beta, torch.zeros(2), 0.01)[1] == 0


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_rates_that_are_none_are_refused(rate):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        initial_beta(torch.tensor([0.2, rate]))


def test_beta_goes_down_for_the_preferred_and_never_below_zero():
    beta = update_beta(torch.tensor([1.0, 1.0, 0.001]), torch.tensor([0.5, -0.5, 0.9]), 0.01)
    torch.testing.assert_close(beta, torch.tensor([0.995, 1.005, 0.0]))


def test_an_epoch_averages_over_the_samples_that_have_a_modality():
    loss, net = passion(gamma=0.1).train(), toy.network()
    preferences, before = [], loss.beta.clone()
    for available in (MIXED[:2], MIXED[2:], MIXED[:1]):
        loss(net(*toy.batch(available)[:2]), toy.batch(available)[2])
        preferences.append(relative_preference(loss.terms.modal["gap"], loss.terms.available))
    mean = torch.cat(preferences).sum(dim=0) / torch.tensor([3, 3, 3])  # two full samples, one pair, one alone
    torch.testing.assert_close(loss.end_epoch().float(), mean)
    torch.testing.assert_close(loss.beta, before - 0.1 * mean)
    assert loss.preference_count.sum() == 0


def close_epoch(rank, folder):
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loss = passion(gamma=0.1)
    loss.preference_sum += torch.tensor([[0.3, -0.1, -0.2], [0.1, 0.1, -0.2]])[rank]
    loss.preference_count += torch.tensor([[2, 1, 1], [0, 3, 1]])[rank]
    loss.end_epoch()
    torch.save(loss.beta, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_of_one_training_share_their_epoch(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=close_epoch, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    expected = torch.tensor([2.5, 1.25, 2.0]) - 0.1 * torch.tensor([0.2, 0.0, -0.2])
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected)


def test_evaluation_mode_does_not_count():
    loss = passion().eval()
    image, available, label = toy.batch(MIXED)
    loss(toy.network()(image, available), label)
    assert loss.preference_count.sum() == 0


def test_beta_and_the_running_epoch_are_state():
    image, available, label = toy.batch(MIXED)
    loss, other = passion().train(), passion()
    loss(toy.network()(image, available), label)
    loss.beta += 1
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.beta, loss.beta)
    assert torch.equal(other.end_epoch(), loss.end_epoch())


def test_distances_of_zero_leave_the_released_beta_alone():
    assert (epoch_preference_released(torch.zeros(M)) == 0).all()


def test_a_nan_distance_does_not_poison_beta():
    for loss in (passion(), PassionReleasedLoss(M, K, [1.0] * M)):
        output, label = toy.network()(*toy.batch(MIXED)[:2]), toy.batch(MIXED)[2]
        unimodal = output.unimodal._replace(features=output.unimodal.features * math.nan)
        loss.train()(output._replace(unimodal=unimodal), label)
        loss.end_epoch()
        assert loss.beta.isfinite().all()


# Eq. 14


def test_the_objective_is_the_weighted_sum():
    loss, (image, available, label) = passion(lambda_pixel=0.3, lambda_proto=0.7), toy.batch(MIXED)
    loss.beta.copy_(torch.tensor([0.5, 1.5, 4.0]))
    value = loss(toy.network()(image, available), label).item()
    preference = relative_preference(loss.terms.modal["gap"], available)
    expected = loss.terms.segmentation.sum().item()
    for b, row in enumerate(MIXED):
        for m in range(M):
            if row[m]:
                expected += 0.3 * loss.beta[m].item() * loss.terms.modal["pixel"][b, m].item()
                expected += 0.7 * (preference[b, m].item() < 0) * loss.terms.modal["prototype"][b, m].item()
    assert value == pytest.approx(expected / len(MIXED), rel=1e-5)
    assert len(set(loss.terms.modal["prototype"][preference < 0].tolist())) > 1


def test_a_batch_of_mixed_masks_is_the_mean_of_its_samples():
    loss, net, (image, available, label) = passion().eval(), toy.network(), toy.batch(MIXED)
    with torch.no_grad():
        together = loss(net(image, available), label)
        rows = [slice(b, b + 1) for b in range(len(MIXED))]
        alone = [loss(net(image[row], available[row]), label[row]) for row in rows]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-5, atol=1e-6)


def test_an_absent_modality_adds_nothing_and_gets_no_gradient():
    loss, net, (image, available, label) = passion(), toy.network(), toy.batch([[1, 0, 1], [1, 0, 1]])
    loss(net(image, available), label).backward()
    for term in ("pixel", "prototype", "gap"):
        assert (loss.terms.modal[term][:, 1] == 0).all()
    assert all(p.grad is None for p in net.backbone.modality_parameters(1))
    assert all(p.grad is not None for p in net.backbone.modality_parameters(0))


def test_the_teacher_gets_no_gradient_from_distillation():
    image, available, label = toy.batch([[1, 1, 1]])
    output = toy.network()(image, available)
    loss = passion(delta=False)
    terms = loss.compute(output, make_target(label, K))
    teacher, student = ((*d.logits, d.features) for d in (output.fused, output.unimodal))
    distilled = (terms.modal["pixel"] + terms.modal["prototype"]).sum()
    to_teacher = torch.autograd.grad(distilled, teacher, retain_graph=True, allow_unused=True)
    assert all(g is None or (g == 0).all() for g in to_teacher)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(distilled, student))


@pytest.mark.parametrize("recipe", [passion, lambda: PassionReleasedLoss(M, K, [1.0] * M)])
def test_samples_with_one_modality_and_absent_classes_give_finite_numbers(recipe):
    loss, net = recipe().train(), toy.network(skip_single=False)
    image, available, label = toy.batch([[0, 1, 0], [1, 1, 0]])
    label[1] = 0
    value = loss(net(image, available), label)
    value.backward()
    assert value.isfinite()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    loss.end_epoch()
    assert loss.beta.isfinite().all()


def test_a_single_modality_is_not_distilled():
    image, available, label = toy.batch([[0, 1, 0]])
    for skip in (True, False):
        loss = passion()
        value = loss(toy.network(skip_single=skip)(image, available), label)
        torch.testing.assert_close(value, loss.terms.segmentation.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_is_computed_in_full(dtype):
    image, available, label = toy.batch(MIXED)
    output = toy.network()(image, available)
    low = [type(d)(tuple(x.to(dtype) for x in d.logits), d.features.to(dtype)) for d in (output.fused, output.unimodal)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = passion()(output._replace(fused=low[0], unimodal=low[1]), label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, passion()(output, label), rtol=1e-2, atol=0)


def trained(seed):
    loss, net = passion().train(), toy.network(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(3):
        image, available, label = toy.batch(MIXED)
        optimizer.zero_grad()
        loss(net(image, available), label).backward()
        optimizer.step()
    loss.end_epoch()
    return {**net.state_dict(), "beta": loss.beta}


def test_a_second_run_from_the_same_seed_is_bit_identical():
    first, second, other = trained(3), trained(3), trained(4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["beta"], other["beta"])


# Table 2


@pytest.mark.parametrize("flag", [False, "false"])
@pytest.mark.parametrize("component", ["pixel", "prototype", "delta", "beta"])
def test_each_component_can_be_switched_off(component, flag):
    loss, (image, available, label) = passion(**{component: flag}), toy.batch(MIXED)
    value = loss(toy.network()(image, available), label)
    terms = loss.terms
    beta = torch.ones(M) if component == "beta" else torch.tensor([2.5, 1.25, 2.0])
    delta = available if component == "delta" else relative_preference(terms.modal["gap"], available) < 0
    expected = terms.segmentation.sum()
    if component != "pixel":
        expected = expected + 0.5 * (beta * terms.modal["pixel"]).sum()
    if component != "prototype":
        expected = expected + 0.1 * (delta * terms.modal["prototype"]).sum()
    torch.testing.assert_close(value, expected / len(MIXED))
    loss.train()(toy.network()(image, available), label)
    loss.end_epoch()
    assert torch.equal(loss.beta, torch.ones(M)) == (component == "beta")


def test_wrong_number_of_rates_is_refused():
    with pytest.raises(ValueError, match="2 values for 3 modalities"):
        PassionLoss(3, K, [0.1, 0.2])


def test_a_crop_without_tumor_teaches_where_every_voxel_counts_alike():
    """The weighted cross-entropy of a label of background alone is 0, whatever is predicted."""
    target = make_target(torch.zeros(1, 1, 4, 4, 4), K)
    logits = torch.zeros(1, K, 4, 4, 4, requires_grad=True)
    p = logits.softmax(dim=1).flatten(2)
    assert weighted_cross_entropy(p, target).item() == 0
    assert cross_entropy(p, target).item() == pytest.approx(math.log(K))
    (alike,), (weighted,) = (deep_supervision([logits], target, weighted=w) for w in (False, True))
    assert (alike - weighted).item() == pytest.approx(math.log(K))
