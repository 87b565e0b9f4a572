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

    def excludes(self, actual: Tensor) -> Tensor:
        """Which entries are outside their bounds, rounded to the dtype of the entries: rounding is monotonic.

        Bounds of NaN exclude nothing: there, no number can be expected.
        """
        low, high = (bound.reshape(actual.shape).to(actual.dtype) for bound in self)
        return ~((low <= actual) & (actual <= high)) & ~(low.isnan() | high.isnan())

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


class Options(NamedTuple):
    """The options of a call that change its terms, named as those of ``bilateral_loss`` and ``bickd_loss``."""

    temperature: float = 2.0
    contrast_temperature: float = 0.2
    kd_temperature: float = 4.0
    ignore_index: int = -100
    positives: str | None = None
    label_smoothing: float = 0.0
    similarity: str = "cosine"


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
    options: Options,
) -> Enclosure:
    """Bounds for float64 logits ``(B, C)`` with a valid row, where no valid row holds NaN or +inf, or lacks a class.

    Targets are labels ``(B,)`` or class probabilities ``(B, C)``. ``weights`` holds the effective weight of each term that
    is computed: ce, kd, class_wise, sample_wise.
    """
    rows = valid_rows(student, target, options.ignore_index)
    x, y, target = student[rows], teacher[rows], None if target is None else target[rows]
    present = (x != -INF).any(0) & (y != -INF).any(0)
    parts: dict[str, tuple[Interval, Interval]] = {}
    if "ce" in weights and target is not None:
        parts["ce"] = _cross_entropy(x, _expected(target, present, options.label_smoothing), rounding)
    x, y = x[:, present], y[:, present]
    if "kd" in weights:
        parts["kd"] = _spread(_distillation(x, y, options.kd_temperature, rounding), present)
    if "class_wise" in weights:
        parts["class_wise"] = _spread(_class_wise(x, y, options, rounding), present)
    if "sample_wise" in weights:
        by_label = target is not None and not target.is_floating_point() and options.positives != "sample"
        parts["sample_wise"] = _spread(_sample_wise(x, y, target if by_label else None, options, rounding), present)
    weighted = [(name, weight) for name, weight in weights.items() if weight != 0]
    loss = _sum([parts[name][0].scaled(weight) for name, weight in weighted], student.new_zeros(()), rounding)
    zeros = student.new_zeros(len(x), student.shape[1])
    valid = _sum([parts[name][1].scaled(weight) for name, weight in weighted], zeros, rounding)
    gradient = Interval(*(torch.zeros_like(student).masked_scatter(rows[:, None], bound) for bound in valid))
    return Enclosure(loss, {name: term for name, (term, _) in parts.items()}, gradient)


def valid_rows(logits: Tensor, target: Tensor | None, ignore_index: int) -> Tensor:
    """Which rows of the batch are not ignored."""
    if target is None:
        return torch.ones(len(logits), dtype=torch.bool)
    # In its own dtype, which may be narrow, ``ignore_index`` could wrap to a class.
    return (target != 0).any(1) if target.is_floating_point() else target.long() != ignore_index


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


class Vectors(NamedTuple):
    """Vectors along the last dimension."""

    units: Interval
    """Scaled to length 1, for correlations after centring."""
    scaled: Interval
    """Before centring, divided by the same length."""


def _vectors(logarithms: Interval, ties: Tensor, similarity: str, rounding: Rounding) -> Vectors:
    differences = _differences(logarithms, ties)
    if similarity == "correlation":
        return _centred(differences, ties, rounding)
    units = rounding.operands(rounding.exponential(_minus_log_sum(differences, 2.0)))
    gone = logarithms.high == -INF
    units = Interval(*(bound.clamp(min=0).masked_fill(gone, 0.0) for bound in units))
    return Vectors(units, units)


