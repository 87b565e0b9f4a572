"""``torch.compile`` with the kernels: one graph serves every batch and option, and gives the same results."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from cases import KINDS, call, make_inputs
from launch_ir import text_of
from simulate import simulator
from stand_in import gpu_restored
from torch._dynamo.testing import CompileCounterWithBackend
from triton.backends.compiler import GPUTarget
from ttsem import _fakedriver, harness, sanitize

from bickd_kernels.backends import choice

SHAPES = [(16, 24), (40, 150)]


def kernels_by_decree(*_: object) -> str:
    return "triton"


def intermediate_code(launch: harness.LaunchRecord, stage: str, target: GPUTarget, *_: Any, **__: Any) -> str:
    return text_of(launch, stage, target)


@contextmanager
def traceable_simulator() -> Iterator[sanitize.Session]:
    """Executes launches while PyTorch sees CPU tensors, because its compiler inspects GPU tensors closely. A patch selects
    the kernels as backend.
    """
    with (
        gpu_restored(),
        sanitize.session(cc=90, cuda_is_cpu=False) as session,
        mock.patch.object(harness, "ir_for_launch", intermediate_code),
        mock.patch.object(choice, "resolve", kernels_by_decree),
    ):
        _fakedriver.unstub_torch_cuda()
        torch._dynamo.reset()
        yield session
    torch._dynamo.reset()


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_gives_the_same_results(kind: str, shape: tuple[int, int], compiler: str) -> None:
    inputs = make_inputs(*shape, dtype=torch.float32)
    student = inputs.student.requires_grad_()
    with simulator() as session:
        loss = call(kind, inputs)
        (gradient,) = torch.autograd.grad(loss, student)
        launches = session.launches
    with traceable_simulator() as session:
        compiled = torch.compile(call, fullgraph=True, backend=compiler)
        compiled_loss = compiled(kind, inputs)
        (compiled_gradient,) = torch.autograd.grad(compiled_loss, student)
        assert session.launches == launches
    assert torch.equal(compiled_loss, loss)
    assert torch.equal(compiled_gradient, gradient)


def test_a_compiled_loss_follows_its_inputs() -> None:
    with traceable_simulator():
        compiled = torch.compile(call, fullgraph=True, backend="eager")
        first, second = (make_inputs(16, 24, dtype=torch.float32, seed=seed) for seed in range(2))
        losses = [compiled("bickd", inputs) for inputs in (first, second)]
        assert torch.equal(losses[0], call("bickd", first))
        assert torch.equal(losses[1], call("bickd", second))
        assert not torch.equal(*losses)


@pytest.mark.parametrize(("dynamic", "allowed"), [(None, 2), (True, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_batches_of_any_size_and_options_on_a_schedule_are_compiled_twice_at_most(
    shape: tuple[int, int], dynamic: bool | None, allowed: int
) -> None:
    samples, classes = shape
    with traceable_simulator():
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(call, fullgraph=True, backend=counter, dynamic=dynamic)
        for step, size in enumerate((samples, samples + 3, samples + 7, samples - 5)):
            inputs = make_inputs(size, classes, dtype=torch.float32)
            options = {"bilateral_weight": 1.0 + 0.5 * step, "contrast_temperature": 0.2 + 0.1 * step}
            assert torch.equal(compiled("bickd", inputs, **options), call("bickd", inputs, **options))
        assert counter.frame_count <= allowed
