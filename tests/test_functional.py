"""The functions as their callers see them: signatures, dtypes, strides, terms, purity, determinism."""

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from cases import (
    KINDS,
    LABELLED_KINDS,
    ROUNDING,
    Inputs,
    call,
    evaluate,
    make_inputs,
    relative_error,
    term_rounding,
    typical_errors,
    with_absences,
)
from torch import Tensor

import bickd_kernels
from bickd_kernels import BicKDTerms, BilateralTerms, bickd_loss, bilateral_loss

SHARED_OPTIONS: dict[str, Any] = {
    "contrast_temperature": 0.2,
    "class_wise_weight": 1.0,
    "sample_wise_weight": 1.0,
    "positives": None,
    "similarity": "cosine",
    "ignore_index": -100,
    "return_terms": False,
    "group": None,
    "compare_ranks": True,
    "backend": "auto",
}
BILATERAL_OPTIONS: dict[str, Any] = {**SHARED_OPTIONS, "temperature": 2.0}
BICKD_OPTIONS: dict[str, Any] = {
    **SHARED_OPTIONS,
    "kd_temperature": 4.0,
    "bilateral_temperature": 2.0,
    "ce_weight": 0.1,
    "kd_weight": 0.9,
    "bilateral_weight": 4.0,
    "label_smoothing": 0.0,
}

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def test_the_signature_of_bilateral_loss_is_the_documented_one() -> None:
    parameters = inspect.signature(bilateral_loss).parameters
    assert list(parameters) == ["student_logits", "teacher_logits", "target", *BILATERAL_OPTIONS]
    assert parameters["target"].default is None
    assert {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY} == BILATERAL_OPTIONS


def test_the_signature_of_bickd_loss_is_the_documented_one() -> None:
    parameters = inspect.signature(bickd_loss).parameters
    assert list(parameters) == ["student_logits", "teacher_logits", "target", *BICKD_OPTIONS]
    assert parameters["target"].default is inspect.Parameter.empty
    assert {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY} == BICKD_OPTIONS


def test_everything_public_exists() -> None:
    public = {"BicKDLoss", "BicKDTerms", "BilateralLoss", "BilateralTerms", "bickd_loss", "bilateral_loss", "reference"}
    assert set(bickd_kernels.__all__) == public
    assert all(hasattr(bickd_kernels, name) for name in public)


