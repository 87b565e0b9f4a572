"""What a bug report should contain: versions, devices, backends, and each backend's error against the float64 reference."""

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

import bickd_kernels
from bickd_kernels.accuracy import Case, Errors, compare, definition, evaluate, make_batch
from bickd_kernels.backends import choice

CASES = (
    # Fits in one kernel tile, and in several.
    Case(17, 29, torch.float32, absences=True),
    Case(40, 150, torch.float32, loss="bilateral_loss", target="none"),
    Case(40, 150, torch.bfloat16, absences=True),
)


class Finding(NamedTuple):
    """One backend on one device and case: its errors, or in ``problem`` the exception that it raised."""

    backend: str
    device: str
    case: str
    errors: Errors | None
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether both errors are within their tolerances."""
        return self.errors is not None and self.errors.passed

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without errors and tolerances if the backend raised an exception."""
        errors = {} if self.errors is None else self.errors._asdict()
        named = {"backend": self.backend, "device": self.device, "case": self.case}
        return {**named, **errors, "problem": self.problem, "passed": self.passed}

    def __str__(self) -> str:
        verdict = "ok    " if self.passed else "FAILED"
        return f"{verdict} {self.backend} on {self.device}, {self.case}: {self.problem or self.errors}"


def describe() -> dict[str, str]:
    """Versions, devices and default backends, by their names in the report."""
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
    """Runs every available backend on every case."""
    runnable = [(name, device) for device in _devices() for name in ("torch", "reference")]
    if torch.cuda.is_available() and choice.HAS_TRITON:
        runnable.append(("triton", "cuda"))
    return [_check_backend(name, device, case) for name, device in runnable for case in CASES]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report.

    Args:
        arguments: of the command line; by default those of the process.

    Returns:
        The exit status: 0, or 1 if a backend failed.
    """
    parser = argparse.ArgumentParser(prog="python -m bickd_kernels", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    as_json = parser.parse_args(arguments).json
    description, findings = describe(), check()
    if as_json:
        checks: list[dict[str, Any]] = [finding.as_dict() for finding in findings]
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
    return "unknown version" if choice.HAS_TRITON else "none"


def _chosen(device: str) -> str:
    """The backend that a call without ``backend=`` selects for float32 logits, or the reason why it raises."""
    try:
        return choice.resolve("auto", torch.device(device), torch.float32)
    except (ValueError, ImportError) as error:
        return str(error)


def _check_backend(backend: str, device: str, case: Case) -> Finding:
    try:
        actual = evaluate(case, make_batch(case, device), backend)
        errors = compare(case, backend, actual, definition(case, make_batch(case)))
    except Exception as error:  # any failure belongs in the report
        return Finding(backend, device, str(case), None, f"{type(error).__name__}: {error}")
    return Finding(backend, device, str(case), errors)
