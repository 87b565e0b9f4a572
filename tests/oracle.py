"""The definition of docs/loss.md in float64, written out in loops over samples and classes.

Nothing here is imported from the package. Ignored samples and classes that do not belong to the batch are dropped before
anything is computed. Vectors are scaled to length 1 from their logarithms, so that saturated logits have a result too.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Matrix = list[list[float]]


class Terms(NamedTuple):
    """The unweighted terms; ``ce`` is NaN without a target."""

    ce: float
    kd: float
    class_wise: float
    sample_wise: float


def logsumexp(values: Sequence[float]) -> float:
    largest = max(values)
    if largest == -math.inf:
        return -math.inf
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


def log_softmax(row: Sequence[float], temperature: float) -> list[float]:
    scaled = [value / temperature for value in row]
    normalizer = logsumexp(scaled)
    return [value - normalizer for value in scaled]


def unit_vector(logarithms: Sequence[float]) -> list[float]:
    """The vector with these logarithms, scaled to length 1; a common factor cancels, so the largest entry is set to 1."""
    largest = max(logarithms)
    entries = [math.exp(value - largest) for value in logarithms]
    length = math.sqrt(math.fsum(entry * entry for entry in entries))
    return [entry / length for entry in entries]


def centred_unit_vector(logarithms: Sequence[float]) -> list[float]:
    """Like ``unit_vector``, but centred first; a constant vector has no direction and becomes 0."""
    if min(logarithms) == max(logarithms):
        return [0.0] * len(logarithms)
    entries = [math.exp(value - max(logarithms)) for value in logarithms]
    mean = math.fsum(entries) / len(entries)
    length = math.sqrt(math.fsum((entry - mean) ** 2 for entry in entries))
    return [(entry - mean) / length for entry in entries]


VECTORS = {"cosine": unit_vector, "correlation": centred_unit_vector}


def dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def cross_entropy(x: Matrix, expected: Matrix) -> float:
    losses = []
    for row, probabilities in zip(x, expected, strict=True):
        normalizer = logsumexp(row)
        # A class of probability 0 adds 0, even if its logit is -inf.
        losses.append(math.fsum(p * (normalizer - value) for p, value in zip(probabilities, row, strict=True) if p > 0))
    return math.fsum(losses) / len(x)


def smoothed(expected: Matrix, smoothing: float, classes: Sequence[int]) -> Matrix:
    """Probabilities, of which the share ``smoothing`` is spread evenly over ``classes``."""
    return [
        [(1 - smoothing) * p + (smoothing / len(classes) if c in classes else 0.0) for c, p in enumerate(row)]
        for row in expected
    ]


def one_hot(labels: Sequence[int], classes: int) -> Matrix:
    return [[float(c == label) for c in range(classes)] for label in labels]


def distillation(x: Matrix, y: Matrix, temperature: float) -> float:
    divergences = []
    for student_row, teacher_row in zip(x, y, strict=True):
        log_p, log_q = log_softmax(student_row, temperature), log_softmax(teacher_row, temperature)
        # A class of teacher probability 0 adds the limit of q log q, which is 0.
        divergences.append(math.fsum(math.exp(q) * (q - p) for p, q in zip(log_p, log_q, strict=True) if math.exp(q) > 0))
    return temperature**2 * math.fsum(divergences) / len(x)


def class_wise_contrast(x: Matrix, y: Matrix, t: float, k: float, similarity: str) -> float:
    log_p, log_q = [log_softmax(row, t) for row in x], [log_softmax(row, t) for row in y]
    classes = range(len(x[0]))
    student = [VECTORS[similarity]([row[c] for row in log_p]) for c in classes]
    teacher = [VECTORS[similarity]([row[c] for row in log_q]) for c in classes]
    m = [[dot(student[i], teacher[j]) for j in classes] for i in classes]
    anchors = []
    for i in classes:
        row = logsumexp([m[i][j] / k for j in classes])
        column = logsumexp([m[j][i] / k for j in classes])
        anchors.append(0.5 * (row + column) - m[i][i] / k)
    return math.fsum(anchors) / len(classes)


def sample_wise_contrast(x: Matrix, y: Matrix, labels: Sequence[int] | None, t: float, k: float, similarity: str) -> float:
    student, teacher = ([VECTORS[similarity](log_softmax(row, t)) for row in logits] for logits in (x, y))
    samples = range(len(x))
    r = [[dot(student[a], teacher[b]) for b in samples] for a in samples]

    def positive(a: int, b: int) -> float:
        if labels is None:
            return float(a == b)
        if labels[a] != labels[b]:
            return 0.0
        return 1.0 / sum(1 for label in labels if label == labels[a])

    anchors = []
    for a in samples:
        row = logsumexp([r[a][b] / k for b in samples])
        column = logsumexp([r[b][a] / k for b in samples])
        pulled = math.fsum((positive(a, b) + positive(b, a)) * r[a][b] / k for b in samples)
        anchors.append(0.5 * (row + column - pulled))
    return math.fsum(anchors) / len(samples)


def terms(
    student: np.ndarray,
    teacher: np.ndarray,
    target: np.ndarray | None = None,
    *,
    temperature: float = 2.0,
    contrast_temperature: float = 0.2,
    kd_temperature: float = 4.0,
    ignore_index: int = -100,
    positives: str | None = None,
    label_smoothing: float = 0.0,
    similarity: str = "cosine",
) -> Terms:
    """The terms for logits ``(B, C)`` and labels ``(B,)`` or class probabilities ``(B, C)``."""
    x: Matrix = np.asarray(student, dtype=np.float64).tolist()
    y: Matrix = np.asarray(teacher, dtype=np.float64).tolist()
    labels: list[int] | None = None
    expected: Matrix | None = None
    if target is not None and np.issubdtype(target.dtype, np.floating):
        expected = np.asarray(target, dtype=np.float64).tolist()
        valid = [a for a, row in enumerate(expected) if any(row)]
        x, y, expected = [x[a] for a in valid], [y[a] for a in valid], [expected[a] for a in valid]
    elif target is not None:
        valid = [a for a, label in enumerate(target.tolist()) if label != ignore_index]
        x, y, labels = [x[a] for a in valid], [y[a] for a in valid], [int(target[a]) for a in valid]
    if not x:
        return Terms(0.0, 0.0, 0.0, 0.0)

    def absent(logits: Matrix, c: int) -> bool:
        return all(row[c] == -math.inf for row in logits)

    classes = [c for c in range(len(x[0])) if not absent(x, c) and not absent(y, c)]
    if labels is not None:
        expected = one_hot(labels, len(x[0]))
    # Cross-entropy does not involve the teacher, so it keeps the classes that only the teacher lacks.
    ce = math.nan if expected is None else cross_entropy(x, smoothed(expected, label_smoothing, classes))
    if not classes:
        return Terms(ce, math.nan, math.nan, math.nan)
    x, y = ([[row[c] for c in classes] for row in logits] for logits in (x, y))
    return Terms(
        ce,
        distillation(x, y, kd_temperature),
        class_wise_contrast(x, y, temperature, contrast_temperature, similarity),
        sample_wise_contrast(x, y, None if positives == "sample" else labels, temperature, contrast_temperature, similarity),
    )


def bilateral(terms: Terms, *, class_wise_weight: float = 1.0, sample_wise_weight: float = 1.0) -> float:
    return class_wise_weight * terms.class_wise + sample_wise_weight * terms.sample_wise


def total(
    terms: Terms,
    *,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    bilateral_weight: float = 4.0,
    class_wise_weight: float = 1.0,
    sample_wise_weight: float = 1.0,
) -> float:
    sides = bilateral(terms, class_wise_weight=class_wise_weight, sample_wise_weight=sample_wise_weight)
    return ce_weight * terms.ce + kd_weight * terms.kd + bilateral_weight * sides