def _centred(differences: Interval, ties: Tensor, rounding: Rounding) -> Vectors:
    """Centred vectors scaled to length 1, and the vectors divided by the same length."""
    # Entries divided by the largest one: the least of the quotients by all entries.
    logarithms = Interval(*(bound.amin(1) for bound in differences))
    entries = rounding.exponential(logarithms)
    entries = Interval(entries.low, entries.high.masked_fill(logarithms.high == -INF, 0.0))
    n = entries.low.shape[1]
    others = 1 - torch.eye(n, dtype=torch.float64)
    # entry - mean = ((n - 1) entry - sum of the others) / n, so that an entry's own width counts once.
    low, high = (((n - 1) * a - b @ others) / n for a, b in (entries, entries[::-1]))
    centred = rounding.widened(Interval(low, high), entries.high + entries.high.mean(1, keepdim=True))
    least, most = _squares(centred)
    # c / sqrt(c^2 + squares of the others) grows with c.
    low = _quotient(centred.low, torch.where(centred.low < 0, least @ others, most @ others))
    high = _quotient(centred.high, torch.where(centred.high < 0, most @ others, least @ others))
    units = rounding.operands(rounding.widened(Interval(low, high)))
    longest, shortest = (squares.sum(1, keepdim=True).sqrt() for squares in (most, least))
    scaled = rounding.widened(Interval(entries.low / longest, torch.where(entries.high == 0, 0.0, entries.high / shortest)))
    # A constant vector has no direction.
    constant = ties.flatten(-2).all(-1, keepdim=True)
    units, scaled = (Interval(*(bound.masked_fill(constant, 0.0) for bound in side)) for side in (units, scaled))
    return Vectors(units, Interval(scaled.low.clamp(min=0), scaled.high))


def _squares(bounds: Interval) -> Interval:
    low, high = (bound.square() for bound in bounds)
    crosses = (bounds.low < 0) & (bounds.high > 0)
    return Interval(torch.minimum(low, high).masked_fill(crosses, 0.0), torch.maximum(low, high))


def _quotient(entry: Tensor, squares_of_others: Tensor) -> Tensor:
    """``entry / sqrt(entry^2 + squares_of_others)``; 0 where the entry is 0."""
    return torch.where(entry == 0, 0.0, entry / (entry.square() + squares_of_others).sqrt())


def _product(left: Interval, right: Interval) -> Interval:
    """Entrywise product; 0 times infinity is 0 here."""
    candidates = torch.stack([(a * b).nan_to_num(nan=0.0, posinf=INF, neginf=-INF) for a in left for b in right])
    return Interval(candidates.amin(0), candidates.amax(0))


def _matmul(left: Interval, right: Interval, rounding: Rounding) -> Interval:
    """Matrix product."""
    rows, columns = (bound[:, :, None] for bound in left), (bound[None] for bound in right)
    products = _product(Interval(*rows), Interval(*columns))
    return rounding.widened(Interval(*(bound.sum(1) for bound in products)), left.magnitude @ right.magnitude)


class Contrast(NamedTuple):
    """Symmetric InfoNCE, and its derivative with respect to the student's unit vectors ``(n, d)``."""

    loss: Interval
    slope: Interval


def _contrast(u: Interval, z: Interval, weights: Tensor, options: Options, rounding: Rounding) -> Contrast:
    """The contrast of student ``u`` and teacher ``z``, ``(n, d)``."""
    n, k = len(weights), options.contrast_temperature
    similarity = _matmul(u, z.mT, rounding)
    # Only rounding makes a similarity exceed 1.
    largest = 1 + 4 * rounding.operations * (rounding.unit + rounding.operand_unit)
    smallest = -largest if options.similarity == "correlation" else 0.0
    scores = Interval(similarity.low.clamp(min=smallest) / k, similarity.high.clamp(max=largest) / k)
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
    return Contrast(loss, _matmul(rounding.operands(derivative, 1 / (n * k)), z, rounding))


def _softmax(logarithms: Interval, largest: float, rounding: Rounding) -> Interval:
    """Softmax of scores up to ``largest``: rounding errors of a score are relative to it, not to differences of scores."""
    lost = rounding.operations * rounding.unit * largest
    return rounding.exponential(Interval(logarithms.low - lost, logarithms.high + lost))


