"""The options other than temperatures and weights: positives, label smoothing, probabilities as targets, correlations.

Each is compared with the definition in loops, with absent classes and ignored samples too, and with finite differences.
"""

import inspect
import math
import typing
from dataclasses import fields
from functools import partial
from typing import Any

import oracle
import pytest
import torch
from cases import (
    SHAPES,
    Inputs,
    as_double,
    call,
    constant_sample,
    equal_samples,
    evaluate,
    make_inputs,
    relative_error,
    term_rounding,
    typical_errors,
    with_absences,
    with_probabilities,
)

from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.options import KINDS, NAMES, BicKDArguments, BilateralArguments

OPTIONS: dict[str, dict[str, Any]] = {
    "positives by sample": {"positives": "sample"},
    "label smoothing": {"label_smoothing": 0.3},
    "correlation": {"similarity": "correlation"},
    "all of them": {"positives": "sample", "label_smoothing": 0.1, "similarity": "correlation"},
}


def assert_is_the_definition(inputs: Inputs, backend: str, **options: Any) -> None:
    """Compares the loss and every term, up to the rounding of numbers of size ``1 / contrast_temperature``."""
    expected = oracle.terms(inputs.student.numpy(), inputs.teacher.numpy(), inputs.target.numpy(), **options)
    loss, terms = bickd_loss(*inputs, return_terms=True, backend=backend, **options)
    assert tuple(map(float, terms)) == pytest.approx(expected, rel=1e-11, abs=1e-13)
    assert float(loss) == pytest.approx(oracle.total(expected), rel=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_matches_the_definition(name: str, shape: tuple[int, int], backend: str) -> None:
    assert_is_the_definition(make_inputs(*shape), backend, **OPTIONS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_options_leave_out_absent_classes_and_ignored_samples(name: str, backend: str) -> None:
    assert_is_the_definition(with_absences(make_inputs(9, 7)), backend, **OPTIONS[name])


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"similarity": "correlation"}])
@pytest.mark.parametrize("shape", [(5, 3), (13, 7), (3, 11)])
def test_probabilities_as_targets_match_the_definition(
    shape: tuple[int, int], options: dict[str, Any], backend: str
) -> None:
    assert_is_the_definition(with_probabilities(make_inputs(*shape)), backend, **options)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_row_of_zeros_is_an_ignored_sample(smoothing: float, backend: str) -> None:
    inputs = make_inputs(9, 7)
    inputs.student[:, 0], inputs.teacher[:, 2] = -torch.inf, -torch.inf
    inputs = with_probabilities(inputs, ignored=4)
    inputs.student[4], inputs.teacher[4] = torch.nan, 5.0
    assert_is_the_definition(inputs, backend, label_smoothing=smoothing)
    _, gradient = evaluate("bickd", inputs, label_smoothing=smoothing, backend=backend)
    assert torch.count_nonzero(gradient[4]) == 0


def test_a_batch_of_rows_of_zeros_gives_zero(backend: str) -> None:
    inputs = make_inputs(4, 5)
    loss, gradient = evaluate("bickd", inputs._replace(target=torch.zeros(4, 5)), label_smoothing=0.1, backend=backend)
    assert loss == 0
    assert torch.count_nonzero(gradient) == 0


def test_one_hot_probabilities_equal_labels_with_positives_by_sample(backend: str) -> None:
    inputs = make_inputs(9, 5)
    one_hot = torch.nn.functional.one_hot(inputs.target, 5).double()
    options = {"label_smoothing": 0.2, "backend": backend}
    expected = evaluate("bickd", inputs, positives="sample", **options)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        loss, gradient = evaluate("bickd", inputs._replace(target=one_hot.to(dtype)), **options)
        assert float(loss) == pytest.approx(float(expected[0]), rel=1e-12)
        assert relative_error(gradient, expected[1]) <= 1e-12


