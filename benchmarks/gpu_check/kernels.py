"""Phase: profiles the GPU time of each kernel of a step."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_check.steps import TIMED, Step, key, step_by
from benchmarks.gpu_check.task import Task, described
from bickd_kernels.accuracy import Case

CALLS = 20


def tasks(_folder: Path) -> list[Task]:
    """All tasks of the phase."""
    return [Task(str(case), partial(profile_case, case), 40) for case in TIMED]


def profile_case(case: Case) -> dict[str, Any]:
    """Microseconds and launches per step by kernel, in order of the first launch."""
    step = step_by(case, "triton")
    step()
    torch.cuda.synchronize()
    try:
        found = microseconds(step)
    except Exception as error:
        # Not every machine permits profiling.
        return {**key(case), "problem": described(error)}
    if not found:
        return {**key(case), "problem": "the profiler saw no kernel"}
    return {**key(case), "kernels": found}


def microseconds(step: Step) -> dict[str, tuple[float, float]]:
    """Microseconds and launches per step by kernel name."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(CALLS):
            step()
        torch.cuda.synchronize()
    found: dict[str, tuple[float, float]] = {}
    for event in profiler.key_averages():
        if event.self_device_time_total > 0:
            name = short(event.key)
            total, count = found.get(name, (0.0, 0.0))
            found[name] = total + event.self_device_time_total / CALLS, count + event.count / CALLS
    return found


def short(name: str) -> str:
    """A kernel's name for tables; PyTorch's own kernel scales the gradient in backward."""
    return "scale" if "elementwise" in name else name.removeprefix("void ")[:40]
