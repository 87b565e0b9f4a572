"""Bounds on every result of a batch that any sound computation in a given dtype satisfies.

They come from interval arithmetic in float64 over the formulas of docs/loss.md and their gradients. Each step is widened by
its worst rounding in the dtype: ``operations * unit_roundoff * magnitude`` (Higham's forward error, first order), and by the
smallest normal number for underflow. The width of a bound thus says how far rounding in the dtype can move the result for
these logits: narrow where the batch is well conditioned, wide where it is not. No constant is fitted to observed results.

Entries that are equal in the batch are equal in any computation, so their differences are exactly 0. Otherwise large equal
logits would have no bound.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

INF = torch.inf


class Interval(NamedTuple):
    """Entrywise bounds, float64."""

    low: Tensor
    high: Tensor

    @property
    def magnitude(self) -> Tensor:
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def mT(self) -> "Interval":  # noqa: N802, as torch.Tensor calls it
        return Interval(self.low.mT, self.high.mT)

    def scaled(self, factor: float) -> "Interval":
        bounds = (self.low * factor, self.high * factor)
        return Interval(*bounds) if factor >= 0 else Interval(*bounds[::-1])


class Rounding(NamedTuple):
    """How a computation rounds: unit roundoff and smallest normal number of its dtype, and the most roundings of a step."""

    unit: float
    smallest: float
    operations: int
    operand_unit: float

    @classmethod
    def of(cls, dtype: torch.dtype, samples: int, classes: int, operand_unit: float = 0.0) -> "Rounding":
        """A sum of ``n`` numbers takes ``n`` roundings; 32 more allow for scalings and library functions.

        ``operand_unit`` is the roundoff of operands of matrix products, where they are narrower than ``dtype``.
        """
        limits = torch.finfo(dtype)
        return cls(limits.eps / 2, limits.tiny, 2 * (samples + classes) + 32, operand_unit)

    def widened(self, bounds: Interval, magnitude: Tensor | float | None = None) -> Interval:
        """Bounds after a step whose operands have this magnitude, by default that of its result."""
        size = bounds.magnitude if magnitude is None else torch.as_tensor(magnitude, dtype=torch.float64)
        slack = self.operations * (self.unit * size + self.smallest)
        return _moved(bounds, slack, slack)

    def logarithms(self, bounds: Interval) -> Interval:
        """Bounds after a step that rounds a logarithm a few times, and the sum inside it often."""
        return _moved(bounds, *(self.unit * (self.operations + 8 * bound.abs()) for bound in bounds))

    def exponential(self, logarithms: Interval) -> Interval:
        """``exp`` of logarithms after such rounding."""
        low, high = (bound.exp() for bound in self.logarithms(logarithms))
        underflow = self.operations * self.smallest
        return Interval((low - underflow).clamp(min=0), high + underflow)

    def operands(self, bounds: Interval, largest: float = 1.0) -> Interval:
        """Bounds after rounding to the dtype of operands, whose smallest numbers are ``2^-27`` times the largest."""
        slack = self.operand_unit * (bounds.magnitude + 2.0**-27 * largest)
        return _moved(bounds, slack, slack)


def _moved(bounds: Interval, down: Tensor, up: Tensor) -> Interval:
    # An infinity is exact and does not move.
    low, high = bounds.low - down, bounds.high + up
    return Interval(torch.where(bounds.low.isinf(), bounds.low, low), torch.where(bounds.high.isinf(), bounds.high, high))


class Enclosure(NamedTuple):
    """Bounds of the loss, of each unweighted term by name, and of the gradient ``(B, C)``."""

    loss: Interval
    terms: dict[str, Interval]
    gradient: Interval


def enclose(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None,
    rounding: Rounding,
    weights: Mapping[str, float],
    *,
    temperature: float,
    contrast_temperature: float,
    kd_temperature: float,
    ignore_index: int,
) -> Enclosure:
    """Bounds for float64 logits ``(B, C)`` with a valid row, where no valid row holds NaN or +inf, or lacks a class.

    ``weights`` holds the effective weight of each term that is computed: ce, kd, class_wise, sample_wise.
    """
    rows = torch.ones(len(student), dtype=torch.bool) if target is None else target != ignore_index
    x, y, labels = student[rows], teacher[rows], None if target is None else target[rows].long()
    present = (x != -INF).any(0) & (y != -INF).any(0)
    parts: dict[str, tuple[Interval, Interval]] = {}
    if "ce" in weights and labels is not None:
        parts["ce"] = _cross_entropy(x, labels, rounding)
    x, y = x[:, present], y[:, present]
    t, k = temperature, contrast_temperature
    if "kd" in weights:
        parts["kd"] = _spread(_distillation(x, y, kd_temperature, rounding), present)
    if "class_wise" in weights:
        parts["class_wise"] = _spread(_class_wise(x, y, t, k, rounding), present)
    if "sample_wise" in weights:
        parts["sample_wise"] = _spread(_sample_wise(x, y, labels, t, k, rounding), present)
    weighted = [(name, weight) for name, weight in weights.items() if weight != 0]
    loss = _sum([parts[name][0].scaled(weight) for name, weight in weighted], student.new_zeros(()), rounding)
    zeros = student.new_zeros(len(x), student.shape[1])
    valid = _sum([parts[name][1].scaled(weight) for name, weight in weighted], zeros, rounding)
    gradient = Interval(*(torch.zeros_like(student).masked_scatter(rows[:, None], bound) for bound in valid))
    return Enclosure(loss, {name: term for name, (term, _) in parts.items()}, gradient)


def _spread(part: tuple[Interval, Interval], present: Tensor) -> tuple[Interval, Interval]:
    """A term, and its gradient with zeros for the classes that are not present."""
    term, gradient = part
    wide = (bound.new_zeros(len(bound), len(present)).masked_scatter(present, bound) for bound in gradient)
    return term, Interval(*wide)


def _sum(addends: list[Interval], zero: Tensor, rounding: Rounding) -> Interval:
    if not addends:
        return Interval(zero, zero)
    low, high, size = (torch.stack(bounds).sum(0) for bounds in zip(*((*a, a.magnitude) for a in addends), strict=True))
    return rounding.widened(Interval(low, high), size)


def _ties(vectors: Tensor) -> Tensor:
    """``(m, n, n)``: which entries of each of ``m`` vectors are equal."""
    return vectors[:, :, None] == vectors[:, None, :]


def _equal_rows(matrix: Tensor) -> Tensor:
    """``(n, n)``: which rows are equal."""
    return (matrix[:, None] == matrix[None]).all(-1)


def _differences(bounds: Interval, ties: Tensor) -> Interval:
    """``[m, i, j]``: entry ``j`` minus entry ``i`` of vector ``m``. An entry of -inf is infinitely below all others."""
    low = bounds.low[:, None, :] - bounds.high[:, :, None]
    high = bounds.high[:, None, :] - bounds.low[:, :, None]
    gone = (bounds.high == -INF)[:, None, :] & ~(bounds.high == -INF)[:, :, None]
    return Interval(*(bound.masked_fill(gone, -INF).masked_fill(ties, 0.0) for bound in (low, high)))


def _minus_log_sum(differences: Interval, factor: float = 1.0) -> Interval:
    """``-1/factor log sum_j exp(factor * difference_ij)``: logarithms of entries scaled to ``factor``-norm 1."""
    return Interval(*(-torch.logsumexp(factor * bound, 2) / factor for bound in differences[::-1]))


def _log_softmax(logits: Tensor, temperature: float, rounding: Rounding) -> Interval:
    scaled = logits / temperature
    # A logit is divided by a rounded temperature, and the largest of its row is subtracted: 4 roundings.
    error = torch.where(scaled.isinf(), 0.0, 4 * rounding.unit * scaled.abs())
    bounds = _minus_log_sum(_differences(Interval(scaled - error, scaled + error), _ties(logits)))
    bounds = rounding.logarithms(bounds)
    gone = logits == -INF
    return Interval(*(bound.clamp(max=0.0).masked_fill(gone, -INF) for bound in bounds))


def _units(logarithms: Interval, ties: Tensor, rounding: Rounding) -> Interval:
    """Vectors along the last dimension scaled to length 1."""
    units = rounding.operands(rounding.exponential(_minus_log_sum(_differences(logarithms, ties), 2.0)))
    gone = logarithms.high == -INF
    return Interval(*(bound.clamp(min=0).masked_fill(gone, 0.0) for bound in units))


def _product(signed: Interval, positive: Interval) -> Interval:
    """Entrywise product with nonnegative entries; 0 times infinity is 0 here."""
    candidates = [(a * b).nan_to_num(nan=0.0, posinf=INF, neginf=-INF) for a in signed for b in positive]
    return Interval(torch.stack(candidates).amin(0), torch.stack(candidates).amax(0))


def _matmul(signed: Interval, positive: Interval, rounding: Rounding) -> Interval:
    """Matrix product with nonnegative entries."""
    low = signed.low.clamp(min=0) @ positive.low + signed.low.clamp(max=0) @ positive.high
    high = signed.high.clamp(min=0) @ positive.high + signed.high.clamp(max=0) @ positive.low
    return rounding.widened(Interval(low, high), signed.magnitude @ positive.high)


class Contrast(NamedTuple):
    """Symmetric InfoNCE, and its derivative with respect to the student's unit vectors ``(n, d)``."""

    loss: Interval
    slope: Interval


