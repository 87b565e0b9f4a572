"""Phase: times how long this machine's host takes to launch a step."""

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.steps import Step, by_backend, by_definition, key, step_of
from benchmarks.gpu_check.task import Task
from bickd_kernels.accuracy import Case, make_batch

CASES = (Case(64, 100, torch.bfloat16), Case(256, 1000, torch.bfloat16))
ROUNDS, STEPS, WARM_UP = 15, 50, 20


def tasks(_folder: Path) -> list[Task]:
    """All tasks of the phase."""
    return [Task(str(case), partial(time_host, case)) for case in CASES]


def time_host(case: Case) -> dict[str, Any]:
    """Microseconds until a step is launched, with the kernels and with the definition in eager mode, interleaved."""
    batch = make_batch(case, "cuda")
    steps = {"kernels": step_of(by_backend(case, "triton"), batch), "definition": step_of(by_definition(case), batch)}
    for step in steps.values():
        launched(step, WARM_UP)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            found[name].append(1e6 * launched(step, STEPS))
    return {**key(case), "microseconds": {name: statistics.median(times) for name, times in found.items()}}


def launched(step: Step, count: int) -> float:
    """Host seconds per step, over several consecutive steps on an idle GPU."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    seconds = (time.perf_counter() - start) / count
    torch.cuda.synchronize()
    return seconds
