"""The methods against values computed by hand."""

import math

import pytest
import torch

from bickd_kernels import reference
from training.methods import METHODS
from training.methods.bickd import BicKD
from training.methods.ce import CrossEntropy
from training.methods.kd import KnowledgeDistillation

STUDENT = [[1.0, -0.5, 2.0], [0.3, 0.1, -1.2]]
TEACHER = [[0.2, 1.5, -0.7], [2.2, -0.4, 0.9]]
TARGET = [2, 0]


def softmax(row: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def cross_entropy_by_hand() -> float:
    return -sum(math.log(softmax(row, 1)[label]) for row, label in zip(STUDENT, TARGET, strict=True)) / 2


def divergence_by_hand(temperature: float) -> float:
    total = 0.0
    for student_row, teacher_row in zip(STUDENT, TEACHER, strict=True):
        p, q = softmax(student_row, temperature), softmax(teacher_row, temperature)
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / 2


def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.tensor(STUDENT).double(), torch.tensor(TEACHER).double(), torch.tensor(TARGET)


def test_ce_is_the_mean_negative_log_probability() -> None:
    student, _, target = logits()
    loss, terms = CrossEntropy()(student, None, target)
    assert loss.item() == pytest.approx(cross_entropy_by_hand(), rel=1e-6)
    assert terms["ce"].item() == loss.item()


def test_kd_sums_the_divergence_over_classes_and_averages_it_over_samples() -> None:
    loss, terms = KnowledgeDistillation()(*logits())
    assert terms["kd"].item() == pytest.approx(divergence_by_hand(4.0), rel=1e-6)
    assert loss.item() == pytest.approx(0.1 * cross_entropy_by_hand() + 0.9 * divergence_by_hand(4.0), rel=1e-6)


def test_bickd_is_kd_and_the_bilateral_loss() -> None:
    student, teacher, target = logits()
    loss, terms = BicKD()(student, teacher, target)
    bilateral = reference.bilateral_loss(student, teacher, target)
    expected = 0.1 * cross_entropy_by_hand() + 0.9 * divergence_by_hand(4.0) + 4.0 * bilateral.item()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert set(terms) == {"ce", "kd", "class_wise", "sample_wise"}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_terms_are_detached_and_the_loss_is_not(name: str) -> None:
    student, teacher, target = logits()
    loss, terms = METHODS[name]()(student.requires_grad_(), teacher if METHODS[name].needs_teacher else None, target)
    assert loss.requires_grad
    assert not any(term.requires_grad for term in terms.values())


@pytest.mark.parametrize("name", sorted(name for name, method in METHODS.items() if method.needs_teacher))
def test_a_method_with_a_teacher_refuses_to_run_without(name: str) -> None:
    student, _, target = logits()
    with pytest.raises(ValueError, match="teacher"):
        METHODS[name]()(student, None, target)