@pytest.mark.parametrize("student", DTYPES)
@pytest.mark.parametrize("teacher", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_dtypes_are_widened_and_the_gradient_has_the_dtype_of_the_student(
    kind: str, student: torch.dtype, teacher: torch.dtype, backend: str
) -> None:
    inputs = make_inputs(7, 5)
    mixed = Inputs(inputs.student.to(student), inputs.teacher.to(teacher), inputs.target)
    wide = torch.float64 if torch.float64 in (student, teacher) else torch.float32
    loss, gradient = evaluate(kind, mixed, backend=backend)
    widened = Inputs(mixed.student.to(wide), mixed.teacher.to(wide), mixed.target)
    expected, expected_gradient = evaluate(kind, widened, backend=backend)
    assert loss.dtype == wide
    assert gradient.dtype == student
    # Equal bits: every backend first copies its inputs to the wide dtype and uses the copies alone.
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient.to(student))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_nothing(kind: str, dtype: torch.dtype, backend: str) -> None:
    inputs = make_inputs(19, 11, dtype=dtype)
    expected, expected_gradient = evaluate(kind, inputs, backend=backend)
    student = inputs.student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Autocast would narrow the matrix products of the loss.
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        loss = call(kind, inputs, backend=backend)
        assert torch.is_autocast_enabled("cpu")
    # Backward runs outside autocast, as PyTorch recommends.
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    # Equal bits: the loss turns autocast off and runs the same operations.
    assert torch.equal(loss.detach(), expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_backward_under_autocast_changes_nothing_either(kind: str) -> None:
    inputs = make_inputs(19, 11, dtype=torch.float32)
    expected = evaluate(kind, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = evaluate(kind, inputs)
    assert all(torch.equal(value, other) for value, other in zip(actual, expected, strict=True))


def test_logits_made_under_autocast_carry_the_gradient_to_float32_weights() -> None:
    inputs = make_inputs(9, 5, dtype=torch.float32)
    layer = torch.nn.Linear(5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(inputs.student)
        loss = bickd_loss(logits, inputs.teacher, inputs.target)
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_targets_of_any_integer_dtype_give_the_same_result(kind: str, dtype: torch.dtype, backend: str) -> None:
    inputs = make_inputs(8, 5)
    inputs.target[3] = 100
    expected, expected_gradient = evaluate(kind, inputs, ignore_index=100, backend=backend)
    narrow = inputs._replace(target=inputs.target.to(dtype))
    loss, gradient = evaluate(kind, narrow, ignore_index=100, backend=backend)
    # Equal bits: targets are widened to int64 before anything is computed.
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_a_narrow_target_is_not_confused_with_an_ignore_index_it_cannot_hold(kind: str, backend: str) -> None:
    inputs = make_inputs(4, 160)._replace(target=torch.tensor([156, 3, 156, 7]))
    expected, expected_gradient = evaluate(kind, inputs, backend=backend)
    # -100 and 156 are the same byte.
    narrow = inputs._replace(target=inputs.target.to(torch.uint8))
    loss, gradient = evaluate(kind, narrow, backend=backend)
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient)


def transposed(logits: Tensor) -> Tensor:
    return logits.T.contiguous().T


def sliced(logits: Tensor) -> Tensor:
    wider = torch.full((len(logits) + 2, 3 * logits.shape[1]), torch.nan, dtype=logits.dtype)
    wider[1:-1, 1::3] = logits
    return wider[1:-1, 1::3]


@pytest.mark.parametrize("layout", [transposed, sliced])
@pytest.mark.parametrize("absences", [False, True])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_strides_do_not_change_the_result(kind: str, absences: bool, layout: Any, backend: str) -> None:
    inputs = make_inputs(9, 7)
    if absences:
        inputs = with_absences(inputs)
    strided = Inputs(layout(inputs.student), layout(inputs.teacher), torch.stack([inputs.target] * 2, 1)[:, 1])
    assert not any(tensor.is_contiguous() for tensor in strided)
    expected, expected_gradient = evaluate(kind, inputs, backend=backend)
    loss, gradient = evaluate(kind, strided, backend=backend)
    assert relative_error(loss, expected) <= 1e-12
    assert relative_error(gradient, expected_gradient) <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_expanded_logits_give_the_result_of_their_contiguous_copy(kind: str, backend: str) -> None:
    inputs = make_inputs(6, 5)
    expanded = inputs._replace(student=inputs.student[:1].expand(6, 5), teacher=inputs.teacher[:, :1].expand(6, 5))
    copied = Inputs(expanded.student.contiguous(), expanded.teacher.contiguous(), inputs.target)
    expected, expected_gradient = evaluate(kind, copied, backend=backend)
    loss, gradient = evaluate(kind, expanded, backend=backend)
    assert relative_error(loss, expected) <= 1e-12
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-15)


def test_the_terms_of_bilateral_loss_are_its_unweighted_sides() -> None:
    inputs = make_inputs(7, 5)
    inputs.student.requires_grad_()
    loss, terms = bilateral_loss(*inputs, class_wise_weight=0.3, sample_wise_weight=1.9, return_terms=True)
    assert type(terms) is BilateralTerms
    assert terms._fields == ("class_wise", "sample_wise")
    alone = bilateral_loss(*inputs, sample_wise_weight=0.0), bilateral_loss(*inputs, class_wise_weight=0.0)
    # Not equal bits: one side alone computes its probabilities in another way.
    torch.testing.assert_close(tuple(terms), tuple(side.detach() for side in alone), rtol=0, atol=term_rounding())
    torch.testing.assert_close(loss.detach(), 0.3 * terms.class_wise + 1.9 * terms.sample_wise, rtol=1e-14, atol=0)


def test_the_terms_of_bickd_loss_are_unweighted() -> None:
    inputs = make_inputs(7, 5)
    weights = {
        "ce_weight": 0.2,
        "kd_weight": 0.7,
        "bilateral_weight": 3.0,
        "class_wise_weight": 0.3,
        "sample_wise_weight": 1.9,
    }
    loss, terms = bickd_loss(*inputs, **weights, return_terms=True)
    assert type(terms) is BicKDTerms
    assert terms._fields == ("ce", "kd", "class_wise", "sample_wise")
    off = {"ce_weight": 0.0, "kd_weight": 0.0, "bilateral_weight": 0.0}
    alone = (
        bickd_loss(*inputs, **{**off, "ce_weight": 1.0}),
        bickd_loss(*inputs, **{**off, "kd_weight": 1.0}),
        bilateral_loss(*inputs, sample_wise_weight=0.0),
        bilateral_loss(*inputs, class_wise_weight=0.0),
    )
    # Not equal bits: one side alone computes its probabilities in another way.
    torch.testing.assert_close(tuple(terms), alone, rtol=0, atol=term_rounding())
    weighted = 0.2 * terms.ce + 0.7 * terms.kd + 3.0 * (0.3 * terms.class_wise + 1.9 * terms.sample_wise)
    torch.testing.assert_close(loss, weighted, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_terms_are_detached_scalars_of_the_loss_dtype(kind: str, backend: str) -> None:
    inputs = make_inputs(7, 5, dtype=torch.float16)
    inputs.student.requires_grad_()
    loss, terms = call(kind, inputs, return_terms=True, backend=backend)
    assert loss.requires_grad
    assert loss.shape == ()
    for term in terms:
        assert term.shape == ()
        assert term.dtype == loss.dtype == torch.float32
        assert not term.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_asking_for_the_terms_does_not_change_the_loss(kind: str, backend: str) -> None:
    inputs = make_inputs(7, 5)
    inputs.student.requires_grad_()
    loss, _ = call(kind, inputs, return_terms=True, backend=backend)
    expected, expected_gradient = evaluate(kind, inputs, backend=backend)
    (gradient,) = torch.autograd.grad(loss, inputs.student)
    # Equal bits: no weight is 0, so all terms are computed anyway.
    assert torch.equal(loss.detach(), expected)
    assert torch.equal(gradient, expected_gradient)


def test_terms_of_weight_zero_are_still_reported(backend: str) -> None:
    inputs = make_inputs(7, 5)
    inputs.student.requires_grad_()
    off = {"ce_weight": 0.0, "kd_weight": 0.0, "bilateral_weight": 0.0}
    loss, terms = bickd_loss(*inputs, **off, return_terms=True, backend=backend)
    _, expected = bickd_loss(*inputs, return_terms=True, backend=backend)
    assert loss == 0
    assert all(term > 0 for term in terms)
    torch.testing.assert_close(tuple(terms), tuple(expected), rtol=1e-14, atol=0)
    (gradient,) = torch.autograd.grad(loss, inputs.student)
    assert torch.count_nonzero(gradient) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zero_give_zero_and_a_zero_gradient(kind: str, backend: str) -> None:
    inputs = make_inputs(7, 5)
    off = {"class_wise_weight": 0.0, "sample_wise_weight": 0.0}
    if kind == "bickd":
        off |= {"ce_weight": 0.0, "kd_weight": 0.0}
    loss, gradient = evaluate(kind, inputs, **off, backend=backend)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(inputs.student))


@pytest.mark.parametrize("term", ["ce_weight", "kd_weight", "class_wise_weight", "sample_wise_weight"])
def test_each_term_alone_and_the_others_add_up_to_the_whole(term: str, backend: str) -> None:
    inputs = with_absences(make_inputs(9, 7))
    weights = {
        "ce_weight": 0.4,
        "kd_weight": -0.7,
        "class_wise_weight": 1.3,
        "sample_wise_weight": 0.6,
        "bilateral_weight": 1.5,
    }
    loss, gradient = evaluate("bickd", inputs, **weights, backend=backend)
    others, others_gradient = evaluate("bickd", inputs, **{**weights, term: 0.0}, backend=backend)
    zeros = {
        "ce_weight": 0.0,
        "kd_weight": 0.0,
        "class_wise_weight": 0.0,
        "sample_wise_weight": 0.0,
        "bilateral_weight": 1.5,
    }
    alone, alone_gradient = evaluate("bickd", inputs, **{**zeros, term: weights[term]}, backend=backend)
    assert alone != 0
    torch.testing.assert_close(others + alone, loss, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(others_gradient + alone_gradient, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_inputs_are_never_written_to(kind: str, dtype: torch.dtype, backend: str) -> None:
    inputs = with_absences(make_inputs(9, 7, dtype=dtype))
    if kind == "bilateral_unlabelled":
        inputs.student[1] = 0.0
    before = Inputs(*(tensor.clone() for tensor in inputs))
    versions = [tensor._version for tensor in inputs]
    evaluate(kind, inputs, backend=backend)
    for tensor, copy in zip(inputs, before, strict=True):
        assert torch.equal(tensor.view(torch.uint8), copy.view(torch.uint8))
    assert [tensor._version for tensor in inputs] == versions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_two_calls_are_bit_identical(kind: str, dtype: torch.dtype) -> None:
    threads = torch.get_num_threads()
    # The order of summation can only differ with several threads, and sizes that are large enough to use them.
    torch.set_num_threads(2)
    try:
        inputs = make_inputs(301, 257, dtype=dtype)
        loss, gradient = evaluate(kind, inputs)
        again, gradient_again = evaluate(kind, inputs)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(loss, again)
    assert torch.equal(gradient, gradient_again)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_default_is_as_accurate_as_the_reference(kind: str, dtype: torch.dtype) -> None:
    reference, batches = (
        partial(evaluate, kind, backend="reference"),
        [make_inputs(37, 53, dtype=dtype, seed=s) for s in range(8)],
    )
    loss, gradient = typical_errors(partial(evaluate, kind), reference, batches)
    eager_loss, eager_gradient = typical_errors(reference, reference, batches)
    # The floors allow one rounding of the result: the loss to float32, the gradient to the student's dtype.
    loss_floor = 1e-10 if dtype == torch.float64 else 1e-7
    gradient_floor = max(ROUNDING[dtype], loss_floor)
    assert loss <= 2 * eager_loss + loss_floor
    assert gradient <= 2 * eager_gradient + gradient_floor
