"""A phase of ``gpu_check`` with simulated kernels: one task with correct gradients and one with wrong ones."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from simulate import simulator

from benchmarks.gpu_check import numbers
from benchmarks.gpu_check.task import Task
from bickd_kernels.accuracy import Case, evaluate


def simulated(case: Case, factor: float) -> dict[str, Any]:
    """Checks a case after multiplying the gradient of the kernels by ``factor``."""

    def evaluated(case: Case, batch: Any, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
        loss, gradient = evaluate(case, batch, backend)
        return loss, gradient * factor

    numbers.evaluate = evaluated
    with simulator(races="off"):
        return numbers.check(case, device="cpu")


def tasks(_folder: Path) -> list[Task]:
    right, wrong = Case(17, 29, torch.float32), Case(19, 7, torch.float32)
    return [Task(str(right), partial(simulated, right, 1.0)), Task(str(wrong), partial(simulated, wrong, 1.00001))]