def _contrast(u: Interval, v: Interval, weights: Tensor, k: float, rounding: Rounding) -> Contrast:
    n = len(weights)
    similarity = _matmul(u, v.mT, rounding)
    # Only rounding makes a cosine exceed 1.
    largest = 1 + 4 * rounding.operations * (rounding.unit + rounding.operand_unit)
    scores = Interval(similarity.low.clamp(min=0) / k, similarity.high.clamp(max=largest) / k)
    self_only = torch.eye(n, dtype=torch.bool).expand(n, n, n)
    # [a, b] = log softmax of anchor a at b, over rows and over columns of the scores.
    along, across = (_minus_log_sum(_differences(side, self_only)) for side in (scores, scores.mT))
    size = 1 / k + math.log(n) + 1
    anchors = [0.5 * (weights * -(a + b)).sum(1).mean() for a, b in zip(along[::-1], across[::-1], strict=True)]
    loss = rounding.widened(Interval(*anchors), 2 * size)
    rows, columns = (_softmax(side, size, rounding) for side in (along, across))
    columns = columns.mT
    low, high = (((row + column) - 2 * weights) / (2 * n * k) for row, column in zip(rows, columns, strict=True))
    derivative = rounding.widened(Interval(low, high), (rows.high + columns.high + 2 * weights) / (2 * n * k))
    return Contrast(loss, _matmul(rounding.operands(derivative, 1 / (n * k)), v, rounding))


