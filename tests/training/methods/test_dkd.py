"""Decoupled knowledge distillation against its formulas, and where they would divide by zero."""

import math

import pytest
import torch
from by_hand import ROUNDING, kl, softmax

from training.methods import Dimensions, Samples, make_method
from training.methods.dkd import DecoupledKnowledgeDistillation
from training.models.output import Output

STUDENT = [[1.0, -0.5, 2.0, 0.0], [0.3, 0.1, -1.2, 3.0], [-1.0, 0.4, 0.6, 0.2]]
TEACHER = [[0.2, 1.5, -0.7, 0.4], [2.2, -0.4, 0.9, 1.0], [0.0, 5.0, -2.0, 1.0]]
TARGET = [2, 0, 3]


def parts_by_hand(temperature: float) -> tuple[float, float]:
    tckd = nckd = 0.0
    for x, y, label in zip(STUDENT, TEACHER, TARGET, strict=True):
        p, q = softmax(x, temperature), softmax(y, temperature)
        tckd += temperature**2 * kl([q[label], 1 - q[label]], [p[label], 1 - p[label]]) / len(TARGET)
        others_p, others_q = (
            [value / (1 - r[label]) for c, value in enumerate(r) if c != label] for r in (p, q)
        )  # fmt: skip
        nckd += temperature**2 * kl(others_q, others_p) / len(TARGET)
    return tckd, nckd


def batch(epochs: float = 100.0) -> tuple[Output, Output, Samples]:
    student, teacher = Output(torch.tensor(STUDENT, dtype=torch.float64)), Output(torch.tensor(TEACHER, dtype=torch.float64))
    return student, teacher, Samples(torch.tensor(TARGET), torch.arange(3), epochs)


def test_both_parts_and_their_sum_match_the_formulas() -> None:
    loss, terms = make_method("dkd", {"alpha": 0.5})(*batch())
    tckd, nckd = parts_by_hand(4.0)
    ce = -sum(math.log(softmax(row)[label]) for row, label in zip(STUDENT, TARGET, strict=True)) / 3
    assert terms["tckd"].item() == pytest.approx(tckd, rel=ROUNDING)
    assert terms["nckd"].item() == pytest.approx(nckd, rel=ROUNDING)
    assert loss.item() == pytest.approx(ce + 0.5 * tckd + 8 * nckd, rel=ROUNDING)


def test_the_two_parts_weighted_by_the_teacher_add_up_to_the_divergence_of_kd() -> None:
    """KL = TCKD + (1 - q_t) NCKD, sample by sample."""
    x, y, label = STUDENT[1], TEACHER[1], TARGET[1]
    method = make_method("dkd", {"temperature": 1.0})
    samples = Samples(torch.tensor([label]), torch.arange(1))
    student, teacher = (Output(torch.tensor([row], dtype=torch.float64)) for row in (x, y))
    _, terms = method(student, teacher, samples)
    whole = terms["tckd"].item() + (1 - softmax(y)[label]) * terms["nckd"].item()
    assert whole == pytest.approx(kl(softmax(y), softmax(x)), rel=ROUNDING)


@pytest.mark.parametrize(("epochs", "factor"), [(0.0, 1 / 20), (0.99, 1 / 20), (9.5, 10 / 20), (19.0, 1.0), (200.0, 1.0)])
def test_the_warm_up_grows_by_epoch(epochs: float, factor: float) -> None:
    loss, terms = make_method("dkd", {"ce_weight": 0.0, "dkd_weight": 3.0})(*batch(epochs))
    assert loss.item() == pytest.approx(3 * factor * (terms["tckd"] + 8 * terms["nckd"]).item(), rel=1e-9)


def test_without_a_warm_up_the_first_step_has_the_full_weight() -> None:
    loss, terms = make_method("dkd", {"ce_weight": 0.0, "warmup_epochs": 0})(*batch(0.0))
    assert loss.item() == pytest.approx((terms["tckd"] + 8 * terms["nckd"]).item(), rel=1e-9)


def test_with_logit_standardization_scale_and_offset_of_a_row_do_not_matter() -> None:
    method = make_method("dkd", logit_standardization=True)
    student, teacher, samples = batch()
    scaled = Output(teacher.logits * torch.tensor([[2.0], [0.5], [9.0]]) + 3)
    (loss, terms), (other, _) = method(student, teacher, samples), method(student, scaled, samples)
    assert loss.item() == pytest.approx(other.item(), rel=1e-5)
    expected = 0.1 * terms["ce"] + 9 * (terms["tckd"] + 8 * terms["nckd"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("height", [200.0, -200.0, 1e6])
def test_probabilities_that_round_to_zero_or_one_have_finite_gradients(height: float) -> None:
    x = torch.tensor([[height, 0.0, 0.0], [0.0, height, 1.0]], requires_grad=True)
    y = torch.tensor([[0.0, height, 0.0], [0.0, height, 0.0]])
    samples = Samples(torch.tensor([0, 1]), torch.arange(2))
    loss, _ = make_method("dkd", {"temperature": 1.0, "warmup_epochs": 0})(Output(x), Output(y), samples)
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_two_classes_are_refused_before_and_during_training() -> None:
    method = DecoupledKnowledgeDistillation()
    with pytest.raises(ValueError, match="classes must be more than 2 for method 'dkd', got 2"):
        method.set_up(Dimensions(4, 4, 2, torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="classes must be more than 2"):
        method(Output(torch.zeros(1, 2)), Output(torch.zeros(1, 2)), Samples(torch.tensor([1]), torch.tensor([0])))
