"""The timed batches, a training step on them, and its GPU time."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bickd_kernels import reference
from bickd_kernels.accuracy import Case, loss_of, make_batch
from bickd_kernels.backends.contract import Batch

Step = Callable[[], object]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

DTYPES = (torch.bfloat16, torch.float32)

TIMED = (
    *(Case(*shape, dtype) for shape in ((64, 100), (128, 100), (256, 1000), (1024, 1000), (256, 21841)) for dtype in DTYPES),
    # A vocabulary: only the sample side.
    Case(2048, 32000, torch.bfloat16, loss="bilateral_loss", options={"class_wise_weight": 0.0}),
)
"""The batches of the table in ``docs/performance.md``."""

ROUNDS = 15


def key(case: Case) -> dict[str, Any]:
    """What identifies a timed batch."""
    side = ", sample side alone" if case.loss == "bilateral_loss" else ""
    return {"batch": f"{case.samples}, {case.classes}{side}", "dtype": str(case.dtype).removeprefix("torch.")}


def by_backend(case: Case, backend: str) -> Loss:
    """The loss of a case with a backend."""
    return lambda *batch: loss_of(case, Batch(*batch), backend)


def by_definition(case: Case) -> Loss:
    """The bare formulas in float32, also for 16-bit logits."""
    if case.loss == "bickd_loss":
        # Importing it makes Inductor start processes.
        from benchmarks.dispatched import definition

        return definition
    return lambda x, y, target: reference.sample_wise(x.float(), y.float(), target, 2.0, 0.2)


def step_of(loss: Loss, batch: Batch) -> Step:
    """Forward and backward."""
    student, teacher, target = batch
    assert target is not None
    student = student.detach().requires_grad_()
    return lambda: torch.autograd.grad(loss(student, teacher, target), student)


def step_by(case: Case, backend: str) -> Step:
    """Forward and backward of a case with a backend, on the GPU."""
    return step_of(by_backend(case, backend), make_batch(case, "cuda"))


def megabytes(step: Step) -> float:
    """Peak memory of a step beyond the memory in use before it."""
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def seconds_between_events(step: Step, repetitions: int) -> float:
    """The median time of one step by CUDA events."""
    step()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repetitions)]
    for start, end in pairs:
        start.record()
        step()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in pairs) / 1e3


def captured(step: Step, count: int) -> torch.cuda.CUDAGraph:
    """A graph of several consecutive steps."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            step()
    return graph


def replayed_milliseconds(steps: Mapping[str, Step]) -> dict[str, float]:
    """GPU time per step for each of ``steps``, replayed from graphs: the median over interleaved rounds."""
    graphs = {}
    for name, step in steps.items():
        seconds = seconds_between_events(captured(step, 1).replay, 3)
        # A millisecond or two, because event times are accurate to little better than a microsecond.
        count = max(1, min(20, int(2e-3 / max(seconds, 1e-6))))
        graphs[name] = count, captured(step, count)
    found: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS):
        for name, (count, graph) in graphs.items():
            found[name].append(1e3 * seconds_between_events(graph.replay, 1) / count)
    return {name: statistics.median(times) for name, times in found.items()}