def _softmax(logarithms: Interval, largest: float, rounding: Rounding) -> Interval:
    """Softmax of scores up to ``largest``: rounding errors of a score are relative to it, not to differences of scores."""
    lost = rounding.operations * rounding.unit * largest
    return rounding.exponential(Interval(logarithms.low - lost, logarithms.high + lost))


def _through_length(u: Interval, slope: Interval, rounding: Rounding) -> Interval:
    """``U (G - U sum U G)`` along the last dimension: P times the derivative with respect to P."""
    product = _product(slope, u)
    size = product.magnitude.sum(1, keepdim=True)
    inner = rounding.widened(Interval(*(bound.sum(1, keepdim=True) for bound in product)), size)
    correction = _product(Interval(*(bound.expand_as(u.low) for bound in inner)), u)
    difference = Interval(slope.low - correction.high, slope.high - correction.low)
    return rounding.widened(_product(difference, u), u.high * (slope.magnitude + correction.magnitude))


def _through_softmax(part: Interval, log_p: Interval, temperature: float, rounding: Rounding) -> Interval:
    """``(A - P sum A) / t`` along classes: the derivative with respect to the logits."""
    p = rounding.exponential(log_p)
    size = part.magnitude.sum(1, keepdim=True)
    total = rounding.widened(Interval(*(bound.sum(1, keepdim=True) for bound in part)), size)
    correction = _product(Interval(*(bound.expand_as(p.low) for bound in total)), p)
    gradient = Interval(part.low - correction.high, part.high - correction.low)
    return rounding.widened(gradient, part.magnitude + p.high * size).scaled(1 / temperature)


