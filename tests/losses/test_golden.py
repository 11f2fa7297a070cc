"""The released recipe against numbers of the released code."""

from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch

from monai_passion.losses import BackboneLoss, PassionReleasedLoss, distillation, fused
from monai_passion.losses.distillation import pixel_distillation_released
from monai_passion.losses.preference import batch_preference_released
from monai_passion.losses.segmentation import dice_loss, enlarge, make_target, weighted_cross_entropy
from monai_passion.networks import M2FTrans, MMFormer, RFNet, SelfDistillationNet
from monai_passion.networks.cpu import activation, convolution, pointwise, regions
from monai_passion.networks.released import RELEASED_PREFIXES, convert_state_dict, translate

LABELS = ("label_all", "label_absent1", "label_absent2")
PREFIXES = RELEASED_PREFIXES["brats_mri"]

MMFORMER = {
    "width": 4,
    "roi_size": 32,
    "embedding": 32,
    "heads": 4,
    "mlp": 64,
    "dropout": 0.0,
    "released_masked_tokens": True,
}
NETWORKS = {
    "rfnet": ("rfnet", "", lambda: RFNet(width=4)),
    "mmformer": ("mmformer", "t2fix_", lambda: MMFormer(**MMFORMER)),
    "mmformer-as-released": ("mmformer", "", lambda: MMFormer(**MMFORMER, released_t2_bottleneck=True)),
    "m2ftrans": ("m2ftrans", "", lambda: M2FTrans(width=4, roi_size=32, heads=4, mlp=64, dropout=0.0)),
}
"""Test id -> (name of the golden files, prefix of their cases, the network of their small dimensions)."""


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
@pytest.mark.parametrize("form", [distillation, fused], ids=["plain", "fused"])
def test_prototypes(losses, label, zero_sample, form):
    target = make_target(losses[label], 4)
    present = (target.voxels > 0).all(dim=0)
    features = losses["feature_s"].clone()
    if zero_sample:
        features[1] = 0
    features.requires_grad_()
    loss, gap = zip(
        *(
            form.prototype_distillation(
                features[b : b + 1],
                losses["feature_t"][b : b + 1],
                target.onehot[b : b + 1],
                target.voxels[b : b + 1],
                present,
            )
            for b in range(2)
        ),
        strict=True,
    )
    prefix = f"prototype_passion_loss_bs/{label}/" + ("zero_feature_sample1_" if zero_sample else "")
    close(torch.cat(loss), losses[prefix + "loss"])
    close(torch.cat(gap), losses[prefix + "dist"])
    if not zero_sample:
        torch.cat(loss).sum().backward()
        torch.testing.assert_close(features.grad, losses[prefix + "grad_feature_s"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("case", "start"), [("start0/", 0), ("start3/", 3), ("extreme/", 0)])
def test_beta_over_the_epochs(small_golden, case, start):
    with np.load(small_golden / "schedule.npz") as file:
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


def test_batch_preference(small_golden):
    with np.load(small_golden / "schedule.npz") as file:
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


class Golden:
    """The golden training cases of one backbone at 32^3."""

    def __init__(self, folder, name, prefix, backbone):
        self.name, self.prefix = name, prefix
        weights = {}
        for file in (f"weights_{name}.npz", f"weights_{name}_p32_overrides.npz"):
            with np.load(folder / file) as arrays:
                weights |= {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        self.network = SelfDistillationNet(backbone, separate=True, skip_single=False)
        converted = convert_state_dict(weights, name, backbone, PREFIXES)
        backbone.load_state_dict(converted.backbone)
        self.network.separate.load_state_dict(converted.separate)
        with np.load(folder / "inputs_p32.npz") as arrays:
            self.image = torch.from_numpy(arrays["x_int8"]).float() * 0.25
            self.label = torch.from_numpy(arrays["label"]).long()
        with np.load(folder / f"golden_{name}_p32.npz") as arrays:
            self.expected = {
                key: arrays[key]
                for key in arrays.files
                if key.startswith("train/") or key in ("imb_beta", "modal_weight", "param_names")
            }

    def expect(self, case):
        """The arrays of one case."""
        prefix = f"train/{'' if case in 'EG' else self.prefix}{case}/"
        return {key.removeprefix(prefix): value for key, value in self.expected.items() if key.startswith(prefix)}

    def output(self, case, dtype=torch.float32):
        """(output of the network, label) of one case."""
        mask = torch.from_numpy(self.expect(case)["mask"]).bool()
        image, label = self.image[: len(mask)].to(dtype), self.label[: len(mask)].clone()
        if case == "D":
            label[1][label[1] == 3] = 1
        # F and G: every modality is visible, random ones are fused.
        available = torch.ones_like(mask) if case in "FG" else mask
        self.network.to(dtype).zero_grad()
        self.network.unimodal = "off" if case in "EG" else "train"
        return self.network(image, available, mask), label

    def loss(self, case, **options):
        if case in "EG":
            return BackboneLoss(4, 4, level_decay=0.5)
        loss = PassionReleasedLoss(4, 4, [1.0] * 4 if case == "F" else self.expected["modal_weight"], **options)
        loss.beta.copy_(torch.from_numpy(self.expected["imb_beta"]))
        return loss

    def step(self, case, dtype=torch.float32):
        """(output, loss module, its value, norm of every parameter's gradient)."""
        output, label = self.output(case, dtype)
        loss = self.loss(case)
        value = loss(output, label) * (len(label) if case in "EG" else 1)  # the released code sums over the batch
        value.backward()
        rename = translate(self.name, PREFIXES)
        gradients = {f"backbone.{n}": p.grad for n, p in self.network.backbone.named_parameters()}
        gradients |= {f"separate.{n}": p.grad for n, p in self.network.separate.named_parameters()}
        norms = []
        for released in self.expected["param_names"]:
            key, entry = rename(str(released))
            gradient = gradients[key if key.startswith("separate.") else f"backbone.{key}"]
            norms.append(0.0 if gradient is None else gradient[... if entry is None else entry].double().norm().item())
        return output, loss, value.item(), np.array(norms)


def far(ours, theirs):
    """Which gradient norms are out of tolerance."""
    theirs = np.nan_to_num(theirs)
    return np.abs(ours - theirs) > np.maximum(5e-3 * theirs, 1e-4 * theirs.max())


@contextmanager
def plain_operations():
    """torch's own operations in place of those of `monai_passion.networks.cpu`."""
    slow = {"is_fast": lambda x: False}
    with (
        patch.multiple(convolution, **slow),
        patch.multiple(pointwise, **slow),
        patch.multiple(regions, **slow),
        patch.object(activation, "is_tracing", lambda: True),
    ):
        yield


@pytest.fixture(scope="module", params=NETWORKS)
def training(request, golden):
    name, prefix, build = NETWORKS[request.param]
    return Golden(golden, name, prefix, build())


@pytest.mark.parametrize("case", ["A", "B", "C", "D", "E", "F", "G", "H"])
def test_training_step(training, case):
    expected = training.expect(case)
    output, loss, value, norms = training.step(case)
    close(loss.terms.segmentation, torch.from_numpy(expected["fuse_loss_bs"] + expected["prm_loss_bs"]), 1e-4)
    for term, theirs in (("separate", "sep_loss"), ("pixel", "kl_loss"), ("prototype", "proto_loss"), ("gap", "dist")):
        if case not in "EG" or term == "separate":
            reference = torch.from_numpy(expected[f"{theirs}_bs"]) * output.available
            torch.testing.assert_close(loss.terms.modal[term], reference.float(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, expected["loss"], rtol=1e-4)
    off = far(norms, expected["grad_l2"])
    if off.any():  # rounding alone moves some gradients of M2FTrans by more than the tolerance
        with plain_operations():  # which round as the released code did
            off &= far(training.step(case)[-1], expected["grad_l2"])
    if off.any():
        off &= far(training.step(case, torch.float64)[-1], expected["grad_l2"])
    assert not off.any(), training.expected["param_names"][off]


@pytest.mark.parametrize("case", ["A", "F"])
def test_warm_up(training, case):
    loss = training.loss(case, start_epoch=1)
    with torch.no_grad():
        value = loss(*training.output(case))
    np.testing.assert_allclose(value.item(), training.expect(case)["loss_warmup"], rtol=1e-4)
