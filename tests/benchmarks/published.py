"""The method computed as it was published, to time ours against; the same parameters, the same numbers."""

from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

from monai_passion.losses import PassionLoss, distillation
from monai_passion.losses.segmentation import make_target
from monai_passion.networks import SelfDistillationNet
from monai_passion.networks.backbone import Decoded
from monai_passion.networks.blocks import ConvBlock, FusionConv
from monai_passion.networks.cpu.activation import SLOPE, _Activate, activate
from monai_passion.networks.cpu.convolution import Conv3d
from monai_passion.networks.precision import autocast, has_bfloat16_units, to_single
from monai_passion.networks.rfnet import RegionFusion
from monai_passion.networks.self_distillation import SelfDistillationOutput


def concatenate_and_convolve(fusion, routing, maps, weights=None):
    """All modality maps side by side, absent ones zero, through the 1x1 convolution that fuses them."""
    stacked = routing.stack(maps)
    if weights is not None:
        stacked = stacked * F.interpolate(weights, stacked.shape[3:]).unsqueeze(2)
    return F.conv3d(stacked.flatten(1, 2), fusion.weight, fusion.bias)


def fuse_class_by_class(fusion, routing, maps, projected, probability):
    """RFNet's region-aware fusion: K products with all modality maps, weighted, summed, and concatenated."""
    stacked = routing.stack(maps)  # (D, M, C, ...)
    weights = fusion.weights(routing, maps, probability)
    fused = []
    for k in range(probability.shape[1]):
        regions = stacked * probability[:, None, k : k + 1]
        fused.append((regions * weights[:, k].reshape(*weights[:, k].shape, 1, 1, 1, 1)).sum(dim=1))
    shortcut = fusion.shortcut(activate(fusion.shortcut_fuse(routing, projected)))
    return torch.cat([fusion.region(torch.cat(fused, dim=1)), shortcut], dim=1)


def convolve_with_bias(block, x):
    """A convolution's bias is added although instance normalization takes it away."""
    x = nn.Conv3d.forward(block.conv, activate(x) if block.order == "pre" else x)
    return activate(x) if block.order == "post" else x


def one_by_one(term):
    """A term of each student in turn, as its uni-modal decodes come one after another."""

    def terms(student, *others):
        results = [term(row, *others) for row in student.split(1)]
        if isinstance(results[0], tuple):
            return tuple(map(torch.cat, zip(*results, strict=True)))
        return torch.cat(results)

    return terms


@contextmanager
def as_published():
    """Inside, networks and PASSION's terms are computed operation by operation as their papers write them."""
    with (
        patch.object(ConvBlock, "forward", convolve_with_bias),
        patch.object(FusionConv, "project", lambda fusion, modality, x: x),
        patch.object(FusionConv, "forward", concatenate_and_convolve),
        patch.object(RegionFusion, "forward", fuse_class_by_class),
        patch.object(Conv3d, "_conv_forward", nn.Conv3d._conv_forward),
        patch("monai_passion.losses.passion.pixel_distillation", one_by_one(distillation.pixel_distillation)),
        patch("monai_passion.losses.passion.prototype_distillation", one_by_one(distillation.prototype_distillation)),
        patch.object(_Activate, "apply", lambda x: F.leaky_relu(F.instance_norm(x), SLOPE)),
    ):
        yield


def encode_everything(backbone, image):
    """All modalities of all samples, which a decode then reads all of, what it must not see multiplied by zero."""
    return backbone.encode(image, torch.ones(image.shape[:2]).bool())._replace(traced=True)


def train_step(network, loss, image, available, label, precision="fp32"):
    """Encode once, decode what is there: forward and backward; the loss."""
    with autocast(precision, image.device):
        output = network(image, available)
    value = loss(to_single(output), label)
    value.backward()
    return value.item()


def train_step_as_published(network, loss, image, available, label):
    """Every modality of a zero-filled image is encoded, decoded alone, one after another, and distilled.

    What absent modalities, and a lone one, contribute is multiplied by zero in the end.
    """
    num_modalities = available.shape[1]
    there = [m for m in range(num_modalities) if available[0, m]]
    with as_published():
        features = encode_everything(network.backbone, image * available.reshape(*available.shape, 1, 1, 1))
        fused = network.backbone.decode(features, available)
        decoded = [network.backbone.decode(features, row) for row in torch.eye(num_modalities).bool().split(1)]
        taught = there if len(there) > 1 else []
        target = make_target(label, network.backbone.num_classes, image.dtype)
        wasted = torch.zeros(())
        for m in set(range(num_modalities)) - set(taught):
            terms = loss.compare(decoded[m], fused, target, loss.classes(target, 0))
            wasted = wasted + 0 * (terms["pixel"] + terms["prototype"]).sum()
        unimodal = taught and Decoded(
            tuple(map(torch.cat, zip(*(decoded[m].logits for m in taught), strict=True))),
            torch.cat([decoded[m].features for m in taught]),
        )
        pairs = tuple((0, m) for m in taught)
        output = SelfDistillationOutput(fused, unimodal or None, pairs, None, (), available, image)
        value = loss(output, label) + wasted
        value.backward()
    return value.item()


STEPS = {"published": train_step_as_published, "ours": train_step}
if has_bfloat16_units(torch.device("cpu")):
    STEPS["ours in bf16"] = partial(train_step, precision="bf16")


def training(backbone, size):
    """What a step needs: network, loss, image and label of ``size`` voxels an axis."""
    torch.manual_seed(0)
    network = SelfDistillationNet(backbone())
    m, k = network.backbone.num_modalities, network.backbone.num_classes
    image, label = torch.randn(1, m, size, size, size), torch.randint(0, k, (1, 1, size, size, size))
    return network, PassionLoss(m, k, [0.6, 0.4, 0.2, 0.8]), image, label
