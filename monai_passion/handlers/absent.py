"""What the optimizer does with the encoders of modalities that a batch lacks."""

from __future__ import annotations

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from monai_passion.networks.backbone import MultiModalBackbone

__all__ = ["AbsentGradientsHandler"]


class AbsentGradientsHandler:
    """Gives the encoders that a batch did not use gradients of zero, or leaves them without any.

    The optimizer skips a parameter without gradient: neither Adam's momentum nor the weight decay moves it ("skip").
    With gradients of zero ("zero"), as in the released code, which multiplies absent modalities by zero, Adam continues
    with its momentum and divides by an average that those zeros lower. One present gradient then moves the encoder of a
    modality present at a rate r by about 1 / sqrt(r) times as far: a balancing that no equation shows. Comes before
    `NonFiniteHandler`.

    Args:
        backbone: whose `modality_parameters` these are.
        gradients: "skip" or "zero".

    Raises:
        ValueError: another ``gradients``.
    """

    def __init__(self, backbone: MultiModalBackbone, gradients: str = "skip") -> None:
        if gradients not in ("skip", "zero"):
            raise ValueError(f"absent_gradients is '{gradients}'; give 'skip' or 'zero'")
        self.backbone = backbone
        self.gradients = gradients

    def attach(self, engine: SupervisedTrainer) -> None:
        if self.gradients == "zero":
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: SupervisedTrainer) -> None:
        for m in range(self.backbone.num_modalities):
            for parameter in self.backbone.modality_parameters(m):
                if parameter.grad is None and parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
