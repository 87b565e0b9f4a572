"""Ignored samples, batches without samples, and batches of one sample."""

import math

import pytest
import torch
from cases import KINDS, LABELLED_KINDS, Inputs, as_double, evaluate, keep_rows
from checks import NOTHING, single
from definition import (
    assert_close_to,
    assert_is_the_definition,
    assert_terms_are_those_of_the_definition,
    computed,
    computed_terms,
)
from simulate import simulator

GARBAGE = (torch.nan, torch.inf, -torch.inf, 1e30)


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_an_ignored_row_is_as_if_it_were_not_in_the_batch(kind: str, garbage: float) -> None:
    inputs = single(19, 5)
    inputs.target[[0, 4, 18]] = -100
    inputs.student[0], inputs.teacher[4], inputs.student[18] = garbage, garbage, garbage
    inputs.student[4, 1] = garbage
    keep = inputs.target != -100
    loss, gradient = computed(kind, inputs)
    alone = evaluate(kind, as_double(keep_rows(inputs, keep)), backend="reference")
    assert_close_to((loss, gradient[keep]), alone)
    assert torch.equal(gradient[~keep], torch.zeros(3, 5))
    assert_terms_are_those_of_the_definition(kind, inputs)


@pytest.mark.parametrize("first", [0, 3])
def test_whole_tiles_of_ignored_rows_are_as_if_they_were_not_in_the_batch(first: int) -> None:
    inputs = single(140, 20)
    inputs.target[first : first + 130] = -100
    inputs.student[first : first + 130] = torch.nan
    inputs.teacher[first : first + 130, 3] = torch.inf
    gradient = assert_is_the_definition("bickd", inputs)
    assert torch.count_nonzero(gradient[first : first + 130]) == 0


@pytest.mark.parametrize("ignore_index", [0, 2, 255, -1])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_ignore_index_may_be_any_integer_even_that_of_a_class(kind: str, ignore_index: int) -> None:
    inputs = single(19, 5)
    inputs.target[2] = ignore_index
    gradient = assert_is_the_definition(kind, inputs, ignore_index=ignore_index)
    assert torch.count_nonzero(gradient[inputs.target == ignore_index]) == 0


@pytest.mark.parametrize("garbage", [0.0, *GARBAGE])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_a_batch_of_ignored_rows_gives_zero(kind: str, garbage: float) -> None:
    inputs = single(4, 5)
    inputs.target.fill_(-100)
    inputs.student[1:], inputs.teacher[:2] = garbage, garbage
    loss, gradient = computed(kind, inputs)
    _, terms = computed_terms(kind, inputs)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros(4, 5))
    assert all(term == 0 for term in terms)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_samples_gives_zero(kind: str, shape: tuple[int, ...]) -> None:
    inputs = Inputs(torch.zeros(shape), torch.zeros(shape), torch.zeros(shape[:-1], dtype=torch.int64))
    with simulator() as session:
        loss, gradient = evaluate(kind, inputs, backend="triton")
        assert session.launches == 0
    assert loss == 0
    assert gradient.shape == shape


@pytest.mark.parametrize("classes", [1, 31, 130])
def test_one_sample_has_a_sample_wise_term_of_0_and_a_class_wise_term_of_log_c(classes: int) -> None:
    inputs = single(1, classes)
    loss, gradient = computed("bilateral", inputs)
    _, (class_wise, sample_wise) = computed_terms("bilateral", inputs)
    assert abs(float(sample_wise)) <= 1e-6
    assert float(class_wise) == pytest.approx(math.log(classes), rel=1e-6, abs=1e-6)
    assert float(loss) == pytest.approx(math.log(classes), rel=1e-6, abs=1e-6)
    assert gradient.abs().max() <= NOTHING


def test_one_valid_sample_gives_the_result_of_one_sample() -> None:
    inputs = single(19, 6)
    inputs.target[:18] = -100
    loss, gradient = computed("bilateral", inputs)
    assert float(loss) == pytest.approx(math.log(6), rel=1e-6)
    assert gradient.abs().max() <= NOTHING
