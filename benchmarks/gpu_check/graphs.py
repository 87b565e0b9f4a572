"""Phase: checks the loss in CUDA graphs and under ``torch.compile``."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check.steps import captured
from benchmarks.gpu_check.task import Task
from bickd_kernels import bickd_loss
from bickd_kernels.accuracy import Case, evaluate, make_batch

CAPTURED = (Case(64, 100, torch.bfloat16), Case(256, 1000, torch.float32), Case(70, 2200, torch.bfloat16))
COMPILED = Case(256, 1000, torch.float32)
SCHEDULE = (256, 100, 64, 256, 31)
"""Consecutive batch sizes, each with its own weight."""


def tasks(_folder: Path) -> list[Task]:
    """All tasks of the phase; those that wait for Inductor come last."""
    return [
        *(Task(f"CUDA graph of {case}", partial(check_graph, case), 60) for case in CAPTURED),
        Task("torch.compile without Inductor", partial(check_compiled, "aot_eager"), 60),
        Task("torch.compile of a schedule and of batch sizes", check_schedule, 90),
        Task("torch.compile by Inductor", partial(check_compiled, "inductor"), 90),
        Task('torch.compile(mode="reduce-overhead")', check_reduce_overhead, 90),
    ]


def check_graph(case: Case) -> dict[str, Any]:
    """Captured forward and backward, replayed on another batch in the same memory, give the bits of eager mode."""
    batch = make_batch(case, "cuda")
    student, teacher, target = batch
    assert target is not None
    student.requires_grad_()

    results: list[tuple[Tensor, Tensor]] = []

    def step() -> None:
        loss = bickd_loss(student, teacher, target, backend="triton")
        results.append((loss, torch.autograd.grad(loss, student)[0]))

    graph = captured(step, 1)
    loss, gradient = results[-1]
    student.data.copy_(student.data.flip(0))
    graph.replay()
    true_loss, true_gradient = evaluate(case, batch, "triton")
    return {"passed": torch.equal(loss.detach(), true_loss) and torch.equal(gradient, true_gradient)}


def check_compiled(backend: str) -> dict[str, Any]:
    """One graph without a break, with the bits of eager mode."""
    torch.compiler.reset()
    compiled = torch.compile(_loss, fullgraph=True, backend=backend)
    batch = make_batch(COMPILED, "cuda")
    return _compared([compiled_step(compiled, batch)], [evaluate(COMPILED, batch, "triton")])


def check_schedule() -> dict[str, Any]:
    """At most two compilations for batches of several sizes, each with a different weight."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(_loss, fullgraph=True, backend=counter)
    actual, expected = [], []
    for number, samples in enumerate(SCHEDULE):
        case = Case(samples, 1000, torch.bfloat16, options={"bilateral_weight": 1.0 + number})
        batch = make_batch(case, "cuda")
        actual.append(compiled_step(compiled, batch, bilateral_weight=1.0 + number))
        expected.append(evaluate(case, batch, "triton"))
    found = _compared(actual, expected)
    few = counter.frame_count <= 2
    return {**found, "passed": found["passed"] and few, "compilations": counter.frame_count}


def check_reduce_overhead() -> dict[str, Any]:
    """Several steps in the CUDA-graph mode, which leaves the loss out of its graphs."""
    torch.compiler.reset()
    compiled = torch.compile(_loss, mode="reduce-overhead")
    batch = make_batch(COMPILED, "cuda")
    actual = [tuple(each.clone() for each in compiled_step(compiled, batch)) for _ in range(4)]
    return _compared(actual, [evaluate(COMPILED, batch, "triton")] * 4)


def compiled_step(compiled: Any, batch: Any, **options: float) -> tuple[Tensor, Tensor]:
    """Loss and gradient from a compiled function."""
    student = batch.student.detach().requires_grad_()
    loss = compiled(student, batch.teacher, batch.target, **options)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


def _loss(student: Tensor, teacher: Tensor, target: Tensor, bilateral_weight: float = 4.0) -> Tensor:
    # Stands for the network before the loss, so that there is something to compile.
    return bickd_loss(student * 1.0, teacher, target, bilateral_weight=bilateral_weight, backend="triton")


def _compared(actual: list[Any], expected: list[Any]) -> dict[str, Any]:
    """Whether losses and gradients are equal, and the difference of the gradients."""
    worst, equal = 0.0, True
    for (loss, gradient), (true_loss, true_gradient) in zip(actual, expected, strict=True):
        difference = (gradient.float() - true_gradient.float()).abs().max() / true_gradient.float().abs().max()
        worst = max(worst, float(difference))
        equal = equal and torch.equal(loss, true_loss) and torch.equal(gradient, true_gradient)
    return {"passed": equal, "difference": worst}
