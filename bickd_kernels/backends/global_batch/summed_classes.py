"""The class side from a sum over the ranks: ``M_ij = sum_b Pc_bi Qc_bj``, and each rank has some of the rows b.

    raw_ij = sum_b p_bi q_bj,   M_ij = raw_ij / (|p_i| |q_j|)

with ``p`` and ``q`` relative to the largest of their column on any rank. ``C x C`` numbers move in place of logits, and no
rank needs the samples of another: the way for many samples of few classes. ``M``, its sums and ``W`` are then the same on
every rank, and ``h_i = sum_j W_ij M_ij`` needs no other message.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.backends.tiles import contrast
from bickd_kernels.backends.tiles.contrast import SIMILARITY_BUDGET_BYTES
from bickd_kernels.backends.tiles.selection import Selection
from bickd_kernels.backends.tiles.vectors import LOG2_E, inverse_lengths, relative_to, sums_of_squares
from bickd_kernels.processes import exchange
from bickd_kernels.processes.slices import Slices


class SummedClasses(NamedTuple):
    """The class side, finished."""

    loss: Tensor
    """That of the global batch, a scalar."""
    derivative: Tensor
    """``P * d loss / d P`` for this rank's samples, ``(b, C)``."""


def sum_is_less(slices: Slices, classes: int, element_size: int, teacher_is_gathered: bool) -> bool:
    """Whether the sum of ``M`` moves fewer numbers than shares of the classes do, and ``M`` is small enough to be kept."""
    shared = 2 * max(slices.rows) * classes + (0 if teacher_is_gathered else slices.total * classes)
    return 2 * classes**2 <= shared and classes**2 * element_size <= SIMILARITY_BUDGET_BYTES


def summed_classes(slices: Slices, logarithms: Tensor, selection: Selection, contrast_temperature: float) -> SummedClasses:
    """The class side of the global batch.

    Args:
        slices: the rows of each rank.
        logarithms: log-probabilities of student and teacher for this rank's samples, ``(2, b, C)``; written to.
        selection: of the global batch.
        contrast_temperature: ``k``.
    """
    count = logarithms.shape[2]
    classes = selection.classes
    largest = exchange.largest_over_ranks(slices, _largest(logarithms))
    if selection.no_entry is not None:
        largest.masked_fill_(selection.no_entry, 0.0)
    relative = relative_to(largest, logarithms)
    raw, squares = exchange.sum_over_ranks(slices, relative[0].T @ relative[1], sums_of_squares(relative, 1).squeeze(1))
    student_scale, teacher_scale = inverse_lengths(squares, selection.leaves_something_out)
    teacher_scale = teacher_scale * (LOG2_E / contrast_temperature)
    similarity = raw * student_scale[:, None] * teacher_scale

    rows = slice(0, count)
    sums = contrast.sums_of_panel(similarity.clone(), rows, classes, None)
    sums = contrast.with_columns(sums, sums.columns, classes)
    weights = contrast.anchor_weights(count, classes, similarity)
    loss = contrast.loss_of_rows(sums, weights, rows) + contrast.loss_of_columns(sums, weights)

    (exponentials,) = sums.kept
    slope = contrast.by_similarity(exponentials, weights / sums.rows, weights / sums.columns, rows, None, weights)
    units = relative[0] * student_scale
    product = units * ((relative[1] * teacher_scale) @ slope.T)
    return SummedClasses(loss, product.addcmul_(units, units * (slope * similarity).sum(1), value=-1))


def _largest(logarithms: Tensor) -> Tensor:
    """``(2, 1, C)``; a rank without samples has none."""
    if logarithms.shape[1] == 0:
        return logarithms.new_full((2, 1, logarithms.shape[2]), -torch.inf)
    return logarithms.amax(1, keepdim=True)
