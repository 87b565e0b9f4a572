"""Phase: measures what launch parameters other than those of ``planning.plan`` would gain on a few batches.

Processes compile in parallel, without launching, and take turns on the GPU for timing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from triton.runtime.jit import JITFunction

from benchmarks.gpu_check.steps import Step, key, replayed_milliseconds, step_by
from benchmarks.gpu_check.task import Task, alone, described
from bickd_kernels.accuracy import Case
from bickd_kernels.backends.triton import planning, stages

Change = dict[str, Any]

CASES = (
    Case(64, 100, torch.bfloat16),
    Case(256, 1000, torch.bfloat16),
    Case(1024, 1000, torch.float32),
    Case(256, 21841, torch.bfloat16),
)

CHANGES: tuple[Change, ...] = (
    *({"sample_logits": {"samples": samples, "warps": warps}} for samples in (1, 2, 4) for warps in (1, 2, 4)),
    *({"gradient_logits": {"samples": samples, "warps": warps}} for samples in (1, 2, 4) for warps in (1, 2, 4)),
    *({"class_logits": {"classes": classes, "warps": warps}} for classes in (4, 8, 16) for warps in (4, 8)),
    *({"step": step, "warps": warps, "stages": count} for step in (32, 64) for warps in (4, 8) for count in (2, 3, 4)),
)
PANELS: tuple[Change, ...] = tuple(
    {"step": step, "warps": warps, "stages": count} for step in (32, 64) for warps in (4, 8) for count in (2, 3, 4)
)
"""Changes for class vectors whose similarities are computed in panels."""


def tasks(folder: Path) -> list[Task]:
    """All tasks of the phase, cycling through the batches for each change, so that an aborted sweep covers all batches."""
    found = [(CASES[-1], change) for change in PANELS]
    found += [(case, change) for change in CHANGES for case in CASES[:-1]]
    return [Task(f"{case} with {change}", partial(attempt, case, change, folder), 45) for case, change in found]


def changed(change: Change) -> Callable[..., planning.Plan]:
    """``planning.plan`` with some parameters replaced; a dictionary replaces parts of a parameter."""
    original = planning.plan

    def plan(*arguments: Any, **options: Any) -> planning.Plan:
        found = original(*arguments, **options)
        new = {
            name: getattr(found, name)._replace(**value) if isinstance(value, dict) else value
            for name, value in change.items()
        }
        return found._replace(**new)

    return plan


@contextmanager
def planned_by(plan: Callable[..., planning.Plan]) -> Iterator[None]:
    """Prepares configurations with another plan."""
    stages.prepare.cache_clear()
    try:
        with mock.patch.object(planning, "plan", plan):
            yield
    finally:
        stages.prepare.cache_clear()


@contextmanager
def nothing_launched() -> Iterator[None]:
    """Compiles kernels without launching them."""
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(self, *arguments, grid=grid, warmup=True, **options)

    with mock.patch.object(JITFunction, "run", compile_only):
        yield


def attempt(case: Case, change: Change, folder: Path) -> dict[str, Any]:
    """``compare``; parameters that cannot be compiled or launched are not a failure."""
    try:
        return compare(case, change, folder)
    except Exception as error:
        return {**key(case), "skipped": described(error)}


def compare(case: Case, change: Change, folder: Path) -> dict[str, Any]:
    """Interleaved times with and without the change, and the gradient difference relative to the largest entry."""
    found = {**key(case), "change": change}
    step = step_by(case, "triton")
    with nothing_launched():
        step()
        with planned_by(changed(change)):
            step()
    with alone(folder):
        expected = gradient_of(step)
        with planned_by(changed(change)):
            actual = gradient_of(step)
        found["difference"] = float((actual - expected).abs().max() / expected.abs().max())
        found["milliseconds"] = replayed_milliseconds({"as it is": step, "changed": with_plan(step, changed(change))})
    return found


def gradient_of(step: Step) -> Any:
    """The gradient that a step returns."""
    result: Any = step()
    return result[0].float()


def with_plan(step: Step, plan: Callable[..., planning.Plan]) -> Step:
    """A step with another plan."""

    def changed_step() -> object:
        with planned_by(plan):
            return step()

    return changed_step
