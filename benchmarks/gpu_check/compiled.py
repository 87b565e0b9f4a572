"""Phase: times the definition under ``torch.compile``. Inductor takes a minute for some batches."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.steps import TIMED, by_definition, key, megabytes, replayed_milliseconds, step_of
from benchmarks.gpu_check.task import Task, alone, described
from bickd_kernels.accuracy import Case, make_batch


def tasks(folder: Path) -> list[Task]:
    """All tasks of the phase."""
    return [Task(str(case), partial(time_compiled, case, folder), 100) for case in TIMED]


def time_compiled(case: Case, folder: Path) -> dict[str, Any]:
    """Time and memory of a step. A failure here is not a failure of the kernels."""
    # After several shapes of a function in one process, the compiler would fall back to eager execution.
    torch.compiler.reset()
    try:
        step = step_of(torch.compile(by_definition(case), dynamic=False), make_batch(case, "cuda"))
        step()
        with alone(folder):
            found = {"megabytes": megabytes(step), "milliseconds": replayed_milliseconds({"compiled": step})["compiled"]}
    except Exception as error:
        return {**key(case), "problem": described(error)}
    return {**key(case), **found}
