"""A small network and batch on which every objective runs in an instant."""

import torch

from monai_passion.networks import RFNet, SelfDistillationNet

M, K = 3, 4


def network(seed=1, **options):
    torch.manual_seed(seed)
    return SelfDistillationNet(RFNet(M, K, spatial_dims=2, width=4, levels=2), **options)


def batch(available, size=16):
    """(image, available, label): every class occurs, but not as often."""
    image = torch.randn(len(available), M, size, size)
    label = (torch.rand(len(available), 1, size, size) * 6).long().clamp_max(K - 1)
    return image, torch.tensor(available).bool(), label
