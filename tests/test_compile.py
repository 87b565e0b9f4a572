"""Compilers, exporters and transforms: one graph serves batches of any size and any value of an option."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from cases import (
    KINDS,
    Inputs,
    call,
    evaluate,
    loss_and_gradient,
    make_inputs,
    relative_error,
    typical_errors,
    with_absences,
)
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from bickd_kernels import BicKDLoss, bickd_loss, bilateral_loss, operator
from bickd_kernels.options import BilateralOptions

SIZES = (8, 3, 11, 8, 5)
"""Numbers of samples in successive batches."""


@pytest.mark.parametrize(
    ("loss", "dtype", "floor"),
    [
        pytest.param(bilateral_loss, torch.float64, 1e-10, id="bilateral"),
        # Fused code sums in another order, so its error against the truth is bounded.
        pytest.param(bickd_loss, torch.float32, 1e-7, id="bickd"),
    ],
)
def test_a_loss_compiled_as_one_graph_is_as_accurate_as_in_eager_mode(loss: Any, dtype: torch.dtype, floor: float) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True)
    eager = partial(loss_and_gradient, loss)
    plain = [make_inputs(13, 11, dtype=dtype, seed=seed) for seed in range(8)]
    for batches in ([with_absences(inputs) for inputs in plain], plain):
        errors = typical_errors(partial(loss_and_gradient, compiled), eager, batches)
        eager_errors = typical_errors(eager, eager, batches)
        assert all(error <= 2 * other + floor for error, other in zip(errors, eager_errors, strict=True))
    assert torch.count_nonzero(loss_and_gradient(compiled, with_absences(plain[0]))[1][1]) == 0


def compiled_and_counter(function: Callable[..., Any], **how: Any) -> tuple[Callable[..., Any], CompileCounterWithBackend]:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(function, fullgraph=True, backend=counter, **how), counter


def assert_same(compiled: Callable[..., Any], function: Callable[..., Any], inputs: Inputs, **options: Any) -> None:
    results = loss_and_gradient(compiled, inputs, **options), loss_and_gradient(function, inputs, **options)
    assert results[1][1].abs().max() > 0
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("dynamic", "allowed"), [(None, 2), (True, 1)])
@pytest.mark.parametrize("loss", [bilateral_loss, bickd_loss])
def test_batches_of_any_size_are_compiled_twice_at_most(loss: Any, dynamic: bool | None, allowed: int) -> None:
    compiled, counter = compiled_and_counter(loss, dynamic=dynamic)
    for seed, size in enumerate(SIZES):
        assert_same(compiled, loss, make_inputs(size, 7, seed=seed))
    assert counter.frame_count <= allowed


def test_batches_of_any_leading_dimensions_are_compiled_twice_at_most() -> None:
    compiled, counter = compiled_and_counter(bickd_loss)
    for height in (4, 3, 5):
        assert_same(compiled, bickd_loss, Inputs(*(x.unflatten(0, (2, height)) for x in make_inputs(2 * height, 7))))
    assert counter.frame_count <= 2


@pytest.mark.parametrize(
    "name", ["bilateral_temperature", "contrast_temperature", "kd_temperature", "ce_weight", "class_wise_weight"]
)
def test_an_option_on_a_schedule_is_compiled_twice_at_most(name: str) -> None:
    compiled, counter = compiled_and_counter(bickd_loss)
    for step, size in enumerate(SIZES):
        assert_same(compiled, bickd_loss, make_inputs(size, 7, seed=step), **{name: 1.5 - 0.25 * step})
    assert counter.frame_count <= 2


def test_a_weight_on_a_schedule_may_start_at_zero() -> None:
    compiled, counter = compiled_and_counter(bickd_loss)
    for step in range(4):
        assert_same(compiled, bickd_loss, make_inputs(8, 7, seed=step), bilateral_weight=0.5 * step)
    assert counter.frame_count <= 3


def test_a_compiled_loss_refuses_a_number_out_of_range_when_it_runs() -> None:
    compiled, _ = compiled_and_counter(bickd_loss)
    inputs = make_inputs(8, 7)
    for temperature in (2.0, 3.0):
        compiled(*inputs, kd_temperature=temperature)
    with pytest.raises(ValueError, match=r"kd_temperature must be positive, got -1.0"):
        compiled(*inputs, kd_temperature=-1.0)


def test_a_compiled_loss_refuses_a_tensor_in_place_of_a_number() -> None:
    compiled, _ = compiled_and_counter(bickd_loss)
    # PyTorch before 2.7 does not say what the exception was.
    with pytest.raises(Exception, match=r"kd_weight must be a Python number, got Tensor|Observed exception"):
        compiled(*make_inputs(8, 7), kd_weight=torch.tensor(1.0))


def test_an_attribute_of_a_module_on_a_schedule_is_compiled_twice_at_most() -> None:
    criterion = BicKDLoss()
    compiled, counter = compiled_and_counter(criterion)
    for step in range(4):
        criterion.bilateral_weight = 1.0 + step
        assert_same(compiled, criterion, make_inputs(8, 7, seed=step))
    assert counter.frame_count <= 2


def test_a_compiled_model_with_a_loss_module_has_the_same_gradients() -> None:
    torch._dynamo.reset()
    inputs = make_inputs(8, 7)
    layer, criterion = torch.nn.Linear(7, 7, dtype=torch.float64), BicKDLoss()

    def step(student: Tensor, teacher: Tensor, target: Tensor) -> Any:
        return criterion(layer(student), teacher, target)

    gradients = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        layer.zero_grad()
        function(*inputs).backward()
        gradients.append(layer.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_loss_returns_its_terms(kind: str) -> None:
    inputs = make_inputs(8, 7)
    compiled, _ = compiled_and_counter(call)
    expected_loss, expected = call(kind, inputs, return_terms=True)
    loss, terms = compiled(kind, inputs, return_terms=True)
    assert torch.equal(loss, expected_loss)
    assert all(torch.equal(term, other) for term, other in zip(terms, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_operators_pass_the_checks_of_pytorch(kind: str) -> None:
    inputs = make_inputs(6, 5, dtype=torch.float32)
    target = None if kind == "bilateral_unlabelled" else inputs.target
    options = operator.flattened(BilateralOptions(), "bilateral_loss", "torch")
    for student in (inputs.student, inputs.student.clone().requires_grad_()):
        torch.library.opcheck(operator.loss, (student, inputs.teacher, target, *options))
    torch.library.opcheck(operator.loss_and_gradient, (inputs.student, inputs.teacher, target, *options, True))
    torch.library.opcheck(operator.scaled_gradient, (inputs.teacher, torch.tensor(2.0), torch.float16))


class Criterion(torch.nn.Module):
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Any:
        return bickd_loss(student, teacher, target)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_loss_takes_batches_of_any_size(strict: bool) -> None:
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(
        Criterion(), tuple(make_inputs(4, 7)), dynamic_shapes=({0: batch}, {0: batch}, {0: batch}), strict=strict
    )
    for size in (4, 9):
        inputs = make_inputs(size, 7, seed=size)
        torch.testing.assert_close(exported.module()(*inputs), bickd_loss(*inputs), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_meta_tensors_have_a_loss_and_a_gradient_of_the_right_shape_and_dtype(kind: str) -> None:
    inputs = Inputs(*(tensor.to("meta") for tensor in make_inputs(6, 5, dtype=torch.float16)))
    loss, gradient = evaluate(kind, inputs)
    assert (loss.device.type, loss.shape, loss.dtype) == ("meta", (), torch.float32)
    assert (gradient.device.type, gradient.shape, gradient.dtype) == ("meta", (6, 5), torch.float16)


@pytest.mark.parametrize("kind", KINDS)
def test_fake_tensors_have_a_loss_and_a_gradient_of_the_right_shape_and_dtype(kind: str) -> None:
    with FakeTensorMode() as mode:
        inputs = Inputs(*(mode.from_tensor(tensor) for tensor in make_inputs(6, 5, dtype=torch.bfloat16)))
        loss, gradient = evaluate(kind, inputs)
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert (gradient.shape, gradient.dtype) == ((6, 5), torch.bfloat16)


def test_a_traced_loss_follows_its_inputs() -> None:
    first, second = make_inputs(6, 5), make_inputs(6, 5, seed=1)
    with warnings.catch_warnings():
        # PyTorch warns that tracing is deprecated, and that the options become constants.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(lambda *inputs: bickd_loss(*inputs), tuple(first))
    torch.testing.assert_close(traced(*second), bickd_loss(*second), rtol=1e-14, atol=0)


@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
def test_vmap_computes_each_loss_separately() -> None:
    students, teachers = (torch.stack(side) for side in zip(*(make_inputs(6, 5, seed=s)[:2] for s in range(3)), strict=True))
    losses = torch.func.vmap(bilateral_loss)(students, teachers)
    expected = torch.stack([bilateral_loss(*pair) for pair in zip(students, teachers, strict=True)])
    torch.testing.assert_close(losses, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev])
def test_functional_gradients_work_with_the_reference_and_are_refused_otherwise(transform: Any) -> None:
    student, teacher, target = make_inputs(6, 5)
    with pytest.raises(RuntimeError, match=r'torch\.func cannot differentiate this loss: use .* backend="reference"$'):
        transform(partial(bickd_loss, teacher_logits=teacher, target=target))(student)
    by_reference = torch.func.grad(partial(bickd_loss, teacher_logits=teacher, target=target, backend="reference"))(student)
    _, expected = evaluate("bickd", Inputs(student, teacher, target))
    assert relative_error(by_reference, expected) <= 1e-12
