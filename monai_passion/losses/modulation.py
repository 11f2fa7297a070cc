"""The score of each modality alone, for OGM-GE (Peng et al., CVPR 2022)."""

from __future__ import annotations

from torch import Tensor

from monai_passion.losses.baseline import BackboneLoss
from monai_passion.losses.pmr import class_weights
from monai_passion.losses.segmentation import Target
from monai_passion.networks.backbone import Decoded

__all__ = ["GradientModulationLoss", "true_class_score"]


def true_class_score(logits: Tensor, onehot: Tensor, count: Tensor) -> Tensor:
    """Mean probability of the true class, each class weighing alike: how good a modality is alone.

    Args:
        logits: (S, K, *spatial).
        onehot: (1, K, V); count: (1, K), voxels per class.

    Returns:
        (S,), in [0, 1].
    """
    true = (logits.softmax(dim=1).flatten(2) * onehot).sum(dim=1)
    return (true * class_weights(onehot, count)).sum(dim=1)


class GradientModulationLoss(BackboneLoss):
    """The backbones' objective, which also scores each modality alone, for `GradientModulationHandler`.

    Its network is ``SelfDistillationNet(unimodal="monitor", separate=True)``.
    """

    decodes_alone = "monitor"

    compared = ("gap", "score")

    def compare(self, student: Decoded, teacher: Decoded, target: Target, present: Tensor) -> dict[str, Tensor]:
        score = true_class_score(student.logits[0].detach(), target.onehot, target.voxels)
        return {**super().compare(student, teacher, target, present), "score": score}
