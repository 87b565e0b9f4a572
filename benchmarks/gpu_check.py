"""Checks and times the Triton backend on a GPU, and writes what it found to ``runs/gpu-check``.

    python -m benchmarks.gpu_check            everything: numbers, compute-sanitizer where it is installed, times beside
                                              what ``forecast`` has for this GPU
    python -m benchmarks.gpu_check --subset   a few small batches, which is what compute-sanitizer watches

Exit status: 0 if every number is right, 1 if one is not, 2 without a GPU. All failures are listed, not the first alone.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.devices import DEVICES, known_device
from benchmarks.dispatched import definition
from benchmarks.forecast import DTYPES as TIMED_DTYPES
from benchmarks.forecast import SHAPES as TIMED_SHAPES
from benchmarks.forecast import Forecast, forecast, kernels
from bickd_kernels import bickd_loss, bilateral_loss

OUTPUT = Path("runs/gpu-check")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((1, 7), (2, 2), (17, 29), (64, 100), (128, 128), (37, 211), (129, 100), (256, 1000), (70, 2200), (600, 2200))
SUBSET = ((17, 29), (40, 150))
ROUNDS = 5

EXACT, SINGLE = 2e-6, 1.5e-3
"""Errors of the gradient, relative to its largest entry, of products of float32 grade and of single float16 operands."""

ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""What an entry can lose in the student's dtype, half a unit in the last place, relative to it."""

NOTHING = 2e-7
"""What is allowed where the true gradient is 0."""


class Case(NamedTuple):
    """A batch and how the loss is called on it."""

    name: str
    student: Tensor
    teacher: Tensor
    target: Tensor | None
    contrast_temperature: float = 0.2


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Timing:
    """Forward and backward of one provider: median milliseconds, and megabytes of memory at the peak beyond the inputs."""

    samples: int
    classes: int
    dtype: str
    provider: str
    milliseconds: float | None
    megabytes: float | None
    detail: str = ""


def make_case(samples: int, classes: int, dtype: torch.dtype, device: str, *, labelled: bool, change: str = "") -> Case:
    """A batch of normally distributed logits, as it is or with the edge case named by ``change``."""
    generator = torch.Generator().manual_seed(samples * 100003 + classes)
    student, teacher = 3.0 * torch.randn(2, samples, classes, generator=generator)
    target = torch.randint(classes, (samples,), generator=generator)
    if change == "absences":
        student[:, 0], teacher[:, 2] = -torch.inf, -torch.inf
        target[(target == 0) | (target == 2)] = 1
        target[1], student[1] = -100, torch.nan
    if change == "strided":
        student = torch.cat((student, student[:, :1]), 1)[:, :-1]
        teacher = teacher.T.contiguous().T
    kind = "labelled" if labelled else "unlabelled"
    name = " ".join(filter(None, (f"({samples}, {classes})", str(dtype).removeprefix("torch."), kind, change)))
    place = {"device": device, "dtype": dtype}
    return Case(name, student.to(**place), teacher.to(**place), target.to(device) if labelled else None)


def cases(device: str, shapes: tuple[tuple[int, int], ...]) -> Iterator[Case]:
    """Every batch that is checked."""
    for shape in shapes:
        for dtype in DTYPES:
            for labelled in (True, False):
                yield make_case(*shape, dtype, device, labelled=labelled)
            if min(shape) >= 3 and shape[1] >= 5:
                case = make_case(*shape, dtype, device, labelled=True, change="absences")
                yield case
                yield case._replace(name=f"{case.name} sharp", contrast_temperature=0.02)
                yield make_case(*shape, dtype, device, labelled=True, change="strided")


def evaluate(case: Case, backend: str) -> tuple[Tensor, Tensor]:
    """Loss and gradient by the student's logits."""
    student = case.student.detach().requires_grad_()
    options: dict[str, Any] = {"contrast_temperature": case.contrast_temperature, "backend": backend}
    if case.target is None:
        loss = bilateral_loss(student, case.teacher, **options)
    else:
        loss = bickd_loss(student, case.teacher, case.target, **options)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def check_numbers(case: Case) -> Finding:
    """Loss and gradient against the definition in float64, and the same bits from a second call."""
    loss, gradient = evaluate(case, "triton")
    again = evaluate(case, "triton")
    true_loss, true_gradient = evaluate(
        case._replace(student=case.student.double(), teacher=case.teacher.double()), "reference"
    )
    exact = case.student.dtype == torch.float32 or case.contrast_temperature < 0.1
    scale = float(true_gradient.abs().max())
    bound = (EXACT if exact else SINGLE) * scale + ROUNDING[case.student.dtype] * scale + NOTHING
    error = float((gradient.double() - true_gradient).abs().max())
    loss_error = abs(float(loss) - float(true_loss)) / max(1.0, abs(float(true_loss)))
    repeated = torch.equal(loss, again[0]) and torch.equal(gradient, again[1])
    passed = error <= bound and loss_error <= (1e-6 if exact else 1e-4) and repeated
    detail = f"gradient off by {error:.2e} of {bound:.2e} allowed, loss by {loss_error:.2e}"
    return Finding(f"numbers {case.name}", passed, detail if repeated else f"{detail}; a second call gives other bits")


