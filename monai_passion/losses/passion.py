"""The training objectives as modules: `PassionLoss` (the paper's Eq. 14) and `PassionReleasedLoss` (the authors' code).

Both take the output of `SelfDistillationNet` and the label map, and keep what handlers read: ``terms`` of the last step
(unweighted), ``beta`` and the running relative preference (buffers, so they travel in checkpoints).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed
from monai.utils.misc import str2bool
from torch import Tensor, nn

from monai_passion.losses.distillation import (
    pixel_distillation,
    pixel_distillation_released,
    prototype_distillation,
)
from monai_passion.losses.preference import (
    batch_preference_released,
    epoch_preference_released,
    initial_beta,
    relative_preference,
    task_mask,
    update_beta,
    update_beta_released,
)
from monai_passion.losses.segmentation import Target, deep_supervision, make_target
from monai_passion.networks.backbone import Decoded
from monai_passion.networks.self_distillation import SelfDistillationOutput

__all__ = ["BackboneLoss", "LossTerms", "MultiModalLoss", "PassionLoss", "PassionReleasedLoss"]


class LossTerms(NamedTuple):
    """Unweighted terms of a step: B samples, M modalities; zero where a modality takes no part."""

    segmentation: Tensor
    """(B,): L_seg of the multi-modal decode, the levels weighted."""
    pixel: Tensor
    """(B, M): L_pixel."""
    prototype: Tensor
    """(B, M): L_proto."""
    gap: Tensor
    """(B, M): D, without gradient."""
    separate: Tensor
    """(B, M): L_reg."""
    available: Tensor
    """(B, M) bool: the modalities of each sample."""
    others: dict[str, Tensor]
    """Name -> (B, M): what other methods than PASSION add."""

    def detach(self) -> LossTerms:
        detached = {name: term.detach() for name, term in self._asdict().items() if name != "others"}
        return LossTerms(**detached, others={name: term.detach() for name, term in self.others.items()})


def students(output: SelfDistillationOutput) -> Iterator[tuple[int, Decoded]]:
    """(sample, the decodes of each of its modalities alone) for the samples that have such."""
    for b in range(len(output.available)):
        rows = [row for row, (sample, _) in enumerate(output.pairs) if sample == b]
        if rows and output.unimodal is not None:
            yield b, output.unimodal.rows(slice(rows[0], rows[-1] + 1))


def scatter(values: Sequence[Tensor], pairs: Sequence[tuple[int, int]], shape: torch.Size) -> Tensor:
    """One value a (sample, modality) pair, in parts -> (B, M), zero elsewhere."""
    rows, columns = zip(*pairs, strict=True)
    flat = torch.cat(list(values))
    return flat.new_zeros(shape).index_put((torch.tensor(rows), torch.tensor(columns)), flat)


def in_full_precision(output: SelfDistillationOutput) -> SelfDistillationOutput:
    """With mixed precision networks compute in 16 bits, in which a sum over the voxels of a volume overflows."""

    def convert(x: Tensor) -> Tensor:
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

    def decoded(d: Decoded) -> Decoded:
        return Decoded(tuple(map(convert, d.logits)), convert(d.features))

    return output._replace(
        fused=decoded(output.fused),
        unimodal=None if output.unimodal is None else decoded(output.unimodal),
        separate=None if output.separate is None else convert(output.separate),
        teacher=None if output.teacher is None else convert(output.teacher),
    )


class MultiModalLoss(nn.Module, ABC):
    """Base of the objectives: computes the terms, leaves their weights to `combine`.

    Args:
        num_modalities: M.
        num_classes: K.
        level_decay: weight of deep-supervision level l is ``level_decay ** l``; 1 as in Eq. 1 and 3.
        temperature: tau of Eq. 3.
        weighted: false for a cross-entropy in which every voxel counts alike, see `deep_supervision`.
    """

    beta: Tensor
    preference_sum: Tensor
    preference_count: Tensor

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        level_decay: float = 1.0,
        temperature: float = 4.0,
        weighted: bool | str = True,
    ) -> None:
        super().__init__()
        self.weighted = str2bool(weighted)
        self.num_modalities = num_modalities
        self.num_classes = num_classes
        self.level_decay = level_decay
        self.temperature = temperature
        self.register_buffer("beta", torch.ones(num_modalities))
        self.register_buffer("preference_sum", torch.zeros(num_modalities, dtype=torch.float64))
        self.register_buffer("preference_count", torch.zeros(num_modalities, dtype=torch.float64))
        self.terms: LossTerms | None = None

    @abstractmethod
    def combine(self, terms: LossTerms) -> Tensor:
        """The weighted sum, a scalar."""

    def forward(self, output: SelfDistillationOutput, label: Tensor) -> Tensor:
        """The objective of a batch.

        Args:
            output: of `SelfDistillationNet`.
            label: (B, 1, *spatial), classes 0 .. K-1.
        """
        with torch.autocast(label.device.type, enabled=False):
            output = in_full_precision(output)
            target = make_target(label, self.num_classes, output.fused.features.dtype)
            terms = self.compute(output, target)
            self.terms = terms.detach()
            if self.training:
                self.observe(self.terms)
            return self.combine(terms)

    def compute(self, output: SelfDistillationOutput, target: Target) -> LossTerms:
        """All terms that ``output`` allows."""
        shape = output.available.shape
        segmentation = self.levels(deep_supervision(output.fused.logits, target, self.weighted))
        pixel: list[Tensor] = []
        proto: list[tuple[Tensor, Tensor]] = []
        for b, student in students(output):
            teacher = output.fused.rows(slice(b, b + 1))
            pixel.append(self.pixel(student.logits, teacher.logits))
            part = target.onehot[b : b + 1], target.voxels[b : b + 1], self.classes(target, b)
            proto.append(prototype_distillation(student.features, teacher.features, *part))
        zero = segmentation.new_zeros(shape)
        terms = (pixel, *zip(*proto, strict=True)) if pixel else ()
        matrices = [scatter(term, output.pairs, shape) for term in terms] or [zero] * 3
        separate = zero
        if output.separate is not None:
            samples = torch.tensor([b for b, _ in output.separate_pairs])
            rows_target = Target(*(part[samples.to(part.device)] for part in target))
            (losses,) = deep_supervision([output.separate], rows_target, self.weighted)
            separate = scatter([losses], output.separate_pairs, shape)
        return LossTerms(segmentation, matrices[0], matrices[1], matrices[2], separate, output.available, {})

    def levels(self, losses: Sequence[Tensor]) -> Tensor:
        """Weighted sum over the levels, level 0 first."""
        total = losses[0]
        for level, loss in enumerate(losses[1:], 1):
            total = total + self.level_decay**level * loss
        return total

    def pixel(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """L_pixel (S,) of one sample's students, over all levels."""
        levels = zip(student, teacher, strict=True)
        return self.levels([pixel_distillation(s, t, self.temperature) for s, t in levels])

    def classes(self, target: Target, sample: int) -> Tensor:
        """(K,) bool: the classes whose prototypes are compared for a sample."""
        return target.voxels[sample] > 0

    @torch.no_grad()
    def observe(self, terms: LossTerms) -> None:
        """Add a batch to the epoch's relative preference (the sums of Eq. 12)."""
        self.preference_sum += relative_preference(terms.gap, terms.available).sum(dim=0)
        self.preference_count += terms.available.sum(dim=0)

    @torch.no_grad()
    def epoch_sums(self) -> tuple[Tensor, Tensor]:
        """What `observe` gathered since the last epoch's end, over all processes; it starts again from zero."""
        sums = torch.stack([self.preference_sum, self.preference_count])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        self.preference_sum.zero_()
        self.preference_count.zero_()
        return sums[0], sums[1].clamp_min(1)

    def end_epoch(self) -> Tensor:
        """Close an epoch: return its mean relative preference (M,) (Eq. 12). Subclasses update beta here."""
        total, count = self.epoch_sums()
        return total / count