def _class_wise(x: Tensor, y: Tensor, t: float, k: float, rounding: Rounding) -> tuple[Interval, Interval]:
    p, q = (_log_softmax(z, t, rounding) for z in (x, y))
    u, v = (_units(side.mT, _equal_rows(z), rounding) for side, z in ((p, x), (q, y)))
    contrast = _contrast(u, v, torch.eye(len(u.low), dtype=torch.float64), k, rounding)
    return contrast.loss, _through_softmax(_through_length(u, contrast.slope, rounding).mT, p, t, rounding)


def _sample_wise(
    x: Tensor, y: Tensor, labels: Tensor | None, t: float, k: float, rounding: Rounding
) -> tuple[Interval, Interval]:
    p, q = (_log_softmax(z, t, rounding) for z in (x, y))
    u, v = (_units(side, _ties(z), rounding) for side, z in ((p, x), (q, y)))
    labels = torch.arange(len(x)) if labels is None else labels
    same = (labels[:, None] == labels).double()
    contrast = _contrast(u, v, same / same.sum(1, keepdim=True), k, rounding)
    return contrast.loss, _through_softmax(_through_length(u, contrast.slope, rounding), p, t, rounding)


def _cross_entropy(x: Tensor, labels: Tensor, rounding: Rounding) -> tuple[Interval, Interval]:
    logarithms = _log_softmax(x, 1.0, rounding)
    losses = [-bound.gather(1, labels[:, None]).mean() for bound in logarithms[::-1]]
    onehot = torch.zeros_like(x).scatter_(1, labels[:, None], 1.0)
    p = rounding.exponential(logarithms)
    gradient = rounding.widened(Interval(p.low - onehot, p.high - onehot), p.high + onehot)
    return rounding.widened(Interval(*losses)), gradient.scaled(1 / len(x))


def _distillation(x: Tensor, y: Tensor, temperature: float, rounding: Rounding) -> tuple[Interval, Interval]:
    log_p, log_q = (_log_softmax(z, temperature, rounding) for z in (x, y))
    p, q = rounding.exponential(log_p), rounding.exponential(log_q)
    q = Interval(*(bound.masked_fill(y == -INF, 0.0) for bound in q))
    difference = Interval(*(
        (a - b).masked_fill(y == -INF, 0.0) for a, b in ((log_q.low, log_p.high), (log_q.high, log_p.low))))  # fmt: skip
    divergence = _product(difference, q)
    finite = [torch.where(bound.isinf(), 0.0, bound.abs()) for bound in (difference.low, difference.high)]
    size = (q.high * torch.maximum(*finite)).sum(1).mean()
    term = rounding.widened(Interval(*(bound.sum(1).mean() for bound in divergence)), size)
    gradient = rounding.widened(Interval(p.low - q.high, p.high - q.low), p.high + q.high)
    return term.scaled(temperature**2), gradient.scaled(temperature / len(x))
