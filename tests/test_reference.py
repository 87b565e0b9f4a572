"""The reference against a transcription of the definition in loops, and against finite differences."""

import math
from functools import partial
from typing import Any

import oracle
import pytest
import torch
from cases import KINDS, SHAPES, Inputs, call, make_inputs, with_absences

from bickd_kernels import reference

by_reference = partial(call, backend="reference")

OPTIONS: tuple[dict[str, float], ...] = (
    {},
    {"temperature": 0.7, "contrast_temperature": 0.02},
    {"temperature": 5.0, "contrast_temperature": 1.3},
)


def expected_terms(inputs: Inputs, labelled: bool = True, **options: Any) -> oracle.Terms:
    target = inputs.target.numpy() if labelled else None
    return oracle.terms(inputs.student.numpy(), inputs.teacher.numpy(), target, **options)


def assert_terms(actual: tuple[torch.Tensor, ...], expected: tuple[float, ...]) -> None:
    # With a single sample or class a term is exactly 0, so its error cannot be relative to it.
    for value, truth in zip(actual, expected, strict=True):
        assert float(value) == pytest.approx(truth, rel=1e-12, abs=1e-13, nan_ok=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_every_term_matches_the_definition(shape: tuple[int, int], options: dict[str, float]) -> None:
    inputs = make_inputs(*shape)
    loss, terms = by_reference("bickd", inputs, kd_temperature=3.0, return_terms=True, **options)
    expected = expected_terms(inputs, kd_temperature=3.0, **options)
    assert_terms(terms, expected)
    assert float(loss) == pytest.approx(oracle.total(expected), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_without_targets_each_sample_is_its_own_only_positive(shape: tuple[int, int], options: dict[str, float]) -> None:
    inputs = make_inputs(*shape, seed=1)
    loss, terms = by_reference("bilateral_unlabelled", inputs, return_terms=True, **options)
    expected = expected_terms(inputs, labelled=False, **options)
    assert_terms(terms, expected[2:])
    assert float(loss) == pytest.approx(oracle.bilateral(expected), rel=1e-12, abs=1e-13)


def test_absent_rows_and_classes_are_dropped_from_every_term() -> None:
    inputs = with_absences(make_inputs(9, 7))
    loss, terms = by_reference("bickd", inputs, return_terms=True)
    expected = expected_terms(inputs)
    assert all(math.isfinite(term) for term in expected)
    assert_terms(terms, expected)
    assert float(loss) == pytest.approx(oracle.total(expected), rel=1e-12)


def test_the_weighted_sums_match_the_definition() -> None:
    inputs = make_inputs(7, 5)
    sides = {"class_wise_weight": -0.3, "sample_wise_weight": 1.7}
    weights = {**sides, "ce_weight": 0.6, "kd_weight": 0.2, "bilateral_weight": 2.5}
    expected = expected_terms(inputs)
    assert float(by_reference("bickd", inputs, **weights)) == pytest.approx(oracle.total(expected, **weights), rel=1e-12)
    assert float(by_reference("bilateral", inputs, **sides)) == pytest.approx(oracle.bilateral(expected, **sides), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_have_length_one_whatever_the_size_of_the_logits(dtype: torch.dtype) -> None:
    logits = torch.full((4, 5), -1e30, dtype=dtype)
    logits[:, 0] = 0.0
    for dim in (0, 1):
        length = reference.unit_vectors(logits, 2.0, dim, "cosine").norm(dim=dim)
        torch.testing.assert_close(length, torch.ones_like(length))


@pytest.mark.parametrize("ignored", [False, True])
def test_the_gradient_matches_finite_differences(ignored: bool) -> None:
    inputs = make_inputs(4, 5, scale=1.0)
    if ignored:
        inputs.target[2] = -100
    student = inputs.student.requires_grad_()
    for kind in KINDS:
        assert torch.autograd.gradcheck(lambda x, kind=kind: by_reference(kind, inputs._replace(student=x)), student)


def test_the_reference_can_be_differentiated_twice() -> None:
    inputs = make_inputs(3, 3, scale=1.0)
    student = inputs.student.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: by_reference("bickd", inputs._replace(student=x)), student)


def test_the_reference_checks_its_arguments_too() -> None:
    inputs = make_inputs(4, 3)
    with pytest.raises(ValueError, match=r"temperature must be positive, got -1\.0"):
        by_reference("bilateral", inputs, temperature=-1.0)
    with pytest.raises(ValueError, match=r"target must be in \[0, 2\].* got 3"):
        by_reference("bickd", inputs._replace(target=torch.tensor([0, 1, 3, 2])))