class BackboneLoss(MultiModalLoss):
    """L_task of the published backbones (Eq. 1-2): multi-modal decode with deep supervision, and the separate decoder.

    With `SelfDistillationNet(unimodal="monitor")` the relative preference is watched without acting on it.
    """

    def __init__(
        self, num_modalities: int, num_classes: int, level_decay: float = 0.5, weighted: bool | str = True
    ) -> None:
        super().__init__(num_modalities, num_classes, level_decay, weighted=weighted)

    def combine(self, terms: LossTerms) -> Tensor:
        return (terms.segmentation + (terms.separate * terms.available).sum(dim=1)).mean()


class PassionLoss(MultiModalLoss):
    """The paper's objective, Eq. 14: L_seg + sum of lambda_1 beta^m L_pixel^m + lambda_2 delta^m L_proto^m.

    Args:
        missing_rates: MR of every modality in the training data, in channel order; beta starts at 1 / (1 - MR).
        lambda_pixel, lambda_proto: lambda_1 and lambda_2.
        gamma: rate of the update of beta after each epoch, Eq. 13.
        pixel, prototype, delta, beta: the four components of the paper's ablation; without ``delta`` every available
            modality learns from prototypes, without ``beta`` all coefficients stay 1. Also as "true" or "false", which
            is how a command line hands them over.
    """

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        missing_rates: Sequence[float],
        lambda_pixel: float = 0.5,
        lambda_proto: float = 0.1,
        gamma: float = 0.01,
        temperature: float = 4.0,
        level_decay: float = 1.0,
        pixel: bool | str = True,
        prototype: bool | str = True,
        delta: bool | str = True,
        beta: bool | str = True,
    ) -> None:
        super().__init__(num_modalities, num_classes, level_decay, temperature)
        if len(missing_rates) != num_modalities:
            raise ValueError(
                f"missing_rates has {len(missing_rates)} values for {num_modalities} modalities; give one each"
            )
        self.lambda_pixel = lambda_pixel if str2bool(pixel) else 0.0
        self.lambda_proto = lambda_proto if str2bool(prototype) else 0.0
        self.gamma = gamma
        self.use_delta = str2bool(delta)
        self.use_beta = str2bool(beta)
        if self.use_beta:
            self.beta.copy_(initial_beta(torch.tensor(missing_rates)))

    def combine(self, terms: LossTerms) -> Tensor:
        distilled = self.lambda_pixel * self.beta * terms.pixel
        delta = task_mask(relative_preference(terms.gap, terms.available)) if self.use_delta else terms.available
        distilled = distilled + self.lambda_proto * delta * terms.prototype
        return (terms.segmentation + distilled.sum(dim=1)).mean()

    def end_epoch(self) -> Tensor:
        preference = super().end_epoch()
        if self.use_beta:
            self.beta.copy_(update_beta(self.beta, preference, self.gamma))
        return preference


