"""Compares loss, gradient and terms of the kernels with the definition in float64, for the same numbers."""

from typing import Any

import torch
from cases import ROUNDING, Inputs, as_double, call, evaluate
from checks import FLOAT32_GRADE, NOTHING
from simulate import simulator
from torch import Tensor

SMALLEST = {torch.float32: 0.0, torch.bfloat16: 0.0, torch.float16: 2**-25}
"""Absolute rounding error of a gradient entry: half the smallest positive number of its dtype."""


def computed(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient from the kernels."""
    with simulator() as session:
        result = evaluate(kind, inputs, **options)
        assert session.launches > 0
        assert session.races_unchecked == 0
    return result


def computed_terms(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss and terms from the kernels."""
    with simulator() as session:
        loss, terms = call(kind, inputs, return_terms=True, **options)
        assert session.launches > 0
    return loss, tuple(terms)


def expected_terms(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss and terms by definition, for the same numbers in float64."""
    loss, terms = call(kind, as_double(inputs), return_terms=True, backend="reference", **options)
    return loss, tuple(terms)


def assert_terms_are_those_of_the_definition(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, ...]:
    (loss, terms), (true_loss, true_terms) = computed_terms(kind, inputs, **options), expected_terms(kind, inputs, **options)
    for actual, true in zip((loss, *terms), (true_loss, *true_terms), strict=True):
        torch.testing.assert_close(actual.double(), true, rtol=1e-6, atol=1e-6, equal_nan=True)
    return terms


def assert_close_to(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], grade: float = FLOAT32_GRADE) -> None:
    """Compares loss and gradient; the bound allows for the rounding of the gradient to its dtype."""
    loss, gradient = actual
    true_loss, true_gradient = expected
    assert loss.dtype == torch.float32
    assert true_loss.isfinite()
    torch.testing.assert_close(loss.double(), true_loss, rtol=1e-6 if grade == FLOAT32_GRADE else 1e-4, atol=1e-6)
    bound = (grade + ROUNDING[gradient.dtype]) * float(true_gradient.abs().max()) + NOTHING + SMALLEST[gradient.dtype]
    assert float((gradient.double() - true_gradient).abs().max()) <= bound


def assert_is_the_definition(kind: str, inputs: Inputs, grade: float = FLOAT32_GRADE, **options: Any) -> Tensor:
    """Compares a step with the definition, and returns the gradient."""
    actual = computed(kind, inputs, **options)
    assert_close_to(actual, evaluate(kind, as_double(inputs), backend="reference", **options), grade)
    return actual[1]
