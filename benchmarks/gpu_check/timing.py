"""Phase: measures GPU time and memory of a step with the kernels and with the bare definition in eager mode."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.steps import (
    TIMED,
    by_backend,
    by_definition,
    key,
    megabytes,
    replayed_milliseconds,
    seconds_between_events,
    step_by,
    step_of,
)
from benchmarks.gpu_check.task import Task, described
from bickd_kernels.accuracy import Case, make_batch

CORRELATED = TIMED[:-1:2]
"""The batches with 16-bit logits on which correlations are timed."""


def tasks(_folder: Path) -> list[Task]:
    """All tasks of the phase."""
    return [
        Task("rates of the card", rates, 30),
        *(Task(str(case), partial(time_case, case), 60) for case in TIMED),
        *(Task(f"correlation of {case}", partial(time_correlation, case), 60) for case in CORRELATED),
    ]


def rates() -> dict[str, Any]:
    """Bytes per second of a copy, and flops per second of an fp16 GEMM."""
    source = torch.empty(1 << 28, device="cuda")
    copy = torch.empty_like(source)
    a, b = torch.randn(2, 8192, 8192, device="cuda").half()
    copying, multiplying = (seconds_between_events(step, 10) for step in (lambda: copy.copy_(source), lambda: a @ b))
    return {"copy_bytes": 2 * source.nbytes / copying, "float16_flops": 2 * 8192**3 / multiplying}


def time_case(case: Case) -> dict[str, Any]:
    """Both interleaved. If the definition fails, for example for lack of memory, only the kernels are timed."""
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


def time_correlation(case: Case) -> dict[str, Any]:
    """The kernels with both similarities, interleaved."""
    correlation = replace(case, options={"similarity": "correlation"})
    steps = {"cosine": step_by(case, "triton"), "correlation": step_by(correlation, "triton")}
    return {**key(case), "similarities": replayed_milliseconds(steps)}
