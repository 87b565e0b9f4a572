"""Phase: the GPU's time of each kernel of a step, by the profiler."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_check.steps import TIMED, Step, key, step_by
from benchmarks.gpu_check.task import Task
from bickd_kernels.accuracy import Case

CALLS = 20


def tasks(_folder: Path) -> list[Task]:
    """All of the phase."""
    return [Task(str(case), partial(profile_case, case)) for case in TIMED]


def profile_case(case: Case) -> dict[str, Any]:
    """Microseconds and launches of a step by kernel, in the order of the first launch."""
    found = microseconds(step_by(case, "triton"))
    if not found:
        return {**key(case), "problem": "the profiler saw no kernel"}
    return {**key(case), "kernels": found}


def microseconds(step: Step) -> dict[str, tuple[float, float]]:
    """Microseconds and launches of a step by the name of the kernel."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(CALLS):
            step()
        torch.cuda.synchronize()
    launched = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    found: dict[str, tuple[float, float]] = {}
    for event in sorted(launched, key=lambda event: event.time_range.start):
        name = short(event.name)
        total, count = found.get(name, (0.0, 0.0))
        found[name] = total + event.time_range.elapsed_us() / CALLS, count + 1 / CALLS
    return found


def short(name: str) -> str:
    """The name of a kernel as tables have it; the one of PyTorch scales the gradient in backward."""
    return "scale" if "elementwise" in name else name.removeprefix("void ")[:40]
