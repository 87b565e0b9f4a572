"""Terms of weight zero, returned terms, and the backend that is selected."""

import itertools

import pytest
import torch
from cases import KINDS, as_double, call, evaluate, with_absences
from checks import single
from definition import assert_close_to, assert_is_the_definition, assert_terms_are_those_of_the_definition, expected_terms
from simulate import simulator

WEIGHTS = {"ce_weight": 0.3, "kd_weight": 0.7, "class_wise_weight": 1.5, "sample_wise_weight": 0.6}


def without(left_out: tuple[str, ...]) -> dict[str, float]:
    return {name: 0.0 if name in left_out else weight for name, weight in WEIGHTS.items()}


COMBINATIONS = [left_out for count in range(4) for left_out in itertools.combinations(WEIGHTS, count)]


@pytest.mark.parametrize("left_out", COMBINATIONS, ids=lambda names: "without " + ", ".join(names) if names else "all")
def test_terms_of_weight_zero_take_no_part(left_out: tuple[str, ...]) -> None:
    assert_is_the_definition("bickd", single(19, 5), bilateral_weight=1.0, **without(left_out))


@pytest.mark.parametrize(
    "left_out",
    [names for names in COMBINATIONS if len(names) in (1, 3)],
    ids=lambda names: "without " + ", ".join(names),
)
def test_terms_of_weight_zero_take_no_part_where_something_is_absent(left_out: tuple[str, ...]) -> None:
    assert_is_the_definition("bickd", with_absences(single(19, 7)), bilateral_weight=1.0, **without(left_out))


@pytest.mark.parametrize("weight", list(WEIGHTS))
def test_returning_terms_does_not_change_the_loss(weight: str) -> None:
    inputs = single(19, 5)
    weights = without((weight,))
    student = inputs.student.clone().requires_grad_()
    with simulator():
        loss, terms = call("bickd", inputs._replace(student=student), return_terms=True, **weights)
        (gradient,) = torch.autograd.grad(loss, student)
    # test_terms_of_weight_zero_take_no_part has the same bounds without the terms.
    assert_close_to((loss.detach(), gradient), evaluate("bickd", as_double(inputs), backend="reference", **weights))
    for actual, true in zip(terms, expected_terms("bickd", inputs)[1], strict=True):
        torch.testing.assert_close(actual.double(), true, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("return_terms", [False, True])
def test_an_infinite_term_of_weight_zero_does_not_reach_the_loss(return_terms: bool) -> None:
    inputs = single(19, 5)
    inputs.target.fill_(1)
    inputs.student[3, 2] = -torch.inf
    student = inputs.student.clone().requires_grad_()
    with simulator():
        result = call("bickd", inputs._replace(student=student), kd_weight=0.0, return_terms=return_terms)
        loss, terms = result if return_terms else (result, None)
        (gradient,) = torch.autograd.grad(loss, student)
    assert terms is None or terms.kd == torch.inf
    assert_close_to((loss.detach(), gradient), evaluate("bickd", as_double(inputs), kd_weight=0.0, backend="reference"))


@pytest.mark.parametrize("return_terms", [False, True])
def test_nan_in_terms_of_weight_zero_does_not_reach_the_loss(return_terms: bool) -> None:
    inputs = single(19, 5)
    inputs.teacher[3, 2] = torch.nan
    options = {"kd_weight": 0.0, "bilateral_weight": 0.0}
    student = inputs.student.clone().requires_grad_()
    with simulator():
        result = call("bickd", inputs._replace(student=student), return_terms=return_terms, **options)
        loss, terms = result if return_terms else (result, None)
        (gradient,) = torch.autograd.grad(loss, student)
    assert terms is None or terms.kd.isnan()
    expected = evaluate("bickd", as_double(inputs), backend="reference", **options)
    if return_terms:
        # The gradient adds the parts of all terms, and 0 * NaN is NaN.
        assert float(loss.detach()) == pytest.approx(float(expected[0]), rel=1e-6)
    else:
        assert_close_to((loss.detach(), gradient), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_terms_match_the_definition(kind: str) -> None:
    assert_terms_are_those_of_the_definition(kind, single(23, 31))


def test_with_all_weights_zero_nothing_is_launched() -> None:
    with simulator() as session:
        loss, gradient = evaluate("bilateral", single(19, 5), class_wise_weight=0.0, sample_wise_weight=0.0)
        assert session.launches == 0
    assert loss == 0
    assert torch.count_nonzero(gradient) == 0


def test_auto_selects_the_kernels_on_a_gpu_except_for_float64() -> None:
    inputs = single(19, 5)
    with simulator() as session:
        automatic, named = evaluate("bickd", inputs), evaluate("bickd", inputs, backend="triton")
        assert session.launches == 12
        double = evaluate("bickd", as_double(inputs))
        assert session.launches == 12
        with pytest.raises(ValueError, match="float64"):
            evaluate("bickd", as_double(inputs), backend="triton")
    assert torch.equal(automatic[0], named[0])
    assert torch.equal(automatic[1], named[1])
    assert double[0].dtype == torch.float64
