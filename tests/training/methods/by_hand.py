"""Softmax and the divergence of logits, by explicit sums."""

import math

Row = list[float]

ROUNDING = 1e-12
"""Relative: some hundred operations round by 1e-16 each in float64, and logarithms of ratios near 1 lose two digits more."""


def softmax(row: Row, temperature: float = 1.0) -> Row:
    exponentials = [math.exp(value / temperature) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def kl(teacher: Row, student: Row) -> float:
    """``KL(teacher || student)`` of two rows of probabilities."""
    return sum(q * math.log(q / p) for q, p in zip(teacher, student, strict=True))


def kl_of_logits(student: Row, teacher: Row, temperature: float) -> float:
    """The divergence of kd for one sample: ``T^2 KL(teacher || student)``."""
    return temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature))