class PassionReleasedLoss(MultiModalLoss):
    """The objective that the authors' released code minimises.

    `docs/explanation/paper-vs-release.md` lists every difference from the paper.

    A sum over the batch of
    ``fused + sum_m [0.5 b_m w_m KL_m + d_m w_m (b_m separate_m + 0.1 proto_m)]``, b = beta, d = delta (one a batch),
    w = modal weight. Its network is ``SelfDistillationNet(separate=True, skip_single=False)``.

    Args:
        modal_weight: per modality, iterations an epoch / samples that have it; 1 / (1 - MR) at batch size 1.
        eta: rate of the update of beta, multiplied by 1.5 in the epochs 0, 100, 200, ...
        start_epoch: warm-up epochs before it, with the separate decoder's loss alone.
    """

    eta: Tensor
    epoch: Tensor

    def __init__(
        self,
        num_modalities: int,
        num_classes: int,
        modal_weight: Sequence[float],
        lambda_pixel: float = 0.5,
        lambda_proto: float = 0.1,
        eta: float = 0.01,
        temperature: float = 4.0,
        start_epoch: int = 0,
    ) -> None:
        super().__init__(num_modalities, num_classes, level_decay=0.5, temperature=temperature)
        if len(modal_weight) != num_modalities:
            raise ValueError(
                f"modal_weight has {len(modal_weight)} values for {num_modalities} modalities; give one each"
            )
        self.lambda_pixel = lambda_pixel
        self.lambda_proto = lambda_proto
        self.start_epoch = start_epoch
        self.register_buffer("modal_weight", torch.tensor(modal_weight, dtype=torch.float32))
        self.register_buffer("eta", torch.tensor(eta, dtype=torch.float64))
        self.register_buffer("epoch", torch.tensor(0))

    def pixel(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        spatial = student[0].shape[2:]
        levels = zip(student, teacher, strict=True)
        return self.levels([pixel_distillation_released(s, t, self.temperature, spatial) for s, t in levels])

    def classes(self, target: Target, sample: int) -> Tensor:
        return (target.voxels > 0).all(dim=0)

    def combine(self, terms: LossTerms) -> Tensor:
        weight = self.beta * self.modal_weight
        separate = terms.separate * terms.available
        if int(self.epoch) < self.start_epoch:
            return (weight * separate).sum()
        delta = batch_preference_released(terms.gap, terms.available) > 0
        distilled = self.lambda_pixel * weight * terms.pixel
        distilled = distilled + delta * (weight * separate + self.lambda_proto * self.modal_weight * terms.prototype)
        return terms.segmentation.sum() + distilled.sum()

    @torch.no_grad()
    def observe(self, terms: LossTerms) -> None:
        seen = terms.available & terms.gap.isfinite()
        self.preference_sum += torch.where(seen, terms.gap, 0.0).sum(dim=0)
        self.preference_count += seen.sum(dim=0)

    def end_epoch(self) -> Tensor:
        total, count = self.epoch_sums()
        preference = epoch_preference_released(total / count)
        if int(self.epoch) >= self.start_epoch:
            if int(self.epoch) % 100 == 0:
                self.eta *= 1.5
            self.beta.copy_(update_beta_released(self.beta, preference.to(self.beta), float(self.eta)))
        self.epoch += 1
        return preference
