"""The contract with autograd: upstream gradients, repeated backward passes, what is kept, what is never written to."""

import contextlib

import pytest
import torch
from cases import ROUNDING, Inputs, as_double, call, evaluate, make_inputs, with_absences
from checks import FLOAT32_GRADE, SINGLE_FLOAT16, TILED, single
from definition import SMALLEST, computed
from simulate import simulator
from torch import Tensor


@pytest.mark.parametrize("upstream", [0.0, 1.0, -2.5, 2.0**16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_upstream_gradient_is_applied_before_the_gradient_is_rounded(dtype: torch.dtype, upstream: float) -> None:
    inputs = make_inputs(19, 21, dtype=dtype)
    student = inputs.student.requires_grad_()
    with simulator():
        loss = call("bickd", inputs) * upstream
        (gradient,) = torch.autograd.grad(loss, student)
    _, expected = evaluate("bickd", as_double(inputs), backend="reference")
    grade = FLOAT32_GRADE if dtype == torch.float32 else SINGLE_FLOAT16
    bound = (grade + ROUNDING[dtype]) * float(expected.abs().max()) * abs(upstream) + SMALLEST[dtype]
    assert gradient.dtype == dtype
    assert float((gradient.double() - upstream * expected).abs().max()) <= bound
    if upstream == 0.0:
        assert torch.count_nonzero(gradient) == 0


def test_a_gradient_scaler_saves_a_float16_gradient_from_underflow() -> None:
    inputs = make_inputs(64, 21, dtype=torch.float16)
    inputs.student[:, 5] -= 14.0
    inputs.teacher[:, 5] -= 14.0
    inputs.target[inputs.target == 5] = 0
    student = inputs.student.requires_grad_()
    with simulator():
        (plain,) = torch.autograd.grad(call("bickd", inputs, bilateral_weight=0.0, kd_weight=0.0), student)
        (scaled,) = torch.autograd.grad(2.0**16 * call("bickd", inputs, bilateral_weight=0.0, kd_weight=0.0), student)
    _, expected = evaluate("bickd", as_double(inputs), bilateral_weight=0.0, kd_weight=0.0, backend="reference")
    assert torch.count_nonzero(plain[:, 5]) == 0
    # One rounding to float16, and a few of an exponential in float32.
    torch.testing.assert_close(scaled[:, 5].double(), 2.0**16 * expected[:, 5], rtol=2**-11 + 2**-19, atol=2**-25)
    assert (scaled[:, 5] > 0).any()


def test_a_non_contiguous_upstream_gradient_is_read_correctly() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    upstreams = torch.tensor([[7.0, 2.0], [5.0, 3.0]])[:, 1].expand(2)
    with simulator():
        (whole,) = torch.autograd.grad(call("bickd", inputs), student)
        (doubled,) = torch.autograd.grad(call("bickd", inputs), student, upstreams[0])
        (expanded,) = torch.autograd.grad(call("bickd", inputs).expand(3, 2), student, torch.ones(1, 1).expand(3, 2))
    torch.testing.assert_close(doubled, 2 * whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(expanded, 6 * whole, rtol=1e-6, atol=0)


def test_an_upstream_gradient_in_float64_is_accepted() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    with simulator():
        (whole,) = torch.autograd.grad(call("bickd", inputs), student)
        (tripled,) = torch.autograd.grad(call("bickd", inputs).double() * 3.0, student)
    torch.testing.assert_close(tripled, 3 * whole, rtol=1e-6, atol=0)


def test_the_gradients_of_several_uses_of_the_logits_add_up() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    with simulator():
        (alone,) = torch.autograd.grad(call("bickd", inputs), student)
        (call("bickd", inputs) + 0.5 * student.sum()).backward()
    torch.testing.assert_close(student.grad, alone + 0.5, rtol=1e-6, atol=0)


def test_backward_twice_over_a_kept_graph_gives_the_same_bits() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    with simulator():
        loss = call("bickd", inputs)
        first, second = (torch.autograd.grad(loss, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_no_gradient_flows_to_the_teacher() -> None:
    inputs = single(19, 5)
    expected = computed("bickd", inputs)[1]
    student, teacher = inputs.student.requires_grad_(), inputs.teacher.requires_grad_()
    with simulator():
        call("bickd", inputs).backward()
    assert teacher.grad is None
    assert torch.equal(student.grad, expected)


def test_terms_have_no_gradient() -> None:
    inputs = single(19, 5)
    inputs.student.requires_grad_()
    with simulator():
        loss, terms = call("bickd", inputs, return_terms=True)
    assert loss.requires_grad
    assert not any(term.requires_grad for term in terms)


def test_a_second_derivative_is_refused() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    with simulator():
        loss = call("bickd", inputs)
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.autograd.grad(loss, student, create_graph=True)


def test_logits_that_change_before_backward_give_the_old_gradient_or_an_error() -> None:
    inputs = single(19, 5)
    expected = computed("bickd", inputs)[1]
    student = inputs.student.clone().requires_grad_()
    for change in ("student", "teacher"):
        teacher = inputs.teacher.clone()
        logits = student * 1.0
        with simulator():
            loss = call("bickd", Inputs(logits, teacher, inputs.target))
            (logits.detach() if change == "student" else teacher).mul_(2.0)
            # The gradient of the new logits would be silently wrong.
            with contextlib.suppress(RuntimeError):
                (gradient,) = torch.autograd.grad(loss, student)
                assert torch.equal(gradient, expected)


def test_nothing_is_kept_for_backward_without_a_gradient() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    kept: list[Tensor] = []
    with (
        simulator(),
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept),
    ):
        with torch.no_grad():
            without = call("bickd", inputs)
        assert kept == []
        detached = call("bickd", inputs._replace(student=student.detach()))
        assert kept == []
        loss = call("bickd", inputs)
        assert kept != []
    assert not without.requires_grad
    assert torch.equal(detached, without)
    # Without a gradient other kernels run, which may sum in another order.
    expected = call("bickd", as_double(inputs), backend="reference").detach()
    for value in (without, loss.detach()):
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("absences", [False, True])
def test_the_inputs_are_not_written_to(absences: bool) -> None:
    inputs = single(19, 5)
    if absences:
        inputs = with_absences(inputs)
    before = [tensor.clone() for tensor in inputs]
    computed("bickd", inputs)
    for tensor, old in zip(inputs, before, strict=True):
        assert torch.equal(tensor.view(torch.uint8), old.view(torch.uint8))


@pytest.mark.parametrize("shape", [(19, 5), TILED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_calls_give_the_same_bits(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    inputs = with_absences(make_inputs(*shape, dtype=dtype))
    (loss, gradient), (again, gradient_again) = (computed("bickd", inputs) for _ in range(2))
    assert torch.equal(loss, again)
    assert torch.equal(gradient, gradient_again)
