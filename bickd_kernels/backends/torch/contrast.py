"""Symmetric InfoNCE between unit vectors, and its derivative, panel by panel.

    L = U_student @ U_teacher.T / k,   E = exp(L),   rs = E.sum(1),   cs = E.sum(0)
    loss = mean_i  1/2 (log rs_i + log cs_i) - sum_j w_ij L_ij
    W = E_ij (1/rs_i + 1/cs_j) / (2 n) - w_ij / n,   G = W @ U_teacher / k = d loss / d U_student

``L`` is computed in panels of whole rows. Panels within ``SIMILARITY_BUDGET_BYTES`` are kept from the sums to the gradient;
the others are computed twice, so that nothing larger than the budget is ever held. Exponentials are powers of two:
``log2(e)`` is folded into the scale of the product. No maximum is subtracted, because similarities lie in [-1, 1] and
``k >= 0.02``: ``exp(-50) <= E <= exp(50)``.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.backends.torch.blocks import blocks_of, part, runs
from bickd_kernels.backends.torch.vectors import LOG2_E

SIMILARITY_BUDGET_BYTES = 64 * 2**20
"""The largest part of a similarity matrix that is kept between its sums and the gradient."""

PANEL_BYTES = 16 * 2**20
"""The size of one panel of a similarity matrix: large enough for an efficient GEMM, small enough for a shared cache."""

MIN_PANEL_ROWS = 64
"""Panels of very wide matrices get more rows than ``PANEL_BYTES`` allows: thinner products are slow."""

_LN_2 = math.log(2.0)


class Pair(NamedTuple):
    """What is contrasted."""

    student: Tensor
    """``(n, d)``, row- or column-major; a vector that ``mask`` hides is zero."""
    teacher: Tensor
    """``(n, d)``, laid out like ``student``, times ``log2(e) / k``."""
    mask: Tensor | None
    """``(n,)``, 1 for a vector that takes part, 0 for one that is neither anchor nor negative; None: all take part."""
    labels: Tensor | None
    """``(n,)``, equal for vectors that are positives of each other; None: each is its own positive."""


class Sums(NamedTuple):
    """Sums over the matrix or some of its rows, and the exponentials kept for the derivative."""

    rows: Tensor
    """``(m,)``: ``rs``"""
    columns: Tensor
    """``(n,)``: ``cs``, over these rows only"""
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
    """The loss, a scalar, and its derivative with respect to the student's vectors, ``(n, d)`` in their layout, or None.

    The arguments are those of ``Pair``, except that the teacher's vectors have length 1 and are scaled in place.
    """
    pair = Pair(student, teacher.mul_(LOG2_E / contrast_temperature), mask, labels)
    sums = sum_exponentials(pair, keep=needs_gradient)
    weights = anchor_weights(len(teacher), mask, teacher)
    loss = loss_of(sums, weights)
    return loss, derivative(pair, sums, weights) if needs_gradient else None


def sum_exponentials(pair: Pair, *, keep: bool) -> Sums:
    """The sums; with ``keep`` the panels within the budget are kept."""
    n, element_size = pair.teacher.shape[0], pair.teacher.element_size()
    panels = _panels(pair)
    most_kept = SIMILARITY_BUDGET_BYTES // max(panels[0].stop * n * element_size, 1) if keep else 0
    buffer = _buffer(pair, panels[most_kept:])
    kept: list[Tensor] = []
    row_sums, positives = [], []
    column_sums: Tensor | None = None
    for index, rows in enumerate(panels):
        similarity = _similarity(pair, rows, None if index < most_kept else buffer)
        sums = sums_of_panel(similarity, rows, pair.mask, pair.labels)
        row_sums.append(sums.rows)
        positives.append(sums.positives)
        column_sums = sums.columns if column_sums is None else column_sums.add_(sums.columns)
        if len(kept) < most_kept:
            kept.extend(sums.kept)
    assert column_sums is not None
    return Sums(_join(row_sums), bounded(column_sums, pair.mask), _join(positives), kept)


def sums_of_panel(similarity: Tensor, rows: slice, mask: Tensor | None, labels: Tensor | None) -> Sums:
    """The sums over rows of ``log2(e) L``; exponentials overwrite the rows and are all kept."""
    positives = _positive_similarity(similarity, rows, labels)
    exponentials = similarity.exp2_()
    if mask is None:
        return Sums(exponentials.sum(1), exponentials.sum(0), positives, [exponentials])
    return Sums(bounded(exponentials @ mask, mask), mask[rows] @ exponentials, positives, [exponentials])


def bounded(sums: Tensor, mask: Tensor | None) -> Tensor:
    """Sums of exponentials, clamped in place so that the sum of a vector that does not take part is positive."""
    return sums if mask is None else sums.clamp_(min=torch.finfo(sums.dtype).tiny)


def anchor_weights(n: int, mask: Tensor | None, like: Tensor) -> Tensor:
    """``1 / (2 n)`` for each vector ``(n,)``, times ln 2, which converts powers and logarithms from base 2 to base e."""
    if mask is None:
        return like.new_full((n,), 0.5 * _LN_2 / n)
    return mask * (0.5 * _LN_2 / mask.sum().clamp_(min=1))


def loss_of(sums: Sums, weights: Tensor) -> Tensor:
    """The loss of the whole matrix."""
    return torch.dot(sums.rows.log2().sub_(sums.positives, alpha=2), weights) + torch.dot(sums.columns.log2(), weights)


def derivative(pair: Pair, sums: Sums, weights: Tensor) -> Tensor:
    """The derivative of the loss with respect to the student's vectors, ``(n, d)`` in their layout."""
    row_scale, column_scale = weights / sums.rows, weights / sums.columns
    panels = _panels(pair)
    buffer = _buffer(pair, panels[len(sums.kept) :])
    slope = torch.empty_like(pair.student) if len(panels) > 1 else None
    for index, rows in enumerate(panels):
        kept = index < len(sums.kept)
        exponentials = sums.kept[index] if kept else _similarity(pair, rows, buffer).exp2_()
        slope_of_panel = by_similarity(exponentials, part(row_scale, rows), column_scale, rows, pair.labels, weights)
        product = _matmul_like(slope_of_panel, pair.teacher)
        if slope is None:
            return product
        # Small results that outlive a panel would fragment memory, and the allocator could not reuse a panel's block.
        slope[rows] = product
    assert slope is not None
    return slope


