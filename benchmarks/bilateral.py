"""Time and memory of ``bilateral_loss`` on the CPU, forward and gradient, against what its definition costs.

    eager     the formulas of ``bickd_kernels.reference``, differentiated by autograd
    compiled  the same under ``torch.compile``
    tiled     ``bilateral_loss(..., backend="torch")``, argument checks included

Eager and compiled are the bare formulas, without argument checks or the handling of edge cases, which flatters them. All
providers are timed in turn in one process, and the ratio is the median of the ratios of neighbouring runs, so that a
machine whose speed drifts slows both sides. Memory is how far the resident set grows over one call, each in a
process of its own.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bickd_kernels import bilateral_loss, reference

CASES = [(64, 100, 60), (256, 1000, 40), (256, 8192, 5), (256, 16384, 2)]
"""Samples, classes, interleaved repetitions."""

SHORTEST_REPETITION = 0.01
"""Seconds: a repetition calls a fast provider several times in a row, as many for each of them."""

LARGEST_COMPILED = 8192
LIMITS = {
    (64, 100): (0.9, 1.2, None),
    (256, 1000): (0.6, 1.0, 0.7),
    (256, 8192): (0.5, 1.0, 0.2),
    (256, 16384): (0.5, None, 0.08),
}
"""The ratios aimed at: time to eager, time to compiled, memory to eager."""

STANDARD_DEVIATION = 3.0

Loss = Callable[[Tensor, Tensor], Tensor]


def definition(student: Tensor, teacher: Tensor) -> Tensor:
    """The bilateral loss without targets at the default temperatures, as formulas alone."""
    return reference.class_wise(student, teacher, 2.0, 0.2) + reference.sample_wise(student, teacher, None, 2.0, 0.2)


def tiled(student: Tensor, teacher: Tensor) -> Tensor:
    """The same through the public function."""
    return bilateral_loss(student, teacher, backend="torch")


def make_logits(samples: int, classes: int) -> tuple[Tensor, Tensor]:
    """Student logits that require a gradient, and teacher logits, ``(B, C)`` float32."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = STANDARD_DEVIATION * torch.randn(2, samples, classes, generator=generator)
    return student.clone().requires_grad_(), teacher.clone()


def step(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    """Forward and gradient."""
    student.grad = None
    loss(student, teacher).backward()


def calls_per_repetition(loss: Loss, student: Tensor, teacher: Tensor) -> int:
    """How many calls fill a repetition."""
    start = time.perf_counter()
    step(loss, student, teacher)
    return max(1, round(SHORTEST_REPETITION / (time.perf_counter() - start)))


def measure_times(samples: int, classes: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds a call of each repetition by provider, taken in turn after a warm-up."""
    student, teacher = make_logits(samples, classes)
    providers: dict[str, Loss] = {"eager": definition, "tiled": tiled}
    if classes <= LARGEST_COMPILED:
        torch.compiler.reset()
        providers["compiled"] = torch.compile(definition, dynamic=False)
    times: dict[str, list[float]] = {name: [] for name in providers}
    for loss in providers.values():
        step(loss, student, teacher)
    calls = calls_per_repetition(definition, student, teacher)
    for _ in range(repetitions):
        for name, loss in providers.items():
            start = time.perf_counter()
            for _ in range(calls):
                step(loss, student, teacher)
            times[name].append((time.perf_counter() - start) / calls)
    return times


def resident_bytes(field: str) -> int:
    """``VmRSS``, the resident set now, or ``VmHWM``, its peak, as Linux accounts them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def peak_growth(name: str, samples: int, classes: int) -> int:
    """Bytes by which the resident set of this process grows at the peak of one call."""
    loss = {"eager": definition, "tiled": tiled}[name]
    step(loss, *make_logits(8, 16))
    student, teacher = make_logits(samples, classes)
    before = resident_bytes("VmRSS")
    # Forgets the peak of the imports, which would hide that of a small call.
    Path("/proc/self/clear_refs").write_text("5")
    step(loss, student, teacher)
    return resident_bytes("VmHWM") - before


def measure_memory(samples: int, classes: int) -> dict[str, int]:
    """Extra peak memory of eager and tiled, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    growth = {}
    for name in ("eager", "tiled"):
        with context.Pool(1) as pool:
            growth[name] = pool.apply(peak_growth, (name, samples, classes))
    return growth


def median_ratio(times: dict[str, list[float]], other: str) -> float | None:
    """Median over repetitions of tiled / other, or None where the other did not run."""
    if other not in times:
        return None
    return statistics.median(ours / theirs for ours, theirs in zip(times["tiled"], times[other], strict=True))


def cell(value: float | None, limit: float | None) -> str:
    """A measured ratio beside the one aimed at."""
    if value is None or limit is None:
        return "-" if value is None else f"{value:.2f}"
    return f"{value:.2f} (<= {limit:g})"


def main() -> None:
    """Measures every case and prints the table."""
    console = Console(width=max(120, Console().width))
    table = Table(title="bilateral_loss, forward and gradient, float32 on the CPU", caption="ratios; aimed at in brackets")
    for heading in ("B, C", "eager ms", "compiled ms", "tiled ms", "time, tiled / eager", "time, tiled / compiled",
                    "extra memory, tiled / eager"):  # fmt: skip
        table.add_column(heading, justify="right")
    for samples, classes, repetitions in CASES:
        with console.status(f"measuring B={samples}, C={classes}"):
            times = measure_times(samples, classes, repetitions)
            eager, compiled, bytes_ = LIMITS[samples, classes]
            memory = measure_memory(samples, classes) if bytes_ is not None else None
        milliseconds = {name: f"{1e3 * statistics.median(values):.4g}" for name, values in times.items()}
        ratio = memory["tiled"] / memory["eager"] if memory is not None else None
        table.add_row(
            f"{samples}, {classes}",
            milliseconds["eager"],
            milliseconds.get("compiled", "-"),
            milliseconds["tiled"],
            cell(median_ratio(times, "eager"), eager),
            cell(median_ratio(times, "compiled"), compiled),
            cell(ratio, bytes_),
        )
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    console.print(table)


if __name__ == "__main__":
    main()