def test_probabilities_of_tokens_are_flattened(backend: str) -> None:
    inputs = with_probabilities(make_inputs(12, 5))
    shaped = Inputs(*(tensor.reshape(3, 4, 5) for tensor in inputs))
    loss, gradient = evaluate("bickd", inputs, backend=backend)
    shaped_loss, shaped_gradient = evaluate("bickd", shaped, backend=backend)
    assert float(shaped_loss) == pytest.approx(float(loss), rel=1e-13)
    assert relative_error(shaped_gradient.reshape(12, 5), gradient) <= 1e-13


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("absences", [False, True])
def test_the_gradient_matches_finite_differences(name: str, absences: bool) -> None:
    inputs = make_inputs(6, 7, scale=1.0)
    if absences:
        inputs.target[3] = -100
        inputs.teacher[:, 2] = -torch.inf
    student = inputs.student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bickd_loss(x, *inputs[1:], **OPTIONS[name]), student)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_with_probabilities_matches_finite_differences(smoothing: float) -> None:
    inputs = with_probabilities(make_inputs(5, 4, scale=1.0), ignored=1)
    # Targets need not add up to 1.
    inputs.target[2] *= 1.5
    student = inputs.student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bickd_loss(x, *inputs[1:], label_smoothing=smoothing), student)


@pytest.mark.parametrize("degenerate", [constant_sample, equal_samples])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_constant_vector_has_no_direction(degenerate: Any, dtype: torch.dtype, backend: str) -> None:
    inputs = make_inputs(7, 5, dtype=dtype)
    degenerate(inputs)
    expected = oracle.terms(*(tensor.numpy() for tensor in as_double(inputs)), similarity="correlation")
    student = inputs.student.requires_grad_()
    loss, terms = bickd_loss(
        student, inputs.teacher, inputs.target, similarity="correlation", return_terms=True, backend=backend
    )
    assert tuple(map(float, terms)) == pytest.approx(expected, rel=0.0, abs=term_rounding(dtype))
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()


def test_a_constant_sample_gets_no_gradient_from_the_sample_side(backend: str) -> None:
    inputs = make_inputs(7, 5)
    constant_sample(inputs)
    options = {"similarity": "correlation", "class_wise_weight": 0.0, "backend": backend}
    _, gradient = evaluate("bilateral", inputs, **options)
    assert torch.count_nonzero(gradient[2]) == 0
    assert gradient[3].abs().max() > 0


def test_a_single_sample_correlates_with_nothing(backend: str) -> None:
    _, terms = call("bilateral", make_inputs(1, 5), similarity="correlation", return_terms=True, backend=backend)
    assert float(terms.class_wise) == pytest.approx(math.log(5), rel=1e-13)
    assert float(terms.sample_wise) == pytest.approx(0.0, abs=1e-13)


@pytest.mark.parametrize("contrast_temperature", [0.02, 0.2])
@pytest.mark.parametrize("shape", [(29, 5), (5, 29), (37, 53)])
def test_float32_correlations_are_as_accurate_as_the_reference(shape: tuple[int, int], contrast_temperature: float) -> None:
    options = {"similarity": "correlation", "contrast_temperature": contrast_temperature}
    batches = [make_inputs(*shape, dtype=torch.float32, seed=seed) for seed in range(8)]
    reference = partial(evaluate, "bickd", backend="reference", **options)
    loss, gradient = typical_errors(partial(evaluate, "bickd", backend="torch", **options), reference, batches)
    eager_loss, eager_gradient = typical_errors(reference, reference, batches)
    # The floor is one rounding of the result to float32.
    assert loss <= 2 * eager_loss + 1e-7
    assert gradient <= 2 * eager_gradient + 1e-7


def test_correlations_of_a_saturated_batch_are_finite(backend: str) -> None:
    student, teacher = 1e4 * torch.eye(6), 1e4 * torch.eye(6).roll(1, 0)
    loss, gradient = evaluate("bickd", Inputs(student, teacher, torch.arange(6)), similarity="correlation", backend=backend)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("name", "arguments", "function"),
    [("bilateral_loss", BilateralArguments, bilateral_loss), ("bickd_loss", BicKDArguments, bickd_loss)],
)
def test_type_checkers_and_signatures_know_every_option(name: str, arguments: Any, function: Any) -> None:
    types = typing.get_type_hints(KINDS[name])
    assert typing.get_type_hints(arguments) == {option: types[option] for option in NAMES[name] if option != "return_terms"}
    parameters = inspect.signature(function).parameters
    assert {option.name: option.default for option in fields(KINDS[name])} == {
        option: parameters[option].default for option in NAMES[name]
    }


@pytest.mark.parametrize("name", KINDS)
def test_every_option_is_described_in_the_docstring(name: str) -> None:
    function = {"bilateral_loss": bilateral_loss, "bickd_loss": bickd_loss}[name]
    assert all(option in (function.__doc__ or "") for option in NAMES[name])


def test_a_record_of_options_is_immutable() -> None:
    with pytest.raises(AttributeError):
        KINDS["bickd_loss"]().kd_weight = 2.0
