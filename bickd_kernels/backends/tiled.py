"""The losses and their analytic gradient in PyTorch operations, tile by tile, on any device.

Both sides of the bilateral loss are one computation, ``contrast``: student unit vectors against teacher unit vectors,
where the vectors are the columns (classes) or the rows (samples) of P and Q:

    L = U_student @ U_teacher.T / k,   E = exp(L),   rs = E.sum(1),   cs = E.sum(0)
    loss = mean_i  1/2 (log rs_i + log cs_i) - sum_j w_ij L_ij
    W = E_ij (1/rs_i + 1/cs_j) / (2 n) - w_ij / n,   G = W @ U_teacher / k = d loss / d U_student

``L`` is formed in panels of whole rows. Panels within ``SIMILARITY_BUDGET_BYTES`` are kept from the sums to the
gradient and the others are formed twice, so that nothing larger than the budget is ever held. Exponentials are powers of
two, the faster ones on a CPU: ``log2(e)`` goes into the scale of the product. No maximum is subtracted, because
similarities lie in [0, 1] and ``k >= 0.02``: ``1 <= E <= exp(50)``.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import Batch, Result, compute_dtype

SIMILARITY_BUDGET_BYTES = 64 * 2**20
"""The most that is kept of a similarity matrix between its sums and the gradient."""

PANEL_BYTES = 8 * 2**20
"""The size of one panel of a similarity matrix: large enough for an efficient product, small enough for the cache."""

MIN_PANEL_ROWS = 64
"""Panels of very wide matrices get more rows than ``PANEL_BYTES`` allows: thinner products are slow."""

_LOG2_E = math.log2(math.e)
_LN_2 = math.log(2.0)


class Selection(NamedTuple):
    """Which rows and classes belong to the batch: 1 or 0 in the compute dtype, or None where all do."""

    rows: Tensor | None
    classes: Tensor | None


def forward(batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
    """Loss and terms, and the gradient already: it is what ``backward`` scales."""
    dtype = compute_dtype(batch.student, batch.teacher)
    logits = torch.stack((batch.student, batch.teacher)).to(dtype)
    valid = None if batch.target is None else _unless_all(batch.target != settings.ignore_index)
    if valid is not None:
        logits.masked_fill_(~valid[:, None], 0.0)
    ce = kd = class_wise = sample_wise = gradient = None

    if settings.ce_weight is not None and batch.target is not None:
        ce, part = _cross_entropy(logits[0], batch.target, valid, needs_gradient)
        gradient = _accumulate(gradient, part, settings.ce_weight)
    present = _classes_of_the_batch(logits, valid)
    if present is not None:
        logits.masked_fill_(~present, -torch.inf)
    selection = Selection(*(None if mask is None else mask.to(dtype) for mask in (valid, present)))
    if settings.kd_weight is not None:
        kd, part = _distillation(logits, settings.kd_temperature, selection.rows, needs_gradient)
        gradient = _accumulate(gradient, part, settings.kd_weight)
    if settings.class_weight is not None or settings.sample_weight is not None:
        class_wise, sample_wise, part = _bilateral(logits, batch.target, selection, settings, needs_gradient)
        gradient = _accumulate(gradient, part, 1.0)
    if needs_gradient and gradient is None:
        gradient = torch.zeros_like(logits[0])
    loss = _weighted_sum(settings, ce, kd, class_wise, sample_wise)
    return Result(loss, ce, kd, class_wise, sample_wise, () if gradient is None else (gradient,))


def backward(saved: tuple[Tensor, ...], upstream: Tensor, settings: Settings, dtype: torch.dtype) -> Tensor:
    """The gradient of ``forward``, scaled.

    It was kept in the compute dtype, because the finished gradient of a mean over a large batch underflows in float16
    before a gradient scaler has had its turn.
    """
    (gradient,) = saved
    return (gradient * upstream).to(dtype)


def _weighted_sum(settings: Settings, *terms: Tensor | None) -> Tensor:
    """The loss; a term of weight 0 takes no part in it."""
    computed = settings.computed(*terms)
    weights = [weight for weight in settings.weights if weight is not None]
    addends = [(term, weight) for term, weight in zip(computed, weights, strict=True) if weight != 0]
    if not addends:
        return torch.zeros_like(computed[0])
    (term, weight), *others = addends
    loss = term * weight
    for term, weight in others:
        loss.add_(term, alpha=weight)
    return loss


def _unless_all(mask: Tensor) -> Tensor | None:
    """``mask``, or None if it is known to hide nothing, which spares the passes that would apply it."""
    return None if _on_host(mask) and bool(mask.all()) else mask


def _on_host(values: Tensor) -> bool:
    """Whether asking for a value needs no device synchronisation and breaks no graph."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def _classes_of_the_batch(logits: Tensor, valid: Tensor | None) -> Tensor | None:
    """Mask ``(C,)`` of the classes that neither student nor teacher gives -inf in every valid row; logits ``(2, B, C)``."""
    if _on_host(logits) and logits.min().item() > -torch.inf:
        return None
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None], -torch.inf)
    present = (logits.amax(1) != -torch.inf).all(0)
    if valid is not None:
        # Without a valid row no class is absent, so that the sums stay finite.
        present |= ~valid.any()
    return _unless_all(present)


