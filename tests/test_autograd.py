"""The losses under autograd: upstream gradients, accumulation, the teacher, second derivatives, what backward keeps."""

from typing import Any

import oracle
import pytest
import torch
from cases import KINDS, call, evaluate, make_inputs, relative_error, term_rounding
from torch import Tensor

from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.backends import torch as torch_backend


def leaf_and_loss(kind: str = "bickd", samples: int = 7, classes: int = 5, **options: Any) -> tuple[Tensor, Tensor]:
    inputs = make_inputs(samples, classes)
    student = inputs.student.requires_grad_()
    return student, call(kind, inputs._replace(student=student), **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 5), (5, 3), (1, 3)])
def test_the_gradient_matches_finite_differences(kind: str, shape: tuple[int, int]) -> None:
    inputs = make_inputs(*shape, scale=1.0)
    student = inputs.student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: call(kind, inputs._replace(student=x)), student)


def test_the_gradient_with_an_ignored_row_matches_finite_differences() -> None:
    inputs = make_inputs(5, 4, scale=1.0)
    inputs.target[3] = -100
    student = inputs.student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bickd_loss(x, *inputs[1:]), student)


def test_the_gradient_matches_finite_differences_of_the_definition() -> None:
    inputs = make_inputs(4, 3, scale=1.0)
    step = 1e-5

    def definition(student: Tensor) -> float:
        return oracle.total(oracle.terms(student.numpy(), inputs.teacher.numpy(), inputs.target.numpy()))

    expected = torch.empty_like(inputs.student)
    for index in range(expected.numel()):
        offset = torch.zeros_like(inputs.student)
        offset.view(-1)[index] = step
        difference = definition(inputs.student + offset) - definition(inputs.student - offset)
        expected.view(-1)[index] = difference / (2 * step)
    _, gradient = evaluate("bickd", inputs)
    # A central difference is wrong by step^2 and by the rounding of the loss over the step, both about 1e-10.
    assert relative_error(gradient, expected) <= 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_an_expanded_upstream_gradient_adds_up(kind: str) -> None:
    student, loss = leaf_and_loss(kind)
    (once,) = torch.autograd.grad(loss, student, retain_graph=True)
    (thrice,) = torch.autograd.grad(loss.expand(3).sum(), student)
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-14, atol=0)


def test_a_non_contiguous_upstream_gradient_adds_up() -> None:
    student, loss = leaf_and_loss()
    (once,) = torch.autograd.grad(loss, student, retain_graph=True)
    strided = torch.arange(8.0, dtype=torch.float64)[1::2]
    assert not strided.is_contiguous()
    (by_product,) = torch.autograd.grad((loss * strided).sum(), student, retain_graph=True)
    (by_upstream,) = torch.autograd.grad(loss.expand(4), student, grad_outputs=strided)
    torch.testing.assert_close(by_product, 16 * once, rtol=1e-14, atol=0)
    torch.testing.assert_close(by_upstream, 16 * once, rtol=1e-14, atol=0)


def test_a_zero_upstream_gradient_gives_zero() -> None:
    student, loss = leaf_and_loss()
    (gradient,) = torch.autograd.grad(loss * 0, student)
    assert torch.equal(gradient, torch.zeros_like(student))


def test_the_gradient_flows_through_a_larger_graph() -> None:
    inputs = make_inputs(7, 5)
    weight = torch.eye(5, dtype=torch.float64).mul_(0.5).requires_grad_()
    (bickd_loss(inputs.student @ weight, *inputs[1:]) ** 2).backward()
    loss, gradient = evaluate("bickd", inputs._replace(student=inputs.student * 0.5))
    torch.testing.assert_close(weight.grad, 2 * loss * inputs.student.T @ gradient, rtol=1e-12, atol=1e-13)


def test_gradients_accumulate() -> None:
    student, loss = leaf_and_loss()
    loss.backward(retain_graph=True)
    once = student.grad.clone()
    loss.backward()
    assert torch.equal(student.grad, 2 * once)


