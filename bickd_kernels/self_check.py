"""What a bug report should hold: versions, devices, backends, and each backend's error against the float64 reference."""

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import bickd_kernels
from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.backends import choice

GRADIENT_TOLERANCE, LOSS_TOLERANCE = 2e-6, 1e-6
"""Errors relative to the largest entry, of sums of float32 grade."""

GRADIENT_TOLERANCE_SINGLE, LOSS_TOLERANCE_SINGLE = 1.5e-3, 1e-4
"""The same where the kernels multiply 16-bit logits' probabilities in 16 bits."""

ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-8}
"""What an entry of the gradient can lose in the student's dtype."""


class Case(NamedTuple):
    """A batch, and whether it has targets: with them the whole loss is computed, without them the bilateral one."""

    samples: int
    classes: int
    dtype: torch.dtype
    labelled: bool

    def __str__(self) -> str:
        name = "bickd_loss" if self.labelled else "bilateral_loss"
        return f"{name} ({self.samples}, {self.classes}) {str(self.dtype).removeprefix('torch.')}"


CASES = (
    # One tile of the kernels, and several.
    Case(17, 29, torch.float32, True),
    Case(40, 150, torch.float32, False),
    Case(40, 150, torch.bfloat16, True),
)


class Finding(NamedTuple):
    """One backend on one device and case: errors as in the tolerances, or ``problem``, the exception that came instead."""

    backend: str
    device: str
    case: str
    gradient_error: float | None
    gradient_tolerance: float
    loss_error: float | None
    loss_tolerance: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether both errors are within their tolerances; NaN is not."""
        if self.gradient_error is None or self.loss_error is None:
            return False
        return self.gradient_error <= self.gradient_tolerance and self.loss_error <= self.loss_tolerance

    def __str__(self) -> str:
        head = f"{'ok    ' if self.passed else 'FAILED'} {self.backend} on {self.device}, {self.case}: "
        if self.problem:
            return head + self.problem
        return (
            f"{head}gradient off by {self.gradient_error:.1e} (allowed {self.gradient_tolerance:.1e}), "
            f"loss by {self.loss_error:.1e} ({self.loss_tolerance:.1e})"
        )


def describe() -> dict[str, str]:
    """Versions, devices and the choice of backends, by what they are called in the report."""
    runtime = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda or 'none'}"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    description = {
        "bickd-kernels": bickd_kernels.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "torch": f"{torch.__version__}, {runtime}",
        "triton": _version_of_triton(),
        "CPU": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "GPU": ", ".join(gpus) or "none",
        "BICKD_BACKEND": os.environ.get("BICKD_BACKEND", "not set"),
    }
    return description | {f"backend on {device}": _chosen(device) for device in _devices()}


def check() -> list[Finding]:
    """Every backend that can run here, on every case."""
    runnable = [(name, device) for device in _devices() for name in ("torch", "reference")]
    if torch.cuda.is_available() and choice.HAS_TRITON:
        runnable.append(("triton", "cuda"))
    return [_check_backend(name, device, case) for name, device in runnable for case in CASES]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report.

    Args:
        arguments: of the command line; those of the process by default.

    Returns:
        The exit status: 0, or 1 when a backend failed.
    """
    parser = argparse.ArgumentParser(prog="python -m bickd_kernels", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    as_json = parser.parse_args(arguments).json
    description, findings = describe(), check()
    if as_json:
        checks: list[dict[str, Any]] = [{**finding._asdict(), "passed": finding.passed} for finding in findings]
        print(json.dumps({"environment": description, "checks": checks}, indent=1))
    else:
        print(*(f"{name:16} {value}" for name, value in description.items()), "", *findings, sep="\n")
    return 0 if all(finding.passed for finding in findings) else 1


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _version_of_triton() -> str:
    for name in choice.TRITON_PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return version if choice.HAS_TRITON else f"{version}, too old"
    return "of an unknown version" if choice.HAS_TRITON else "none"


def _chosen(device: str) -> str:
    """The backend that a call without ``backend=`` takes for float32 logits, or why it is refused."""
    try:
        return choice.resolve("auto", torch.device(device), torch.float32)
    except (ValueError, ImportError) as error:
        return str(error)


def _check_backend(backend: str, device: str, case: Case) -> Finding:
    student, teacher, target = _batch(case)
    single = backend == "triton" and case.dtype != torch.float32
    allowed = (GRADIENT_TOLERANCE_SINGLE, LOSS_TOLERANCE_SINGLE) if single else (GRADIENT_TOLERANCE, LOSS_TOLERANCE)
    allowed = (allowed[0] + ROUNDING[case.dtype], allowed[1])
    true_loss, true_gradient = _evaluate("reference", student.double(), teacher.double(), target)
    try:
        labels = None if target is None else target.to(device)
        loss, gradient = _evaluate(backend, student.to(device), teacher.to(device), labels)
    except Exception as error:  # whatever it is belongs into the report
        return Finding(backend, device, str(case), None, allowed[0], None, allowed[1], f"{type(error).__name__}: {error}")
    gradient_error, loss_error = _relative(gradient, true_gradient), _relative(loss, true_loss)
    return Finding(backend, device, str(case), gradient_error, allowed[0], loss_error, allowed[1])


def _batch(case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """Normally distributed logits and targets, the second sample ignored."""
    generator = torch.Generator().manual_seed(case.samples * case.classes)
    student, teacher = (3 * torch.randn(2, case.samples, case.classes, generator=generator)).to(case.dtype)
    target = torch.randint(case.classes, (case.samples,), generator=generator)
    target[1] = -100
    return student, teacher, target if case.labelled else None


def _evaluate(backend: str, student: Tensor, teacher: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """Loss and gradient by the student's logits."""
    student = student.detach().requires_grad_()
    if target is None:
        loss = bilateral_loss(student, teacher, backend=backend)
    else:
        loss = bickd_loss(student, teacher, target, backend=backend)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def _relative(actual: Tensor, true: Tensor) -> float:
    """The largest difference relative to the largest true entry."""
    return float((actual.cpu().double() - true).abs().max() / true.abs().max())
