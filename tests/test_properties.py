"""Symmetries that follow from the definition, for batches that hypothesis draws."""

import pytest
import torch
from cases import KINDS, LABELLED_KINDS, Inputs, evaluate, make_inputs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def assert_same(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@st.composite
def batches(draw: st.DrawFn) -> Inputs:
    samples, classes = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    scale = draw(st.sampled_from([0.1, 1.0, 8.0]))
    inputs = make_inputs(samples, classes, seed=draw(st.integers(0, 2**16)), scale=scale)
    inputs.target[torch.tensor(draw(st.lists(st.booleans(), min_size=samples, max_size=samples)))] = -100
    return inputs


def permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@given(inputs=batches(), seed=st.integers(0, 2**16))
def test_the_order_of_the_samples_does_not_matter(kind: str, inputs: Inputs, seed: int) -> None:
    order = permutation(len(inputs.student), seed)
    loss, gradient = evaluate(kind, inputs)
    assert_same(evaluate(kind, Inputs(*(tensor[order] for tensor in inputs))), (loss, gradient[order]))


@pytest.mark.parametrize("kind", KINDS)
@given(inputs=batches(), seed=st.integers(0, 2**16))
def test_the_order_of_the_classes_does_not_matter(kind: str, inputs: Inputs, seed: int) -> None:
    order = permutation(inputs.student.shape[1], seed)
    target = torch.where(inputs.target >= 0, order.argsort()[inputs.target.clamp(min=0)], inputs.target)
    loss, gradient = evaluate(kind, inputs)
    permuted = Inputs(inputs.student[:, order], inputs.teacher[:, order], target)
    assert_same(evaluate(kind, permuted), (loss, gradient[:, order]))


@pytest.mark.parametrize("kind", KINDS)
@given(inputs=batches(), seed=st.integers(0, 2**16))
def test_a_shift_of_a_row_of_logits_does_not_matter(kind: str, inputs: Inputs, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shifts = 10 * torch.randn(2, len(inputs.student), 1, dtype=torch.float64, generator=generator)
    shifted = Inputs(inputs.student + shifts[0], inputs.teacher + shifts[1], inputs.target)
    assert_same(evaluate(kind, shifted), evaluate(kind, inputs))


@pytest.mark.parametrize("kind", KINDS)
@given(inputs=batches())
def test_the_gradient_of_a_row_sums_to_zero(kind: str, inputs: Inputs) -> None:
    # A shift of a row does not change the loss, so the gradient along the shift is 0.
    _, gradient = evaluate(kind, inputs)
    torch.testing.assert_close(gradient.sum(1), torch.zeros_like(gradient[:, 0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LABELLED_KINDS)
@given(inputs=batches())
def test_the_default_backend_matches_the_reference(kind: str, inputs: Inputs) -> None:
    assert_same(evaluate(kind, inputs), evaluate(kind, inputs, backend="reference"))


@given(inputs=batches())
def test_swapping_student_and_teacher_does_not_change_the_bilateral_loss(inputs: Inputs) -> None:
    loss, _ = evaluate("bilateral", inputs)
    swapped, _ = evaluate("bilateral", inputs._replace(student=inputs.teacher, teacher=inputs.student))
    torch.testing.assert_close(swapped, loss, rtol=1e-10, atol=1e-12)


@given(samples=st.integers(1, 9), more_classes=st.integers(0, 3), seed=st.integers(0, 2**16))
def test_distinct_targets_have_the_effect_of_no_targets(samples: int, more_classes: int, seed: int) -> None:
    distinct = make_inputs(samples, samples + more_classes, seed=seed)._replace(target=permutation(samples, seed))
    assert_same(evaluate("bilateral", distinct), evaluate("bilateral_unlabelled", distinct))
