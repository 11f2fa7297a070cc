"""The objective of the published backbones (Eq. 1-2)."""

from __future__ import annotations

from torch import Tensor

from monai_passion.losses.base import LossTerms, MultiModalLoss

__all__ = ["BackboneLoss"]


class BackboneLoss(MultiModalLoss):
    """L_task (Eq. 1-2): the multi-modal decode with deep supervision, L_seg, and each modality alone, L_reg.

    L_reg is the loss of the separate decoder of the published networks, if the network has one
    (``SelfDistillationNet(separate=True)``); with ``lambda_unimodal=1`` it is that of the fusing decoder, as in Eq. 1.
    With ``SelfDistillationNet(unimodal="monitor")`` the relative preference is measured but not used.
    """

    def combine(self, terms: LossTerms) -> Tensor:
        return terms.segmentation + (terms.modal["separate"] * terms.available).sum(dim=1)