def check_graph(case: Case) -> Finding:
    """Forward and backward replayed from a CUDA graph."""
    expected = evaluate(case, "triton")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        evaluate(case, "triton")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = evaluate(case, "triton")
    graph.replay()
    same = all(torch.equal(actual, true) for actual, true in zip(captured, expected, strict=True))
    return Finding(f"CUDA graph {case.name}", same, "replayed")


def check_compiled(case: Case) -> Finding:
    """``torch.compile`` without a graph break."""

    def loss_of(student: Tensor) -> Tensor:
        if case.target is None:
            return bilateral_loss(student, case.teacher, backend="triton")
        return bickd_loss(student, case.teacher, case.target, backend="triton")

    expected = evaluate(case, "triton")
    student = case.student.detach().requires_grad_()
    loss = torch.compile(loss_of, fullgraph=True)(student)
    (gradient,) = torch.autograd.grad(loss, student)
    same = torch.equal(loss.detach(), expected[0]) and torch.equal(gradient, expected[1])
    return Finding(f"torch.compile {case.name}", same, "compiled")


def attempt(check: Callable[[Case], Finding], case: Case) -> Finding:
    """The finding of a check; an exception is one too."""
    try:
        return check(case)
    except Exception as error:
        return Finding(f"{check.__name__} {case.name}", False, f"{type(error).__name__}: {error}")


def check_all(device: str, shapes: tuple[tuple[int, int], ...]) -> list[Finding]:
    """Every number of every batch, and graphs and compilation on a few."""
    findings = [attempt(check_numbers, case) for case in cases(device, shapes)]
    if device == "cuda":
        for shape in SUBSET:
            case = make_case(*shape, torch.float32, device, labelled=True)
            findings += [attempt(check_graph, case), attempt(check_compiled, case)]
    return findings