def by_similarity(
    exponentials: Tensor, row_scale: Tensor, column_scale: Tensor, rows: slice, labels: Tensor | None, weights: Tensor
) -> Tensor:
    """``W`` for some rows of the matrix, overwriting their exponentials; a scale is a weight divided by a sum."""
    for block in blocks_of(exponentials):
        part(exponentials, block).mul_(part(row_scale, block).unsqueeze(1) + column_scale)
    slope = exponentials
    if labels is None:
        slope.diagonal(rows.start).sub_(part(weights, rows), alpha=2)
    else:
        slope.addcmul_(_positive_weights(rows, labels, slope.dtype), weights[rows, None], value=-2)
    return slope


def _panels(pair: Pair) -> list[slice]:
    """Runs of rows of ``pair.student``."""
    m, n = pair.student.shape[0], pair.teacher.shape[0]
    return runs(m, max(MIN_PANEL_ROWS, PANEL_BYTES // (n * pair.teacher.element_size())))


def _buffer(pair: Pair, panels: list[slice]) -> Tensor | None:
    """One buffer that all these panels share: allocating fresh pages would cost as much as the product."""
    if len(panels) < 2:
        return None
    return pair.teacher.new_empty(panels[0].stop - panels[0].start, pair.teacher.shape[0])


def _similarity(pair: Pair, rows: slice, buffer: Tensor | None) -> Tensor:
    """``log2(e) L`` for a panel, in the buffer if there is one."""
    out = None if buffer is None else buffer[: rows.stop - rows.start]
    return torch.mm(part(pair.student, rows), pair.teacher.T, out=out)


def _positive_weights(rows: slice, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """``w_ab = 1[l_a == l_b] / #{b: l_b == l_a}`` for a panel of rows; symmetric, as equal labels have equal counts."""
    same = (labels[rows, None] == labels).to(dtype)
    return same.div_(same.sum(1, keepdim=True))


def _positive_similarity(similarity: Tensor, rows: slice, labels: Tensor | None) -> Tensor:
    if labels is None:
        return similarity.diagonal(rows.start).clone()
    return (_positive_weights(rows, labels, similarity.dtype) * similarity).sum(1)


def _matmul_like(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` in the memory layout of ``right``, so that no later pass has to transpose it."""
    return torch.mm(left, right) if right.is_contiguous() else torch.mm(right.T, left.T).T


def _join(panels: list[Tensor]) -> Tensor:
    return panels[0] if len(panels) == 1 else torch.cat(panels)
