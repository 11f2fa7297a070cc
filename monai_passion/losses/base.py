"""The common base of all training objectives: the named terms of a step, and their weighing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed
from monai.utils.misc import str2bool
from torch import Tensor, nn

from monai_passion.errors import UsageError
from monai_passion.losses.fused import prototype_distillation
from monai_passion.losses.preference import relative_preference
from monai_passion.losses.segmentation import Target, deep_supervision, make_target
from monai_passion.networks.backbone import Decoded
from monai_passion.networks.precision import to_single
from monai_passion.networks.self_distillation import SelfDistillationNet, SelfDistillationOutput

__all__ = ["LossTerms", "MultiModalLoss", "over_processes", "scatter", "students"]


class LossTerms(NamedTuple):
    """Unweighted terms of a step: B samples, M modalities."""

    segmentation: Tensor
    """(B,): L_seg of the multi-modal decode, the levels weighted."""
    available: Tensor
    """(B, M) bool: the modalities of each sample."""
    modal: dict[str, Tensor]
    """Name -> (B, M), zero where a modality takes no part. All methods have ``gap``, the D of Eq. 7 without gradient,
    and, if there is a separate decoder, its loss ``separate``; see the losses for the others."""
    measured: dict[str, Tensor]
    """Name -> (B, M) bool: where a term is measured, if that is not wherever a modality is available. A lone modality
    is its own teacher, so its distance is zero by definition."""

    def detach(self) -> LossTerms:
        modal = {name: term.detach() for name, term in self.modal.items()}
        return self._replace(segmentation=self.segmentation.detach(), modal=modal)


def students(output: SelfDistillationOutput) -> Iterator[tuple[int, Decoded]]:
    """(sample, decodes of each of its modalities alone), for the samples that have such decodes."""
    if output.unimodal is not None:
        counts = Counter(sample for sample, _ in output.pairs)  # in the order of the rows
        yield from zip(counts, output.unimodal.split([*counts.values()]), strict=True)


def scatter(values: Sequence[Tensor], pairs: Sequence[tuple[int, int]], shape: torch.Size) -> Tensor:
    """Values per (sample, modality) pair, in parts -> (B, M), zero elsewhere."""
    rows, columns = zip(*pairs, strict=True)
    flat = torch.cat(list(values))
    return flat.new_zeros(shape).index_put((torch.tensor(rows), torch.tensor(columns)), flat)


class MultiModalLoss(nn.Module, ABC):
    """Base of the objectives: computes the terms, and leaves their weights to `combine`.

    Every method can also train each modality alone through the fusing decoder, the L_reg of Eq. 1: with
    ``lambda_unimodal`` above 0 the objective gains ``lambda_unimodal`` times the sum over a sample's modalities of
    l_dice+ce(D_f(x^m), y), the term ``unimodal``. The network must then decode them with gradients
    (``SelfDistillationNet(unimodal="train")``). For a sample with one modality, the fused decode is the uni-modal one.

    Args:
        num_modalities: M.
        num_classes: K.
        level_decay: weight of deep-supervision level l is ``level_decay ** l``: 1 in Eq. 1 and 3, 0.5 in the released
            code. Methods can be compared only where it is the same.
        lambda_unimodal: >= 0.
        weighted: false for a cross-entropy in which every voxel counts alike, see `deep_supervision`.
    """

    beta: Tensor
    epoch: Tensor
    preference_sum: Tensor
    preference_count: Tensor

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        level_decay: float = 1.0,
        lambda_unimodal: float = 0.0,
        weighted: bool | str = True,
    ) -> None:
        super().__init__()
        self.weighted = str2bool(weighted)
        self.num_modalities = num_modalities
        self.num_classes = num_classes
        self.level_decay = level_decay
        self.lambda_unimodal = lambda_unimodal
        self.register_buffer("beta", torch.ones(num_modalities))
        self.register_buffer("preference_sum", torch.zeros(num_modalities, dtype=torch.float64))
        self.register_buffer("preference_count", torch.zeros(num_modalities, dtype=torch.float64))
        if self.counts_epochs:
            self.register_buffer("epoch", torch.tensor(0))
        self.terms: LossTerms | None = None

    counts_epochs: bool = False
    """Whether it depends on the number of closed epochs, its buffer ``epoch``."""
    decodes_alone: str = "off"
    """The least value of ``unimodal`` in its `SelfDistillationNet`: "off", "monitor", or "train" if modalities learn
    from their own decodes. `check_network` refuses less: it would be another method."""
    decodes_subsets: bool = False
    """Whether it learns from decodes of random subsets."""

    def check_network(self, network: nn.Module) -> None:
        """Check before a training that ``network`` has the decodes that this objective learns from.

        Raises:
            UsageError: it does not, so a part of the objective would silently be 0.
        """
        if not isinstance(network, SelfDistillationNet):
            return
        order = ("off", "monitor", "train")
        needed = "train" if self.lambda_unimodal else self.decodes_alone
        if order.index(network.unimodal) < order.index(needed):
            raise UsageError(
                f"{type(self).__name__} needs a decode of each modality alone, and the network has unimodal: "
                f"{network.unimodal}; name the configuration of the method after that of the task (methods/... after "
                f"tasks/.../fast.json, which turns these decodes off), or set wrapper#unimodal to {needed}"
            )
        if self.decodes_subsets and not network.random_subsets:
            raise UsageError(
                f"{type(self).__name__} needs decodes of random subsets, and the network has random_subsets: 0; set "
                "wrapper#random_subsets to 1"
            )

    @abstractmethod
    def combine(self, terms: LossTerms) -> Tensor:
        """The weighted sum of a method's own terms, per sample (B,)."""

    def reduce(self, losses: Tensor) -> Tensor:
        """Reduce the losses of the samples of a batch (B,) to a scalar."""
        return losses.mean()

    def forward(self, output: SelfDistillationOutput, label: Tensor) -> Tensor:
        """The objective of a batch.

        Args:
            output: of `SelfDistillationNet`.
            label: (B, 1, *spatial), classes 0 .. K-1.

        Raises:
            ValueError: ``lambda_unimodal`` is above 0, but the network decodes no modality alone, or without gradients.
        """
        with torch.autocast(label.device.type, enabled=False):
            output = to_single(output)  # in 16 bits a sum over the voxels of a volume overflows
            target = make_target(label, self.num_classes, output.fused.features.dtype)
            terms = self.compute(output, target)
            self.terms = terms.detach()
            if self.training:
                self.observe(self.terms)
            losses = self.combine(terms)
            if self.lambda_unimodal:
                losses = losses + self.lambda_unimodal * terms.modal["unimodal"].sum(dim=1)
            return self.reduce(losses)

    def compute(self, output: SelfDistillationOutput, target: Target) -> LossTerms:
        """All terms that can be computed from ``output``."""
        levels = deep_supervision(output.fused.logits, target, self.weighted)
        modal = self.distill(output, target)
        modal["separate"] = output.fused.features.new_zeros(output.available.shape)
        if output.separate is not None:
            losses = self.supervise(output.separate, [b for b, _ in output.separate_pairs], target)
            modal["separate"] = scatter([losses], output.separate_pairs, output.available.shape)
        if self.lambda_unimodal:
            modal["unimodal"] = self.unimodal(output, target, levels[0])
        several = output.available & (output.available.sum(dim=1, keepdim=True) > 1)
        return LossTerms(self.levels(levels), output.available, modal, dict.fromkeys(self.compared, several))

    def supervise(self, logits: Tensor, samples: Sequence[int], target: Target) -> Tensor:
        """Dice + cross-entropy of decodes at full resolution, (S, K, *spatial) of ``samples`` -> (S,)."""
        (losses,) = deep_supervision([logits], target.rows(samples), self.weighted)
        return losses

    def unimodal(self, output: SelfDistillationOutput, target: Target, fused: Tensor) -> Tensor:
        """L_reg of Eq. 1, (B, M): Dice + cross-entropy of the fusing decoder's decode of each modality alone.

        Args:
            fused: (B,), the same loss of the multi-modal decode; for a sample with one modality, both are equal.
        """
        decoded = {b for b, _ in output.pairs}
        alone = [(b, row.index(True)) for b, row in enumerate(output.available.tolist()) if sum(row) == 1]
        alone = [(b, m) for b, m in alone if b not in decoded]
        values, pairs = [fused[[b for b, _ in alone]]], [*alone]
        if output.unimodal is not None:
            logits = output.unimodal.logits[0]
            if fused.requires_grad and not logits.requires_grad:
                raise ValueError(
                    "lambda_unimodal is above 0, but the modalities are decoded alone without gradients; give the "
                    "network unimodal='train'"
                )
            values.append(self.supervise(logits, [b for b, _ in output.pairs], target))
            pairs += output.pairs
        if len({b for b, _ in pairs}) < len(output.available):
            raise ValueError(
                "lambda_unimodal is above 0, but no modality is decoded alone; give the network unimodal='train'"
            )
        return scatter(values, pairs, output.available.shape)

    compared: tuple[str, ...] = ("gap",)
    """Names of the terms that `compare` returns; `distill` drops others."""

    def distill(self, output: SelfDistillationOutput, target: Target) -> dict[str, Tensor]:
        """Name -> (B, M): `compare` for samples that were decoded from each modality alone, zero for others."""
        teachers = output.fused.split([1] * len(output.available))
        parts = [
            self.compare(student, teachers[b], target.sample(b), self.classes(target, b))
            for b, student in students(output)
        ]
        shape = output.available.shape
        if not parts:
            return {name: output.fused.features.new_zeros(shape) for name in self.compared}
        return {name: scatter([part[name] for part in parts], output.pairs, shape) for name in self.compared}

    def compare(self, student: Decoded, teacher: Decoded, target: Target, present: Tensor) -> dict[str, Tensor]:
        """Name -> (S,): terms that compare a sample's uni-modal decodes, S rows, with its multi-modal decode, one row.

        Args:
            target: of that sample.
            present: (K,) bool, see `classes`.
        """
        _, gap = prototype_distillation(
            student.features.detach(), teacher.features, target.onehot, target.voxels, present
        )
        return {"gap": gap}

    def levels(self, losses: Sequence[Tensor]) -> Tensor:
        """Weighted sum over the levels, level 0 first."""
        total = losses[0]
        for level, loss in enumerate(losses[1:], 1):
            total = total + self.level_decay**level * loss
        return total

    def classes(self, target: Target, sample: int) -> Tensor:
        """(K,) bool: the classes whose prototypes are compared for a sample."""
        return target.voxels[sample] > 0

    @torch.no_grad()
    def observe(self, terms: LossTerms) -> None:
        """Add a batch to the epoch's relative preference (the sums of Eq. 12)."""
        self.preference_sum += relative_preference(terms.modal["gap"], terms.available).sum(dim=0)
        self.preference_count += terms.available.sum(dim=0)

    @torch.no_grad()
    def epoch_sums(self) -> tuple[Tensor, Tensor]:
        """The sums of `observe` since the last epoch's end, over all processes; they are reset to zero."""
        sums = over_processes(torch.stack([self.preference_sum, self.preference_count]))
        self.preference_sum.zero_()
        self.preference_count.zero_()
        return sums[0], sums[1].clamp_min(1)

    def end_epoch(self) -> Tensor:
        """Close an epoch: return its mean relative preference (M,) (Eq. 12). Subclasses update beta here."""
        if self.counts_epochs:
            self.epoch += 1
        total, count = self.epoch_sums()
        return total / count


def over_processes(sums: Tensor) -> Tensor:
    """Add ``sums`` over all processes of a distributed training, in place."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    return sums
