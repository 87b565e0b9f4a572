"""DIST against Pearson's correlation by hand, and where the correlation is undefined."""

import math
import statistics

import pytest
import torch
from by_hand import ROUNDING, softmax

from training.methods import Samples, make_method
from training.models.output import Output

STUDENT = [[1.0, -0.5, 2.0, 0.0], [0.3, 0.1, -1.2, 3.0], [-1.0, 0.4, 0.6, 0.2]]
TEACHER = [[0.2, 1.5, -0.7, 0.4], [2.2, -0.4, 0.9, 1.0], [0.0, 5.0, -2.0, 1.0]]
TARGET = [2, 0, 3]


def columns(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def mean_correlation(first: list[list[float]], second: list[list[float]]) -> float:
    return statistics.mean(statistics.correlation(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_parts_and_their_sum_match_the_formulas(temperature: float) -> None:
    student, teacher = Output(torch.tensor(STUDENT, dtype=torch.float64)), Output(torch.tensor(TEACHER, dtype=torch.float64))
    method = make_method("dist", {"beta": 0.7, "gamma": 1.3, "temperature": temperature})
    loss, terms = method(student, teacher, Samples(torch.tensor(TARGET), torch.arange(3)))
    p, q = ([softmax(row, temperature) for row in rows] for rows in (STUDENT, TEACHER))
    inter = temperature**2 * (1 - mean_correlation(p, q))
    intra = temperature**2 * (1 - mean_correlation(columns(p), columns(q)))
    ce = -statistics.mean(math.log(softmax(row, 1)[label]) for row, label in zip(STUDENT, TARGET, strict=True))
    assert terms["inter_class"].item() == pytest.approx(inter, rel=1e-9)
    assert terms["intra_class"].item() == pytest.approx(intra, rel=1e-9)
    assert loss.item() == pytest.approx(ce + 2 * (0.7 * inter + 1.3 * intra), rel=ROUNDING)


def test_the_gradient_matches_finite_differences() -> None:
    teacher, samples = Output(torch.tensor(TEACHER, dtype=torch.float64)), Samples(torch.tensor(TARGET), torch.arange(3))
    x = torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: make_method("dist")(Output(x), teacher, samples)[0], x)


def test_the_row_of_a_single_sample_is_correlated_and_its_columns_are_uncorrelated() -> None:
    x = torch.tensor(STUDENT[:1], requires_grad=True)
    teacher, samples = Output(torch.tensor(TEACHER[:1])), Samples(torch.tensor(TARGET[:1]), torch.arange(1))
    loss, terms = make_method("dist")(Output(x), teacher, samples)
    loss.backward()
    expected = 16 * (1 - mean_correlation([softmax(STUDENT[0], 4)], [softmax(TEACHER[0], 4)]))
    assert terms["inter_class"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["intra_class"].item() == 16
    assert x.grad is not None
    # A correlation's gradient is at most 1 / length of the centred row, that of a softmax at most 1 / (2 T), and that of the
    # cross-entropy at most 1.
    length = math.dist(softmax(STUDENT[0], 4), [1 / 4] * 4)
    assert 0 < x.grad.abs().max() < 1 + 2 * 16 / (2 * 4 * length)


@pytest.mark.parametrize("constant", ["student", "teacher", "both"])
@pytest.mark.parametrize("classes", [3, 7, 1000])
def test_constant_rows_and_columns_are_uncorrelated_and_give_no_gradient(constant: str, classes: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(5, classes, generator=generator) for _ in range(2))
    x = torch.full_like(x, 0.1) if constant != "teacher" else x
    y = torch.full_like(y, -7.3) if constant != "student" else y
    x.requires_grad_()
    samples = Samples(torch.arange(5) % classes, torch.arange(5))
    loss, terms = make_method("dist", {"ce_weight": 0.0})(Output(x), Output(y), samples)
    loss.backward()
    assert (terms["inter_class"].item(), terms["intra_class"].item()) == (16, 16)
    assert x.grad is not None
    assert not x.grad.any()


def test_probabilities_that_underflow_have_finite_gradients() -> None:
    x = torch.tensor([[0.0, -400.0, -90.0], [0.0, -420.0, -95.0]], requires_grad=True)
    y = torch.tensor([[0.0, -410.0, -92.0], [0.0, -400.0, -99.0]])
    loss, _ = make_method("dist", {"temperature": 1.0})(Output(x), Output(y), Samples(torch.tensor([0, 1]), torch.arange(2)))
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
