"""Symmetric InfoNCE between unit vectors, and its derivative, panel by panel.

    L = U_student @ U_teacher.T / k,   E = exp(L),   rs = E.sum(1),   cs = E.sum(0)
    loss = mean_i  1/2 (log rs_i + log cs_i) - sum_j w_ij L_ij
    W = E_ij (1/rs_i + 1/cs_j) / (2 n) - w_ij / n,   G = W @ U_teacher / k = d loss / d U_student

``L`` is formed in panels of whole rows. Panels within ``SIMILARITY_BUDGET_BYTES`` are kept from the sums to the
gradient and the others are formed twice, so that nothing larger than the budget is ever held. Exponentials are powers of
two: ``log2(e)`` goes into the scale of the product. No maximum is subtracted, because similarities lie in [0, 1] and
``k >= 0.02``: ``1 <= E <= exp(50)``.

A process of several forms some rows of ``L`` only. Between the sums and the derivative it adds its column sums to those of
the others; that is why these are two steps here.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.backends.tiles.vectors import LOG2_E

SIMILARITY_BUDGET_BYTES = 64 * 2**20
"""The most that is kept of a similarity matrix between its sums and the gradient."""

PANEL_BYTES = 8 * 2**20
"""The size of one panel of a similarity matrix: large enough for an efficient product, small enough for the cache."""

MIN_PANEL_ROWS = 64
"""Panels of very wide matrices get more rows than ``PANEL_BYTES`` allows: thinner products are slow."""

_LN_2 = math.log(2.0)


class Pair(NamedTuple):
    """What is contrasted: rows ``first`` to ``first + m`` of a similarity matrix of ``n`` rows and columns."""

    student: Tensor
    """``(m, d)``, row- or column-major; a vector that ``mask`` hides is zero."""
    teacher: Tensor
    """``(n, d)``, laid out like ``student``, times ``log2(e) / k``."""
    mask: Tensor | None
    """``(n,)``, 1 for a vector that takes part and 0 for one that is neither anchor nor negative; None: all take part."""
    labels: Tensor | None
    """``(n,)``, equal for vectors that are positives of each other; None: each is its own positive."""
    first: int

    @property
    def own(self) -> slice:
        """The rows that are formed here."""
        return slice(self.first, self.first + self.student.shape[0])


class Sums(NamedTuple):
    """Sums over a ``Pair``'s rows of the matrix, and the exponentials that are kept for the derivative."""

    rows: Tensor
    """``(m,)``: ``rs``"""
    columns: Tensor
    """``(n,)``: ``cs``, of these rows alone"""
    positives: Tensor
    """``(m,)``: ``sum_j w_ij log2(e) L_ij``"""
    kept: list[Tensor]


