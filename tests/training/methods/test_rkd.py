"""Relational knowledge distillation against a transcription of its formulas, pair by pair and triple by triple."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from training.methods import Samples, make_method
from training.methods.rkd import relational_losses
from training.models.output import Output

Rows = list[list[float]]


def smooth_l1(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def distances_by_hand(rows: Rows) -> Rows:
    distances = [[math.dist(a, b) for b in rows] for a in rows]
    positive = [d for row in distances for d in row if d > 0]
    mean = sum(positive) / len(positive) if positive else 1.0
    return [[d / mean for d in row] for row in distances]


def cosine_by_hand(rows: Rows, i: int, j: int, k: int) -> float:
    to_j = [b - a for a, b in zip(rows[i], rows[j], strict=True)]
    to_k = [b - a for a, b in zip(rows[i], rows[k], strict=True)]
    lengths = math.hypot(*to_j) * math.hypot(*to_k)
    return sum(a * b for a, b in zip(to_j, to_k, strict=True)) / lengths if lengths > 0 else 0.0


def losses_by_hand(student: Rows, teacher: Rows) -> tuple[float, float]:
    count, s, t = len(student), distances_by_hand(student), distances_by_hand(teacher)
    distance = sum(smooth_l1(s[i][j] - t[i][j]) for i in range(count) for j in range(count)) / count**2
    angle = 0.0
    for i in range(count):
        for j in range(count):
            for k in range(count):
                angle += smooth_l1(cosine_by_hand(student, i, j, k) - cosine_by_hand(teacher, i, j, k))
    return distance, angle / count**3


def features(count: int, *widths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, width, generator=generator, dtype=torch.float64) for width in widths]


def largest_elements(student: Tensor, teacher: Tensor, block_elements: int) -> tuple[int, int]:
    """Elements of the largest tensor in forward and backward, and of all tensors kept in between."""
    largest = 0
    kept: dict[int, Tensor] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    def keep(tensor: Tensor) -> Tensor:
        # Every block keeps the same inner products: they are in memory once.
        kept[tensor.data_ptr()] = tensor
        return tensor

    with Watch():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            distance, angle = relational_losses(student, teacher, block_elements)
        (distance + angle).backward()
    return largest, sum(tensor.numel() for tensor in kept.values())


def test_losses_match_the_formulas_for_features_of_different_widths() -> None:
    student, teacher = features(5, 3, 4)
    teacher[3] = teacher[1]
    loss, terms = make_method("rkd")(
        Output(torch.zeros(5, 2).double(), student),
        Output(torch.zeros(5, 2).double(), teacher),
        Samples(torch.tensor([0, 1, 0, 1, 0]), torch.arange(5)),
    )
    distance, angle = losses_by_hand(student.tolist(), teacher.tolist())
    assert distance > 0.01
    assert angle > 0.01
    assert terms["distance"].item() == pytest.approx(distance, rel=1e-9)
    assert terms["angle"].item() == pytest.approx(angle, rel=1e-9)
    assert loss.item() == pytest.approx(math.log(2) + 25 * distance + 50 * angle, rel=1e-9)


@pytest.mark.parametrize("block_elements", [1, 150])
def test_blocks_of_anchors_give_the_same_loss_and_gradient_as_all_at_once(block_elements: int) -> None:
    student, teacher = features(7, 3, 4)
    results = []
    for elements in (10**9, block_elements):
        x = student.clone().requires_grad_()
        distance, angle = relational_losses(x, teacher, elements)
        (distance + 2 * angle).backward()
        results.append((distance.detach(), angle.detach(), x.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-14)


def test_the_gradient_matches_finite_differences() -> None:
    student, teacher = features(4, 3, 2)
    assert torch.autograd.gradcheck(lambda x: relational_losses(x, teacher, 1), student.requires_grad_())


def test_neither_the_largest_tensor_nor_what_is_kept_grows_with_the_cube_of_the_batch() -> None:
    student, teacher = features(32, 4, 4)
    largest, kept = largest_elements(student.requires_grad_(), teacher, 2 * 32**2)
    assert largest == 2 * 32**2
    assert kept < 32**3 / 2
    assert largest_elements(student, teacher, 10**9)[0] == 32**3


@pytest.mark.parametrize(
    ("rows", "largest"),
    [
        ([[0.5, 2.0]], 0.0),
        ([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], 0.0),
        # All slopes are at most 1. Of 9 pairs 4 have a distance, the square root of 2, in itself and in the mean; 6 of 27
        # triples have an angle, with a gradient of at most 1 / distance for each of its sides.
        ([[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]], (4 + 4) / math.sqrt(2) / 9 + 6 * 2 / math.sqrt(2) / 27),
    ],
)
def test_single_and_coinciding_features_have_finite_losses_and_gradients(rows: Rows, largest: float) -> None:
    student = torch.tensor(rows, requires_grad=True)
    (teacher,) = features(len(rows), 3)
    distance, angle = relational_losses(student, teacher.float())
    (distance + angle).backward()
    expected = losses_by_hand(rows, teacher.tolist())
    assert [distance.item(), angle.item()] == pytest.approx(expected, rel=1e-5)
    assert student.grad is not None
    assert student.grad.abs().max() <= largest


def test_features_that_are_close_together_and_far_from_0_keep_float32_accuracy() -> None:
    # A Gram matrix in float32 would lose distances of 1e-3 between features near 10.
    student, teacher = (1e-3 * each + 10 for each in features(5, 3, 4))
    student, teacher = student.float(), teacher.float()
    distance, angle = relational_losses(student, teacher)
    expected = losses_by_hand(student.double().tolist(), teacher.double().tolist())
    assert [distance.item(), angle.item()] == pytest.approx(expected, rel=1e-6)