def _accumulate(gradient: Tensor | None, part: Tensor | None, weight: float) -> Tensor | None:
    if part is None or weight == 0:
        return gradient
    if gradient is None:
        return part if weight == 1 else part.mul_(weight)
    return gradient.add_(part, alpha=weight)


def _row_mean(values: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Mean over the valid rows, and each row's weight in it ``(B, 1)`` (None: ``1 / B`` for all)."""
    if rows is None:
        return values.mean(), None
    weights = rows / rows.sum().clamp_(min=1)
    return torch.dot(values, weights), weights[:, None]


def _scale_rows(gradient: Tensor, weights: Tensor | None, factor: float) -> Tensor:
    """``gradient`` in place, times ``factor`` and the weight of each row in the mean."""
    if weights is None:
        return gradient.mul_(factor / gradient.shape[0])
    return gradient.mul_(weights * factor)


def _cross_entropy(
    logits: Tensor, target: Tensor, valid: Tensor | None, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """``mean_a -log softmax(x_a)[l_a]`` and its gradient ``(softmax(x_a) - onehot(l_a)) / B``."""
    log_probabilities = F.log_softmax(logits, 1)
    target = target if valid is None else target.masked_fill(~valid, 0)
    rows = None if valid is None else valid.to(logits.dtype)
    loss, weights = _row_mean(log_probabilities.gather(1, target[:, None]).squeeze(1).neg_(), rows)
    if not needs_gradient:
        return loss, None
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, target[:, None], gradient.new_full((1, 1), -1.0).expand(len(target), 1))
    return loss, _scale_rows(gradient, weights, 1.0)


def _distillation(
    logits: Tensor, temperature: float, rows: Tensor | None, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """``T^2 mean_a KL(softmax(y_a/T) || softmax(x_a/T))`` and its gradient ``T (softmax(x_a/T) - softmax(y_a/T)) / B``."""
    student, teacher = F.log_softmax(logits / temperature, 2)
    probabilities = teacher.exp()
    # A class of teacher probability 0 adds 0, also where the difference of logarithms is infinite or undefined.
    divergence = (probabilities * (teacher - student)).masked_fill_(probabilities == 0, 0.0).sum(1)
    loss, weights = _row_mean(divergence, rows)
    if not needs_gradient:
        return loss * temperature**2, None
    return loss * temperature**2, _scale_rows(student.exp_().sub_(probabilities), weights, temperature)


def _bilateral(
    logits: Tensor, target: Tensor | None, selection: Selection, settings: Settings, needs_gradient: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Class-wise and sample-wise contrast of logits ``(2, B, C)``, and the gradient of their weighted sum."""
    log_probabilities = F.log_softmax(logits / settings.temperature, 2)
    if selection.rows is not None:
        log_probabilities.masked_fill_((selection.rows == 0)[:, None], -torch.inf)
    largest = log_probabilities.amax(1, keepdim=True)
    something_left_out = selection.rows is not None or selection.classes is not None
    if something_left_out:
        largest.masked_fill_(_without_entry(selection), 0.0)
    # Relative to the largest of its column, a class of tiny mass keeps its direction: nothing underflows when squared.
    relative = log_probabilities.sub_(largest).mul_(_LOG2_E).exp2_()
    probabilities = relative * largest.exp_()

    class_wise = sample_wise = gradient = None
    k = settings.contrast_temperature
    if settings.class_weight is not None:
        units = _normalize(relative, 1, something_left_out)
        class_wise, slope = contrast(units[0].T, units[1].T, k, selection.classes, None, needs_gradient)
        if selection.rows is not None:
            # Classes of no sample are all alike, which costs log C; a batch without a valid row costs nothing.
            class_wise = class_wise * selection.rows.amax()
        if slope is not None:
            part = _project(units[0], slope.T, 0)
            part.addcmul_(probabilities[0], part.sum(1, keepdim=True), value=-1)
            gradient = _accumulate(gradient, part, settings.class_weight / settings.temperature)
    if settings.sample_weight is not None:
        units = _normalize(probabilities, 2, something_left_out)
        sample_wise, slope = contrast(units[0], units[1], k, selection.rows, target, needs_gradient)
        if slope is not None:
            part = _project(units[0], slope, 1)
            gradient = _accumulate(gradient, part, settings.sample_weight / settings.temperature)
    return class_wise, sample_wise, gradient


def _without_entry(selection: Selection) -> Tensor:
    """Mask, scalar or ``(C,)``, of the classes of no entry: left out, or of a batch without a valid row.

    A class of the batch whose logarithms are all -inf has left the range of the dtype: its loss is to become NaN.
    """
    rows, classes = selection
    no_row = None if rows is None else rows.amax() == 0
    if classes is None:
        assert no_row is not None
        return no_row
    return classes == 0 if no_row is None else (classes == 0) | no_row


def _normalize(vectors: Tensor, dim: int, some_vanish: bool) -> Tensor:
    """Vectors along ``dim`` scaled to length 1; a zero vector, which is no part of the batch, stays zero."""
    squares = (vectors * vectors).sum(dim, keepdim=True)
    if some_vanish:
        squares.clamp_(min=torch.finfo(vectors.dtype).tiny)
    return vectors * squares.rsqrt_()


def _project(units: Tensor, slope: Tensor, dim: int) -> Tensor:
    """``U (G - U h)`` with ``h = sum U G`` along ``dim``: P times the derivative by P, through the scaling to length 1."""
    product = units * slope
    return product.addcmul_(units, units * product.sum(dim, keepdim=True), value=-1)


def contrast(
    student: Tensor,
    teacher: Tensor,
    contrast_temperature: float,
    mask: Tensor | None,
    labels: Tensor | None,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Symmetric InfoNCE between unit vectors, and its derivative by the student's.

    Args:
        student: ``(n, d)``, row- or column-major; a vector that ``mask`` hides is zero.
        teacher: ``(n, d)``, laid out like ``student``.
        contrast_temperature: ``k``.
        mask: ``(n,)``, 1 for a vector that takes part and 0 for one that is neither anchor nor negative; None: all.
        labels: ``(n,)``, equal for vectors that are positives of each other; None: each is its own positive.
        needs_gradient: whether the derivative is wanted.

    Returns:
        The scalar loss, and the derivative ``(n, d)`` laid out like ``student``, or None.
    """
    teacher = teacher * (_LOG2_E / contrast_temperature)
    n = student.shape[0]
    panels = _panels(n, student.element_size())
    kept_panels = SIMILARITY_BUDGET_BYTES // (panels[0].stop * n * student.element_size()) if needs_gradient else 0
    kept: list[Tensor] = []
    row_sums, positives = [], []
    column_sums: Tensor | None = None
    for rows in panels:
        similarity = torch.mm(_rows(student, rows), teacher.T)
        positives.append(_positive_similarity(similarity, rows, labels))
        exponentials = similarity.exp2_()
        row_sums.append(exponentials.sum(1) if mask is None else exponentials @ mask)
        part = exponentials.sum(0) if mask is None else mask[rows] @ exponentials
        column_sums = part if column_sums is None else column_sums.add_(part)
        if len(kept) < kept_panels:
            kept.append(exponentials)

    assert column_sums is not None
    sums = torch.stack((_join(row_sums), column_sums))
    if mask is not None:
        # Every sum that has an addend is >= 1, so the bound acts only where nothing takes part.
        sums.clamp_(min=1)
    # 1 / (2 n), times ln 2, which turns the powers and logarithms of two into those of e.
    half = sums.new_full((n,), 0.5 * _LN_2 / n) if mask is None else mask * (0.5 * _LN_2 / mask.sum().clamp_(min=1))
    loss = torch.dot(sums.log2().sum(0).sub_(_join(positives), alpha=2), half)
    if not needs_gradient:
        return loss, None

    scale_rows, scale_columns = half / sums
    slope = torch.empty_like(student) if len(panels) > 1 else None
    for index, rows in enumerate(panels):
        exponentials = kept[index] if index < len(kept) else torch.mm(_rows(student, rows), teacher.T).exp2_()
        derivative = exponentials.mul_(_rows(scale_rows, rows).unsqueeze(1) + scale_columns)
        _subtract_positives(derivative, rows, labels, half)
        product = _matmul_like(derivative, teacher)
        if slope is None:
            return loss, product
        # Small results that outlive a panel would lie between the panels and keep the allocator from reusing their memory.
        slope[rows] = product
    return loss, slope


def _panels(n: int, element_size: int) -> list[slice]:
    rows = min(n, max(MIN_PANEL_ROWS, PANEL_BYTES // (n * element_size)))
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def _rows(matrix: Tensor, rows: slice) -> Tensor:
    """``matrix[rows]``, without the cost of a view where that is all of it: small problems are bound by such costs."""
    return matrix if rows.stop - rows.start == matrix.shape[0] else matrix[rows]


def _positive_weights(rows: slice, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """``w_ab = 1[l_a == l_b] / #{b: l_b == l_a}`` for a panel of rows; symmetric, as equal labels have equal counts."""
    same = (labels[rows, None] == labels).to(dtype)
    return same.div_(same.sum(1, keepdim=True))


def _positive_similarity(similarity: Tensor, rows: slice, labels: Tensor | None) -> Tensor:
    if labels is None:
        return similarity.diagonal(rows.start).clone()
    return (_positive_weights(rows, labels, similarity.dtype) * similarity).sum(1)


def _subtract_positives(derivative: Tensor, rows: slice, labels: Tensor | None, half: Tensor) -> None:
    if labels is None:
        derivative.diagonal(rows.start).sub_(_rows(half, rows), alpha=2)
    else:
        derivative.addcmul_(_positive_weights(rows, labels, derivative.dtype), half[rows, None], value=-2)


def _matmul_like(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right``, written in the memory layout of ``right``, so that no later pass has to transpose it."""
    return torch.mm(left, right) if right.is_contiguous() else torch.mm(right.T, left.T).T


def _join(panels: list[Tensor], dim: int = 0) -> Tensor:
    return panels[0] if len(panels) == 1 else torch.cat(panels, dim)