def test_writing_to_a_gradient_does_not_change_the_next() -> None:
    student, loss = leaf_and_loss()
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    expected = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(loss, student)
    assert torch.equal(second, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_that_requires_grad_gets_no_gradient(kind: str, backend: str) -> None:
    inputs = make_inputs(6, 4)
    student, teacher = inputs.student.requires_grad_(), inputs.teacher.requires_grad_()
    call(kind, inputs, backend=backend).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_student_without_requires_grad_does_not_require_grad(kind: str, backend: str) -> None:
    inputs = make_inputs(6, 4)
    inputs.teacher.requires_grad_()
    loss = call(kind, inputs, backend=backend)
    assert not loss.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_one_tensor_may_be_student_and_teacher(kind: str, backend: str) -> None:
    inputs = make_inputs(6, 4)
    shared = inputs.student.requires_grad_()
    (gradient,) = torch.autograd.grad(call(kind, inputs._replace(teacher=shared), backend=backend), shared)
    _, expected = evaluate(kind, inputs._replace(teacher=inputs.student.detach()), backend=backend)
    assert torch.equal(gradient, expected)


# PyTorch warns about every backward with create_graph.
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_derivative_is_refused(kind: str) -> None:
    student, loss = leaf_and_loss(kind)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(loss, student, create_graph=True)
    student, loss = leaf_and_loss(kind)
    with pytest.raises(RuntimeError, match="second derivative"):
        loss.backward(create_graph=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_grad_mode_no_gradient_is_computed(kind: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    compute = torch_backend.compute

    def spy(batch: Any, settings: Any, gradient_rows: slice | None) -> Any:
        result = compute(batch, settings, gradient_rows)
        asked.append(gradient_rows is not None)
        assert (result.gradient is not None) == asked[-1]
        return result

    monkeypatch.setattr(torch_backend, "compute", spy)
    inputs = make_inputs(6, 4)
    inputs.student.requires_grad_()
    expected = call(kind, inputs)
    with mode():
        loss = call(kind, inputs)
    detached = call(kind, inputs._replace(student=inputs.student.detach()))
    assert asked == [True, False, False]
    assert not loss.requires_grad
    assert not detached.requires_grad
    # The weights add up to at most 9. Calls without a gradient run the same computation: equal bits.
    torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=9 * term_rounding())
    assert torch.equal(loss, detached)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_larger_than_the_logits_is_kept_for_backward(kind: str) -> None:
    kept: list[Tensor] = []

    def remember(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        leaf_and_loss(kind, samples=6, classes=40)
        leaf_and_loss(kind, samples=40, classes=6)
    assert kept
    assert sum(tensor.numel() for tensor in kept) <= 2 * 6 * 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_float16_gradient_does_not_underflow_under_a_loss_scale(kind: str) -> None:
    scale = 65536.0
    half = make_inputs(3001, 6, dtype=torch.float16)
    student = half.student.requires_grad_()
    (call(kind, half._replace(student=student)) * scale).backward()
    single = half._replace(student=half.student.detach().float(), teacher=half.teacher.float())
    _, gradient = evaluate(kind, single)
    expected = gradient * scale
    # Without the loss scale, some of these gradients would underflow in float16.
    assert torch.count_nonzero(gradient.half()) < torch.count_nonzero(expected.half())
    # Both start from the same copy in float32. Rounding to float16 adds half a unit in the last place, or half the smallest
    # number.
    torch.testing.assert_close(student.grad.float(), expected, rtol=2**-11, atol=2**-25)


def test_the_gradients_of_two_losses_of_one_student_add_up() -> None:
    inputs = make_inputs(6, 4)
    student = inputs.student.requires_grad_()
    (bickd_loss(student, *inputs[1:]) + bilateral_loss(student, inputs.teacher)).backward()
    parts = [evaluate(kind, inputs)[1] for kind in ("bickd", "bilateral_unlabelled")]
    torch.testing.assert_close(student.grad, parts[0] + parts[1], rtol=1e-14, atol=1e-15)
