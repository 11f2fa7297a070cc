"""The released recipe against numbers of the released code."""

import numpy as np
import pytest
import torch

from monai_passion.losses import PassionReleasedLoss
from monai_passion.losses.distillation import (
    pixel_distillation_released,
    prototype_gap,
    prototype_loss,
    prototype_similarity,
    prototypes,
)
from monai_passion.losses.preference import batch_preference_released
from monai_passion.losses.segmentation import dice_loss, enlarge, make_target, weighted_cross_entropy
from monai_passion.networks import RFNet, SelfDistillationNet
from monai_passion.networks.convert import RELEASED_PREFIXES, convert_state_dict, translate

LABELS = ("label_all", "label_absent1", "label_absent2")
PREFIXES = RELEASED_PREFIXES["brats_mri"]
NETWORKS = {"rfnet": lambda size: RFNet(width=4)}


@pytest.fixture(scope="module")
def losses(golden):
    with np.load(golden / "losses.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def close(ours, theirs, rtol=1e-5):
    torch.testing.assert_close(ours.float(), theirs.float().reshape(ours.shape), rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("scale", ["noup", "up2"])
@pytest.mark.parametrize(
    ("loss", "name"), [(weighted_cross_entropy, "softmax_weighted_loss_bs"), (dice_loss, "dice_loss_bs")]
)
def test_segmentation_losses(losses, label, scale, loss, name):
    target = make_target(losses[label], 4)
    key = "logit_s" if scale == "noup" else "low_logit_s"
    logits = losses[key].clone().requires_grad_()
    value = loss(enlarge(logits.softmax(dim=1), losses[label].shape[1:]).flatten(2), target)
    close(value, losses[f"{name}/{label}/{scale}"])
    value.sum().backward()
    torch.testing.assert_close(logits.grad, losses[f"{name}/{label}/{scale}_grad_{key}"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize("scale", ["noup", "up2"])
def test_pixel_distillation(losses, temperature, scale):
    key, teacher = ("logit_s", "logit_t") if scale == "noup" else ("low_logit_s", "low_logit_t")
    student = losses[key].clone().requires_grad_()
    values = [
        pixel_distillation_released(student[b : b + 1], losses[teacher][b : b + 1], temperature, (12, 10, 8))
        for b in range(2)
    ]
    close(torch.cat(values), losses[f"temp_kl_loss_bs/T{temperature}/{scale}"])
    torch.cat(values).sum().backward()
    name = next(n for n in losses if n.startswith(f"temp_kl_loss_bs/T{temperature}/{scale}_grad"))
    torch.testing.assert_close(student.grad, losses[name], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("zero_sample", [False, True])
def test_prototypes(losses, label, zero_sample):
    target = make_target(losses[label], 4)
    present = (target.voxels > 0).all(dim=0)
    features = losses["feature_s"].clone()
    if zero_sample:
        features[1] = 0
    features.requires_grad_()
    loss, gap = [], []
    for b in range(2):
        part = (target.onehot[b : b + 1], target.voxels[b : b + 1])
        similar = [
            prototype_similarity(f[b : b + 1], prototypes(f[b : b + 1], *part)) for f in (features, losses["feature_t"])
        ]
        loss.append(prototype_loss(*similar, present))
        gap.append(prototype_gap(*similar, present))
    prefix = f"prototype_passion_loss_bs/{label}/" + ("zero_feature_sample1_" if zero_sample else "")
    close(torch.cat(loss), losses[prefix + "loss"])
    close(torch.cat(gap), losses[prefix + "dist"])
    if not zero_sample:
        torch.cat(loss).sum().backward()
        torch.testing.assert_close(features.grad, losses[prefix + "grad_feature_s"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("case", "start"), [("start0/", 0), ("start3/", 3), ("extreme/", 0)])
def test_beta_over_230_epochs(golden, case, start):
    with np.load(golden / "schedule.npz") as file:
        distances = file["extreme/epoch_dist_m" if case == "extreme/" else "epoch_dist_m"]
        expected = {name: file[case + name] for name in ("imb_beta", "eta", "rp_epoch")}
    loss = PassionReleasedLoss(4, 4, [1.0] * 4, start_epoch=start)
    for epoch, distance in enumerate(distances):
        loss.preference_sum += torch.from_numpy(distance)
        loss.preference_count += 1
        preference = loss.end_epoch()
        np.testing.assert_allclose(preference, expected["rp_epoch"][epoch], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(loss.beta, expected["imb_beta"][epoch], rtol=1e-5)
        np.testing.assert_allclose(float(loss.eta), expected["eta"][epoch], rtol=1e-5)


def test_batch_preference(golden):
    with np.load(golden / "schedule.npz") as file:
        arrays = {n: torch.from_numpy(file[n]) for n in file.files if n.startswith("iter/")}
    for dist, mask, theirs, delta in zip(
        arrays["iter/dist"],
        arrays["iter/mask"].bool(),
        arrays["iter/rp_iter_idt"],
        arrays["iter/delta_idt"],
        strict=True,
    ):
        ours = batch_preference_released(dist, mask)
        torch.testing.assert_close(ours, theirs.to(ours), rtol=1e-5, atol=1e-6, equal_nan=True)
        assert torch.equal(ours > 0, delta.bool())


@pytest.fixture(scope="module", params=NETWORKS)
def training(request, golden):
    """(wrapper, input, label, expected): the golden training cases of one backbone at 32^3."""
    name = request.param
    with np.load(golden / f"weights_{name}.npz") as file:
        weights = {key: torch.from_numpy(file[key]) for key in file.files}
    with np.load(golden / f"weights_{name}_p32_overrides.npz") as file:
        weights |= {key: torch.from_numpy(file[key]) for key in file.files}
    network = SelfDistillationNet(NETWORKS[name](32), separate=True, skip_single=False).eval()
    converted = convert_state_dict(weights, name, network.backbone, PREFIXES)
    network.backbone.load_state_dict(converted.backbone)
    network.separate.load_state_dict(converted.separate)
    with np.load(golden / "inputs_p32.npz") as file:
        image, label = torch.from_numpy(file["x_int8"]).float() * 0.25, torch.from_numpy(file["label"]).long()
    with np.load(golden / f"golden_{name}_p32.npz") as file:
        expected = {
            key: file[key]
            for key in file.files
            if key.startswith("train/") or key in ("imb_beta", "modal_weight", "param_names")
        }
    return name, network, image, label, expected


@pytest.mark.parametrize("case", ["A", "B", "C", "D", "F", "H"])
def test_training_step(training, case):
    name, network, image, label, expected = training
    prefix = f"train/{case}/"
    mask = torch.from_numpy(expected[prefix + "mask"]).bool()
    image, label = image[: len(mask)], label[: len(mask)].clone()
    if case == "D":
        label[1][label[1] == 3] = 1
    partial = case == "F"  # every modality visible, random ones fused
    available = torch.ones_like(mask) if partial else mask
    weight = torch.ones(4) if partial else torch.from_numpy(expected["modal_weight"])
    loss = PassionReleasedLoss(4, 4, weight.tolist())
    loss.beta.copy_(torch.from_numpy(expected["imb_beta"]))
    network.zero_grad()
    value = loss(network(image, available, mask), label)
    value.backward()
    for term, theirs in (("separate", "sep"), ("pixel", "kl"), ("prototype", "proto"), ("gap", "dist")):
        reference = torch.from_numpy(expected[f"{prefix}{theirs}_loss_bs" if theirs != "dist" else f"{prefix}dist_bs"])
        ours = getattr(loss.terms, term)
        torch.testing.assert_close(ours * available, reference.to(ours) * available, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value.item(), expected[prefix + "loss"], rtol=1e-4)
    rename = translate(name, PREFIXES)
    ours = {f"backbone.{n}": p.grad for n, p in network.backbone.named_parameters()}
    ours |= {f"separate.{n}": p.grad for n, p in network.separate.named_parameters()}
    norms = expected[prefix + "grad_l2"]
    largest = np.nanmax(norms)
    for released, norm in zip(expected["param_names"], norms, strict=True):
        key, entry = rename(str(released))
        gradient = ours[key if key.startswith("separate.") else f"backbone.{key}"]
        size = 0.0 if gradient is None else gradient[... if entry is None else entry].double().norm().item()
        assert size == pytest.approx(np.nan_to_num(norm), rel=5e-3, abs=1e-4 * largest), released
