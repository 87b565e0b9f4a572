"""The loss of the global batch from sums over samples alone: for many samples with few classes, such as pixels.

    M_ij = sum over ranks of (each rank's samples) Pc_i . Qc_j

``M``, its sums and ``W`` are then the same on every rank, and ``h_i = sum_j W_ij M_ij`` needs no message. Correlations
need one more, for the mean of each class. Cross-entropy and KL are sums anyway. All of it is PyTorch operations and runs on
any device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Batch, Result, Settings
from bickd_kernels.backends.torch import contrast
from bickd_kernels.backends.torch.contrast import SIMILARITY_BUDGET_BYTES
from bickd_kernels.backends.torch.gradient import accumulate, weighted_sum
from bickd_kernels.backends.torch.rows import terms_of_rows
from bickd_kernels.backends.torch.selection import Selection, classes_without_entry, widened_logits
from bickd_kernels.backends.torch.vectors import (
    LOG2_E,
    centred,
    inverse_lengths,
    log_probabilities,
    relative_to,
    sums_of_squares,
    through_softmax,
)
from bickd_kernels.processes import exchange
from bickd_kernels.processes.exchange import Ranks


def moves_less(ranks: Ranks, own: Batch, settings: Settings) -> bool:
    """Whether sums over samples suffice, move fewer bytes than gathering the logits, and are small enough."""
    if settings.computed.sample_wise:
        return False
    if not settings.computed.class_wise:
        return True
    classes = own.student.shape[1]
    gathered = sum(ranks.rows) * classes * (own.student.element_size() + own.teacher.element_size())
    kept = classes**2 * torch.finfo(torch.float32).bits // 8
    return 2 * kept <= gathered and kept <= SIMILARITY_BUDGET_BYTES


def compute(ranks: Ranks, own: Batch, settings: Settings, needs_gradient: bool) -> Result:
    """Loss and terms of the global batch, and the gradient of this rank's samples."""
    logits, valid = widened_logits(own, settings.ignore_index)
    selection, count = _select(ranks, logits, valid)
    ce, kd, gradient = terms_of_rows(own, logits, selection, settings, needs_gradient)
    class_wise = None
    if settings.computed.class_wise:
        logarithms = log_probabilities(logits, settings.temperature, selection.rows)
        probabilities = logarithms[0].exp()
        vectors = _class_vectors(ranks, logarithms, selection, count if settings.similarity == "correlation" else None)
        class_wise, part = _class_side(ranks, vectors, selection.classes, settings.contrast_temperature)
        # Without samples all classes are alike, which gives log C; the loss of a batch without a valid row must be 0.
        class_wise = class_wise * (count > 0)
        if needs_gradient:
            part = through_softmax(part, probabilities)
            gradient = accumulate(gradient, part, settings.weights.class_wise / settings.temperature)
    rows = [term for term in (ce, kd) if term is not None]
    summed = iter(exchange.sum_over_ranks(ranks, *rows) if rows else ())
    ce, kd = (None if term is None else next(summed) for term in (ce, kd))
    loss, terms = weighted_sum(settings, ce, kd, class_wise, None)
    if needs_gradient and gradient is None:
        gradient = torch.zeros_like(logits[0])
    return Result(loss, terms, gradient if needs_gradient else None)


def _select(ranks: Ranks, logits: Tensor, valid: Tensor | None) -> tuple[Selection, Tensor]:
    """The selection, with this rank's rows, and the number of valid rows in the global batch, a scalar.

    A class belongs to the batch unless student or teacher sets it to -inf in every valid row of every rank.
    """
    finite = logits != -torch.inf
    if valid is not None:
        finite &= valid[:, None]
    own_count = logits.shape[1] if valid is None else valid.sum()
    seen, count = exchange.sum_over_ranks(
        ranks, finite.any(1).to(torch.int32), torch.as_tensor(own_count, dtype=torch.int32, device=logits.device)
    )
    # Without a valid row, all classes count as present so that the sums stay finite.
    classes = ((seen > 0).all(0) | (count == 0)).to(logits.dtype)
    rows = logits.new_ones(logits.shape[1]) if valid is None else valid.to(logits.dtype)
    no_entry = classes_without_entry(classes, count)
    return Selection(rows, classes, rows / count.clamp(min=1), no_entry), count


class _ClassVectors(NamedTuple):
    """The part of the class vectors that this rank's samples contribute."""

    entries: Tensor
    """Student and teacher, ``(2, b, C)``, centred for correlations; relative to the largest probability of each class."""
    probabilities: Tensor
    """The student's before centring, ``(b, C)``."""


def _class_vectors(ranks: Ranks, logarithms: Tensor, selection: Selection, centred_over: Tensor | None) -> _ClassVectors:
    """From log-probabilities ``(2, b, C)``, which it overwrites.

    Args:
        centred_over: the number of samples in the global batch, for correlations; None for cosines.
    """
    largest = exchange.largest_over_ranks(ranks, _largest(logarithms))
    if selection.no_entry is not None:
        largest.masked_fill_(selection.no_entry, 0.0)
    relative = relative_to(largest, logarithms)
    if centred_over is None:
        return _ClassVectors(relative, relative[0])
    (total,) = exchange.sum_over_ranks(ranks, relative.sum(1, keepdim=True))
    return _ClassVectors(centred(relative, total / centred_over.clamp(min=1), selection.members_along(1)), relative[0])


def _class_side(
    ranks: Ranks, vectors: _ClassVectors, classes: Tensor | None, contrast_temperature: float
) -> tuple[Tensor, Tensor]:
    """The class-wise term of the global batch, a scalar, and ``P * d loss / d P`` for this rank's samples, ``(b, C)``.

    Args:
        classes: mask ``(C,)``, see ``Selection``.
    """
    student, teacher = vectors.entries
    raw, squares = exchange.sum_over_ranks(ranks, student.T @ teacher, sums_of_squares(vectors.entries, 1).squeeze(1))
    student_scale, teacher_scale = inverse_lengths(squares, True)
    teacher_scale = teacher_scale * (LOG2_E / contrast_temperature)
    similarity = raw * student_scale[:, None] * teacher_scale

    count = len(similarity)
    rows = slice(0, count)
    sums = contrast.sums_of_panel(similarity.clone(), rows, classes, None)
    sums = sums._replace(columns=contrast.bounded(sums.columns, classes))
    weights = contrast.anchor_weights(count, classes, similarity)
    (exponentials,) = sums.kept
    slope = contrast.by_similarity(exponentials, weights / sums.rows, weights / sums.columns, rows, None, weights)
    # G - u h with G = z W.T and h = sum u G, which is the same on every rank.
    part = ((teacher * teacher_scale) @ slope.T).addcmul_(student * student_scale, (slope * similarity).sum(1), value=-1)
    return contrast.loss_of(sums, weights), part.mul_(vectors.probabilities * student_scale)


def _largest(logarithms: Tensor) -> Tensor:
    """The column maxima ``(2, 1, C)``; -inf on a rank without samples."""
    if logarithms.shape[1] == 0:
        return logarithms.new_full((2, 1, logarithms.shape[2]), -torch.inf)
    return logarithms.amax(1, keepdim=True)
