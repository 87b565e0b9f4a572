"""The machine that figures are measured on: its description, its peak rates, and its available memory."""

import platform
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from benchmarks.timing import interleaved

COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Many times the size of any cache."""

MULTIPLIED = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the square matrices whose product gives the peak rate."""


class Ceilings(NamedTuple):
    """The peak rates of this machine in plain PyTorch operations."""

    copy: float
    """Bytes per second, read plus written, when copying a large array."""
    matmul: float
    """Floating-point operations per second in a product of square float32 matrices, at PyTorch's default precision."""


def measure_ceilings(device: str) -> Ceilings:
    """Measures both rates, interleaved, and keeps the best of each."""
    source = torch.ones(COPIED_BYTES[device] // 4, device=device)
    copy = torch.empty_like(source)
    n = MULTIPLIED[device]
    left, right = torch.randn(2, n, n, device=device)
    product = torch.empty_like(left)
    steps = {"copy": lambda: copy.copy_(source), "matmul": lambda: torch.mm(left, right, out=product)}
    times = interleaved(steps, seconds=3.0, least=5, device=device)
    return Ceilings(2 * source.nbytes / min(times["copy"]), 2 * n**3 / min(times["matmul"]))


def describe(device: str) -> dict[str, str]:
    """Hardware and versions, but nothing that identifies the machine or its user."""
    described = {
        "CPU": _processor(),
        "cores": str(psutil.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
    }
    if device == "cuda":
        described["GPU"] = torch.cuda.get_device_name()
        described["CUDA"] = str(torch.version.cuda)
    return described


def available_bytes(device: str) -> int:
    """Memory that a call can still use: on the GPU, or within the machine and the control group of this process."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    left = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit, current = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
    except OSError:
        return left
    return left if limit == "max" else min(left, int(limit) - current)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
