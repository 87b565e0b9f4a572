"""The losses over the concatenation of the batches of several processes, and the gradient of each one's own samples.

    sample side           a rank forms the rows of R that are its samples', against all samples of the teacher
    class side, shared    a rank forms the rows of M that are its share of the classes, against all classes of the teacher
    class side, summed    M is a sum over samples: a rank forms its own samples' part of it, and the parts are added

A rank's row sums are complete, and its column sums are added to those of the others. Everything that moves does so in
``forward``, in a fixed number of messages whatever the sizes; backward only scales.

The gradient of a rank is ``k`` times that of the loss, for k ranks: data-parallel training takes the mean over the ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import Batch, Result
from bickd_kernels.backends.global_batch.selection import select
from bickd_kernels.backends.global_batch.side import Side, samples, shared_classes
from bickd_kernels.backends.global_batch.summed_classes import SummedClasses, sum_is_less, summed_classes
from bickd_kernels.backends.global_batch.teacher import gather_teacher
from bickd_kernels.backends.tiles.gradient import accumulate, add_term, weighted_sum
from bickd_kernels.backends.tiles.rows import cross_entropy, distillation
from bickd_kernels.backends.tiles.selection import Selection, widened_logits
from bickd_kernels.backends.tiles.vectors import log_probabilities, through_softmax
from bickd_kernels.processes import exchange
from bickd_kernels.processes.slices import Slices


class _Contrast(NamedTuple):
    """The bilateral loss of one rank, as far as its own sums tell."""

    probabilities: Tensor
    """The student's, ``(b, C)``"""
    samples: Side | None
    classes: Side | None
    summed: SummedClasses | None
    """The class side where it is not ``classes``."""


class GlobalBatch:
    """The backend of one rank; every rank of the group calls it with the same settings."""

    def __init__(self, slices: Slices) -> None:
        self.slices = slices

    def compute(self, batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
        """Loss and terms of the global batch, and the gradient of this rank's samples already.

        A rank that needs no gradient itself takes part in the others', if ``Slices`` says that there are such.
        """
        logits, valid = widened_logits(batch, settings.ignore_index)
        selection, some_row = select(self.slices, batch, logits, valid)
        ce = kd = gradient = contrast = None

        if settings.ce_weight is not None and batch.target is not None:
            ce, gradient = add_term(
                gradient,
                cross_entropy(logits[0], batch.target, valid, selection.row_weights, needs_gradient),
                settings.ce_weight,
            )
        if selection.classes is not None:
            logits.masked_fill_(selection.classes == 0, -torch.inf)
        if settings.kd_weight is not None:
            kd, gradient = add_term(
                gradient,
                distillation(logits, settings.kd_temperature, selection.row_weights, needs_gradient),
                settings.kd_weight,
            )
        if settings.class_weight is not None or settings.sample_weight is not None:
            contrast = self._contrast(batch, logits, selection, settings)
        ce, kd, class_wise, sample_wise, contrast = self._complete(ce, kd, contrast)
        if class_wise is not None:
            # Classes of no sample are all alike, which costs log C; a batch without a valid row costs nothing.
            class_wise = class_wise * some_row
        if contrast is not None and self.slices.needs_gradient:
            gradient = accumulate(gradient, self._gradient(contrast, settings), 1.0)

        loss, terms = weighted_sum(settings, ce, kd, class_wise, sample_wise)
        if not needs_gradient:
            return Result(loss, terms, None)
        gradient = torch.zeros_like(logits[0]) if gradient is None else gradient.mul_(self.slices.ranks)
        return Result(loss, terms, gradient)

    def _contrast(self, batch: Batch, logits: Tensor, selection: Selection, settings: Settings) -> _Contrast:
        slices, k, keep = self.slices, settings.contrast_temperature, self.slices.needs_gradient
        logarithms = log_probabilities(logits, settings.temperature, selection.rows)
        probabilities = logarithms[0].exp()
        by_sample, by_class = settings.sample_weight is not None, settings.class_weight is not None
        in_sum = by_class and sum_is_less(slices, logits.shape[2], logits.element_size(), by_sample)
        of_samples = of_classes = summed = None
        if by_sample or not in_sum:
            teacher = gather_teacher(slices, batch, selection, settings, logits.dtype)
            if by_sample:
                of_samples = samples(slices, probabilities, teacher, k, keep)
            if by_class and not in_sum:
                of_classes = shared_classes(slices, logarithms[0], teacher, selection, k, keep)
        if in_sum:
            summed = summed_classes(slices, logarithms, selection, k)
        return _Contrast(probabilities, of_samples, of_classes, summed)

    def _complete(
        self, ce: Tensor | None, kd: Tensor | None, contrast: _Contrast | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, _Contrast | None]:
        """The terms of the global batch, and the contrast with column sums over all ranks."""
        if contrast is None:
            ce, kd = _sum_over_ranks(self.slices, ce, kd)
            return ce, kd, None, None, None
        sides = contrast.samples, contrast.classes
        ce, kd, *sums = _sum_over_ranks(self.slices, ce, kd, *_partial(sides[0]), *_partial(sides[1]))
        of_samples, sample_wise = _completed(sides[0], *sums[:2])
        of_classes, class_wise = _completed(sides[1], *sums[2:])
        if contrast.summed is not None:
            class_wise = contrast.summed.loss
        return ce, kd, class_wise, sample_wise, contrast._replace(samples=of_samples, classes=of_classes)

    def _gradient(self, contrast: _Contrast, settings: Settings) -> Tensor | None:
        """The derivative of the weighted sides by the logits of this rank's samples ``(b, C)``."""
        part = None
        if contrast.summed is not None:
            part = contrast.summed.derivative
        elif contrast.classes is not None:
            part = exchange.to_row_slices(self.slices, contrast.classes.derivative(), contrast.probabilities.shape[1])
        gradient = None
        if part is not None and settings.class_weight is not None:
            part = through_softmax(part, contrast.probabilities)
            gradient = accumulate(gradient, part, settings.class_weight / settings.temperature)
        if contrast.samples is not None and settings.sample_weight is not None:
            part = contrast.samples.derivative()
            gradient = accumulate(gradient, part, settings.sample_weight / settings.temperature)
        return gradient


def _partial(side: Side | None) -> tuple[Tensor | None, Tensor | None]:
    """What is to be added up over the ranks."""
    return (None, None) if side is None else (side.loss_of_rows, side.sums.columns)


def _completed(side: Side | None, loss_of_rows: Tensor | None, columns: Tensor | None) -> tuple[Side | None, Tensor | None]:
    """The side and its loss, from what was added up."""
    if side is None or loss_of_rows is None or columns is None:
        return None, None
    side = side.with_columns(columns)
    return side, loss_of_rows + side.loss_of_columns


def _sum_over_ranks(slices: Slices, *tensors: Tensor | None) -> list[Tensor | None]:
    """``exchange.sum_over_ranks`` where None stays None, and nothing moves if all are."""
    given = [tensor for tensor in tensors if tensor is not None]
    sums = iter(exchange.sum_over_ranks(slices, *given) if given else ())
    return [None if tensor is None else next(sums) for tensor in tensors]