def contrast(
    student: Tensor,
    teacher: Tensor,
    contrast_temperature: float,
    mask: Tensor | None,
    labels: Tensor | None,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """The loss of all vectors, a scalar, and its derivative by the student's, ``(n, d)`` laid out like them, or None.

    The arguments are those of ``Pair``, but for the teacher's vectors, which have length 1.
    """
    pair = pair_of(student, teacher, contrast_temperature, mask, labels)
    sums = sum_exponentials(pair, keep=needs_gradient)
    sums = with_columns(pair, sums, sums.columns)
    weights = anchor_weights(pair)
    loss = loss_of_rows(pair, sums, weights) + loss_of_columns(sums, weights)
    return loss, derivative(pair, sums, weights) if needs_gradient else None


def pair_of(
    student: Tensor,
    teacher: Tensor,
    contrast_temperature: float,
    mask: Tensor | None,
    labels: Tensor | None,
    first: int = 0,
) -> Pair:
    """The pair of unit vectors of student and teacher."""
    return Pair(student, teacher * (LOG2_E / contrast_temperature), mask, labels, first)


def sum_exponentials(pair: Pair, *, keep: bool) -> Sums:
    """The sums; with ``keep`` the panels within the budget are kept."""
    n, element_size = pair.teacher.shape[0], pair.teacher.element_size()
    panels = _panels(pair)
    most_kept = SIMILARITY_BUDGET_BYTES // max(panels[0].stop * n * element_size, 1) if keep else 0
    kept: list[Tensor] = []
    row_sums, positives = [], []
    column_sums: Tensor | None = None
    for rows in panels:
        similarity = torch.mm(_part(pair.student, rows), pair.teacher.T)
        in_matrix = _in_matrix(pair, rows)
        positives.append(_positive_similarity(similarity, in_matrix, pair.labels))
        exponentials = similarity.exp2_()
        row_sums.append(exponentials.sum(1) if pair.mask is None else exponentials @ pair.mask)
        part = exponentials.sum(0) if pair.mask is None else pair.mask[in_matrix] @ exponentials
        column_sums = part if column_sums is None else column_sums.add_(part)
        if len(kept) < most_kept:
            kept.append(exponentials)
    assert column_sums is not None
    row_sum = _join(row_sums)
    return Sums(row_sum if pair.mask is None else row_sum.clamp_(min=1), column_sums, _join(positives), kept)


def with_columns(pair: Pair, sums: Sums, columns: Tensor) -> Sums:
    """The sums with the column sums of all rows in the place of these rows'.

    Every sum that has an addend is >= 1, so the bound, here and for the rows, acts only where nothing takes part.
    """
    return sums if pair.mask is None else sums._replace(columns=columns.clamp(min=1))


def anchor_weights(pair: Pair) -> Tensor:
    """``1 / (2 n)`` for each vector ``(n,)``, times ln 2, which turns powers and logarithms of two into those of e."""
    n = pair.teacher.shape[0]
    if pair.mask is None:
        return pair.teacher.new_full((n,), 0.5 * _LN_2 / n)
    return pair.mask * (0.5 * _LN_2 / pair.mask.sum().clamp_(min=1))


def loss_of_rows(pair: Pair, sums: Sums, weights: Tensor) -> Tensor:
    """The addends of the loss that belong to the rows."""
    return torch.dot(sums.rows.log2().sub_(sums.positives, alpha=2), _part(weights, pair.own))


def loss_of_columns(sums: Sums, weights: Tensor) -> Tensor:
    """The addends of the loss that belong to the columns, all of them."""
    return torch.dot(sums.columns.log2(), weights)


def derivative(pair: Pair, sums: Sums, weights: Tensor) -> Tensor:
    """The derivative of the loss by the student's vectors, ``(m, d)`` laid out like them."""
    scale_rows, scale_columns = _part(weights, pair.own) / sums.rows, weights / sums.columns
    panels = _panels(pair)
    slope = torch.empty_like(pair.student) if len(panels) > 1 else None
    for index, rows in enumerate(panels):
        kept = index < len(sums.kept)
        exponentials = sums.kept[index] if kept else torch.mm(_part(pair.student, rows), pair.teacher.T).exp2_()
        by_similarity = exponentials.mul_(_part(scale_rows, rows).unsqueeze(1) + scale_columns)
        _subtract_positives(by_similarity, _in_matrix(pair, rows), pair.labels, weights)
        product = _matmul_like(by_similarity, pair.teacher)
        if slope is None:
            return product
        # Small results that outlive a panel would lie between the panels and keep the allocator from reusing their memory.
        slope[rows] = product
    assert slope is not None
    return slope


def _panels(pair: Pair) -> list[slice]:
    """Runs of rows of ``pair.student``."""
    m, n = pair.student.shape[0], pair.teacher.shape[0]
    rows = min(m, max(MIN_PANEL_ROWS, PANEL_BYTES // (n * pair.teacher.element_size())))
    return [slice(start, min(start + rows, m)) for start in range(0, m, rows)] if m > 0 else [slice(0, 0)]


def _in_matrix(pair: Pair, rows: slice) -> slice:
    return slice(pair.first + rows.start, pair.first + rows.stop)


def _part(values: Tensor, rows: slice) -> Tensor:
    """``values[rows]``, without the cost of a view where that is all of it: small problems are bound by such costs."""
    return values if rows.stop - rows.start == values.shape[0] else values[rows]


def _positive_weights(rows: slice, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """``w_ab = 1[l_a == l_b] / #{b: l_b == l_a}`` for a panel of rows; symmetric, as equal labels have equal counts."""
    same = (labels[rows, None] == labels).to(dtype)
    return same.div_(same.sum(1, keepdim=True))


def _positive_similarity(similarity: Tensor, rows: slice, labels: Tensor | None) -> Tensor:
    if labels is None:
        return similarity.diagonal(rows.start).clone()
    return (_positive_weights(rows, labels, similarity.dtype) * similarity).sum(1)


def _subtract_positives(by_similarity: Tensor, rows: slice, labels: Tensor | None, weights: Tensor) -> None:
    if labels is None:
        by_similarity.diagonal(rows.start).sub_(_part(weights, rows), alpha=2)
    else:
        by_similarity.addcmul_(_positive_weights(rows, labels, by_similarity.dtype), weights[rows, None], value=-2)


def _matmul_like(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right``, written in the memory layout of ``right``, so that no later pass has to transpose it."""
    return torch.mm(left, right) if right.is_contiguous() else torch.mm(right.T, left.T).T


def _join(panels: list[Tensor]) -> Tensor:
    return panels[0] if len(panels) == 1 else torch.cat(panels)
