"""Phase: the GPU's time and memory of a step by the kernels and by the bare definition in eager mode."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.steps import TIMED, by_backend, by_definition, key, megabytes, replayed_milliseconds, step_of
from benchmarks.gpu_check.steps import seconds_between_events as seconds_of
from benchmarks.gpu_check.task import Task, described
from bickd_kernels.accuracy import Case, make_batch


def tasks(_folder: Path) -> list[Task]:
    """All of the phase."""
    return [Task("rates of the card", rates, 30), *(Task(str(case), partial(time_case, case), 60) for case in TIMED)]


def rates() -> dict[str, Any]:
    """Bytes that a copy moves in a second, and flops of a product of float16 matrices."""
    source = torch.empty(1 << 28, device="cuda")
    copy = torch.empty_like(source)
    a, b = torch.randn(2, 8192, 8192, device="cuda").half()
    copied = 2 * source.nbytes / seconds_of(lambda: copy.copy_(source), 10)
    return {"copy_bytes": copied, "float16_flops": 2 * 8192**3 / seconds_of(lambda: a @ b, 10)}


def time_case(case: Case) -> dict[str, Any]:
    """Both in turns. The definition may fail, for want of memory say: then the kernels are timed alone."""
    batch = make_batch(case, "cuda")
    kernels = step_of(by_backend(case, "triton"), batch)
    found: dict[str, Any] = {**key(case), "megabytes": {"kernels": megabytes(kernels)}}
    try:
        plain = step_of(by_definition(case), batch)
        found["megabytes"]["definition"] = megabytes(plain)
        found["milliseconds"] = replayed_milliseconds({"kernels": kernels, "definition": plain})
    except Exception as error:
        found["problem"] = f"definition: {described(error)}"
    if "problem" in found:
        torch.cuda.empty_cache()
        found["milliseconds"] = replayed_milliseconds({"kernels": kernels})
    return found
