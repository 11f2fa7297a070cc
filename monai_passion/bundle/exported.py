"""Wrappers of a network in exported files, in the Python that TorchScript takes: no postponed annotations."""

from typing import Optional

import torch
from torch import nn

__all__ = ["JudgingAvailable", "RefusingNothing"]


class JudgingAvailable(nn.Module):
    """A traced network for programs that know nothing of ``available``: without it, constant channels are absent.

    If every channel is constant, as in a window outside the head, all count as available.

    Raises:
        RuntimeError: a sample for which ``available`` is False throughout.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def forward(self, image: torch.Tensor, available: Optional[torch.Tensor] = None) -> torch.Tensor:  # noqa: UP045
        if available is None:
            values = image.flatten(2)
            varies = values.amax(dim=2) > values.amin(dim=2)
            return self.network(image, varies | ~varies.any(dim=1, keepdim=True))
        if not bool(available.any(dim=1).all()):
            raise RuntimeError("a sample has no available modality; every sample needs at least one")
        return self.network(image, available)


class RefusingNothing(nn.Module):
    """For ONNX, which cannot raise an error: NaN for a sample for which ``available`` is False throughout."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        something = available.any(dim=1).reshape(-1, *(1,) * (image.ndim - 1))
        return torch.where(something, self.network(image, available), torch.nan)