def _through_length(vectors: Vectors, slope: Interval, rounding: Rounding) -> Interval:
    """``V (G - U sum U G)`` along the last dimension, U the units, V scaled: P times the derivative with respect to P.

    For correlations a computation may also subtract the mean of what is in parentheses, which is 0 except for rounding.
    """
    u, v = vectors
    product = _product(slope, u)
    size = product.magnitude.sum(1, keepdim=True)
    inner = rounding.widened(Interval(*(bound.sum(1, keepdim=True) for bound in product)), size)
    correction = _product(Interval(*(bound.expand_as(u.low) for bound in inner)), u)
    difference = Interval(slope.low - correction.high, slope.high - correction.low)
    size = slope.magnitude + correction.magnitude
    if v is not u:
        size = size + size.mean(1, keepdim=True)
    return rounding.widened(_product(difference, v), v.high * size)


def _through_softmax(part: Interval, log_p: Interval, temperature: float, rounding: Rounding) -> Interval:
    """``(A - P sum A) / t`` along classes: the derivative with respect to the logits."""
    p = rounding.exponential(log_p)
    size = part.magnitude.sum(1, keepdim=True)
    total = rounding.widened(Interval(*(bound.sum(1, keepdim=True) for bound in part)), size)
    correction = _product(Interval(*(bound.expand_as(p.low) for bound in total)), p)
    gradient = Interval(part.low - correction.high, part.high - correction.low)
    return rounding.widened(gradient, part.magnitude + p.high * size).scaled(1 / temperature)


def _class_wise(x: Tensor, y: Tensor, options: Options, rounding: Rounding) -> tuple[Interval, Interval]:
    t, similarity = options.temperature, options.similarity
    p, q = (_log_softmax(logits, t, rounding) for logits in (x, y))
    u, z = (_vectors(side.mT, _equal_rows(logits), similarity, rounding) for side, logits in ((p, x), (q, y)))
    contrast = _contrast(u.units, z.units, torch.eye(len(u.units.low), dtype=torch.float64), options, rounding)
    return contrast.loss, _through_softmax(_through_length(u, contrast.slope, rounding).mT, p, t, rounding)


def _sample_wise(
    x: Tensor, y: Tensor, labels: Tensor | None, options: Options, rounding: Rounding
) -> tuple[Interval, Interval]:
    t, similarity = options.temperature, options.similarity
    p, q = (_log_softmax(logits, t, rounding) for logits in (x, y))
    u, z = (_vectors(side, _ties(logits), similarity, rounding) for side, logits in ((p, x), (q, y)))
    labels = torch.arange(len(x)) if labels is None else labels
    same = (labels[:, None] == labels).double()
    contrast = _contrast(u.units, z.units, same / same.sum(1, keepdim=True), options, rounding)
    return contrast.loss, _through_softmax(_through_length(u, contrast.slope, rounding), p, t, rounding)


def _expected(target: Tensor, present: Tensor, smoothing: float) -> Tensor:
    """The distributions that the cross-entropy is taken with, ``(B, C)``."""
    expected = target if target.is_floating_point() else torch.nn.functional.one_hot(target.long(), len(present))
    return (1 - smoothing) * expected.double() + smoothing * present.double() / present.sum()


def _cross_entropy(x: Tensor, expected: Tensor, rounding: Rounding) -> tuple[Interval, Interval]:
    logarithms = _log_softmax(x, 1.0, rounding)
    # A class of probability 0 adds 0, whatever its logarithm.
    losses = [torch.where(expected == 0, 0.0, -expected * bound).sum(1).mean() for bound in logarithms[::-1]]
    total = expected.sum(1, keepdim=True)
    p = rounding.exponential(logarithms)
    gradient = rounding.widened(Interval(p.low * total - expected, p.high * total - expected), p.high * total + expected)
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