def sanitize() -> list[Finding]:
    """compute-sanitizer on the subset."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return [Finding("compute-sanitizer", True, "not present, not run")]
    findings = []
    for kind in ("memcheck", "racecheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu_check", "--subset"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        findings.append(Finding(f"compute-sanitizer {kind}", done.returncode == 0, done.stdout[-2000:]))
    return findings


def providers() -> dict[str, Callable[..., Tensor]]:
    """Ways to the same loss: the kernels, the bare formulas, and both ways of PyTorch without kernels, compiled."""

    def by(backend: str) -> Callable[..., Tensor]:
        return lambda *batch: bickd_loss(*batch, backend=backend)

    return {
        "triton": by("triton"),
        "reference": definition,
        "compiled": torch.compile(definition, dynamic=False),
        "torch compiled": torch.compile(by("torch"), dynamic=False),
    }


def time_shape(samples: int, classes: int, dtype: torch.dtype) -> list[Timing]:
    """Forward and backward of every provider, in interleaved rounds."""
    from triton.testing import do_bench

    # After some shapes of a function in one process, the compiler would leave further ones to eager execution.
    torch.compiler.reset()
    case = make_case(samples, classes, dtype, "cuda", labelled=True)
    student = case.student.requires_grad_()
    milliseconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    problems: dict[str, str] = {}
    all_providers = providers()
    for _ in range(ROUNDS):
        for name, loss_of in all_providers.items():
            if name in problems:
                continue

            def step(loss_of: Callable[..., Tensor] = loss_of) -> None:
                torch.autograd.grad(loss_of(student, case.teacher, case.target), student)

            try:
                step()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                step()
                memory[name] = (torch.cuda.max_memory_allocated() - before) / 1e6
                milliseconds.setdefault(name, []).append(float(do_bench(step)))
            except Exception as error:
                problems[name] = f"{type(error).__name__}: {str(error)[:200]}"
                torch.cuda.empty_cache()
    label = str(dtype).removeprefix("torch.")
    return [
        Timing(
            samples,
            classes,
            label,
            name,
            statistics.median(milliseconds[name]) if name not in problems else None,
            memory.get(name),
            problems.get(name, ""),
        )
        for name in all_providers
    ]


def forecast_here(cuda_name: str) -> tuple[list[Forecast], str]:
    """The forecasts for the GPU of this name, and a sentence about them; none for a GPU that ``devices`` does not know."""
    device = known_device(cuda_name)
    if device is None:
        known = ", ".join(name for device in DEVICES for name in device.cuda_names)
        return [], f"No forecast: {cuda_name} is none of the known GPUs ({known})."
    try:
        forecasts = [one for one in forecast() if one.device == device.name]
    except Exception as error:
        # What was measured must not be lost with it.
        return [], f"No forecast: {type(error).__name__}: {str(error)[:200]}"
    return (
        forecasts,
        f"The forecast is that of the model of docs/performance.md for {device.name}, without PyTorch's launches.",
    )


def report(
    findings: list[Finding], timings: list[Timing], forecasts: list[Forecast], about_forecasts: str, output: Path
) -> int:
    """Writes ``report.json`` and ``report.md``, and returns the exit status."""
    output.mkdir(parents=True, exist_ok=True)
    environment = describe_environment()
    failed = [finding for finding in findings if not finding.passed]
    content = {
        "environment": environment,
        "findings": [asdict(finding) for finding in findings],
        "timings": [asdict(timing) for timing in timings],
        "forecasts": [asdict(one) for one in forecasts],
    }
    (output / "report.json").write_text(json.dumps(content, indent=1) + "\n")
    lines = ["# GPU check", "", *(f"- {name}: {value}" for name, value in environment.items()), ""]
    lines += [f"{len(findings) - len(failed)} of {len(findings)} checks passed.", ""]
    lines += [f"- FAILED {finding.check}: {finding.detail}" for finding in failed]
    lines += [
        f"- {finding.check}: {finding.detail}" for finding in findings if finding.check.startswith("compute-sanitizer")
    ]
    lines += ["", about_forecasts, "", *timing_lines(timings, forecasts)]
    (output / "report.md").write_text("\n".join(lines) + "\n")
    return 1 if failed else 0


def timing_lines(timings: list[Timing], forecasts: list[Forecast]) -> list[str]:
    """The table of what was measured, each beside its forecast, in Markdown."""
    found = {(one.samples, one.classes, one.dtype, one.provider): one for one in forecasts}
    headings = (
        "B, C",
        "logits",
        "provider",
        "ms",
        "forecast ms",
        "measured / forecast",
        "peak MB",
        "requested GB/s",
        "Tflop/s",
    )
    return [
        f"| {' | '.join(headings)} |",
        "|---" * len(headings) + "|",
        *(timing_line(one, found.get((one.samples, one.classes, one.dtype, one.provider))) for one in timings),
    ]


def timing_line(timing: Timing, forecast: Forecast | None) -> str:
    """A line of the report; rates are those of the kernels alone, by the formulas of ``kernel_traffic``."""
    head = f"| {timing.samples}, {timing.classes} | {timing.dtype} | {timing.provider} |"
    expected = "" if forecast is None else f"{forecast.microseconds / 1e3:.4f}"
    if timing.milliseconds is None:
        return f"{head} {timing.detail} | {expected} | | | | |"
    ratio = "" if forecast is None else f"{1e3 * timing.milliseconds / forecast.microseconds:.2f}"
    rates = "| "
    if timing.provider == "triton":
        works = kernels(timing.samples, timing.classes, timing.dtype)
        seconds = timing.milliseconds / 1e3
        moved, flops = sum(work.requested for work in works), sum(work.flops for work in works)
        rates = f"{moved / seconds / 1e9:.0f} | {flops / seconds / 1e12:.1f}"
    return f"{head} {timing.milliseconds:.4f} | {expected} | {ratio} | {timing.megabytes:.1f} | {rates} |"


def describe_environment() -> dict[str, str]:
    """The GPU and the versions of what ran on it."""
    import triton

    described = {"torch": torch.__version__, "triton": triton.__version__, "CUDA": str(torch.version.cuda)}
    if torch.cuda.is_available():
        described["GPU"] = torch.cuda.get_device_name()
    return described


def main() -> None:
    """Runs the checks and exits with their status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subset", action="store_true", help="numbers of a few small batches, and no report")
    arguments = parser.parse_args()
    console = Console(markup=False, highlight=False)
    if not torch.cuda.is_available():
        console.print("gpu-check needs a GPU that PyTorch can use, and there is none.")
        sys.exit(2)
    if arguments.subset:
        findings = [attempt(check_numbers, case) for case in cases("cuda", SUBSET)]
        for finding in findings:
            console.print("ok    " if finding.passed else "FAILED", finding.check, finding.detail)
        sys.exit(0 if all(finding.passed for finding in findings) else 1)
    findings = check_all("cuda", SHAPES) + sanitize()
    timings = [timing for shape in TIMED_SHAPES for dtype in TIMED_DTYPES.values() for timing in time_shape(*shape, dtype)]
    status = report(findings, timings, *forecast_here(torch.cuda.get_device_name()), OUTPUT)
    console.print((OUTPUT / "report.md").read_text())
    sys.exit(status)


if __name__ == "__main__":
    main()
