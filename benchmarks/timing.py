"""Times that can be compared on a machine whose speed drifts: everything is run in turn, over and over, in one process.

What is compared is the median over repetitions of the ratio of neighbours. A fast step is called several times in a row
for one repetition, because clocks and interruptions would show in a shorter one.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Step = Callable[[], object]

SHORTEST_REPETITION = 0.01
"""Seconds: a shorter step is called several times in a row."""

LARGEST_FREED_BLOCK = 31 * 2**20
"""Bytes, just under what glibc's allocator takes its thresholds from."""


class Spread(NamedTuple):
    """Median and quartiles."""

    low: float
    median: float
    high: float


def spread(values: list[float]) -> Spread:
    """Of one value or more."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(times: list[float], others: list[float]) -> list[float]:
    """Time over the other's, repetition by repetition."""
    return [mine / other for mine, other in zip(times, others, strict=True)]


def interleaved(
    steps: Mapping[str, Step],
    *,
    seconds: float,
    least: int = 3,
    most: int = 100,
    device: str = "cpu",
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Seconds a call takes, by step and repetition.

    Args:
        steps: what to run, by name.
        seconds: repetitions go on for this long ...
        least: there are at least so many ...
        most: ... and at most so many.
        device: ``"cuda"``: a repetition ends when the device has done its work.
        warm_up: call each once before; not needed where each has run already.
    """
    retain_freed_memory()
    if warm_up:
        for step in steps.values():
            # Compiles, allocates and pages in.
            step()
    calls: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    for repetition in range(most):
        if repetition >= least and time.perf_counter() - start > seconds:
            break
        for name, step in steps.items():
            if name in calls:
                times[name].append(_seconds(step, calls[name], device) / calls[name])
            else:
                calls[name], first = _first_repetition(step, device)
                times[name].append(first)
    return times


def retain_freed_memory() -> None:
    """Brings glibc's allocator into the state that a training step leaves it in.

    It returns freed memory to the system at once until it has seen a large block freed, and every page that is asked for
    again costs a page fault. A network frees such blocks in its first step; a loss alone, timed alone, would pay for
    its absence.
    """
    block = torch.empty(LARGEST_FREED_BLOCK, dtype=torch.uint8)
    del block


def _first_repetition(step: Step, device: str) -> tuple[int, float]:
    """How many calls fill a repetition, and the seconds of one call in the first."""
    seconds = _seconds(step, 1, device)
    calls = max(1, round(SHORTEST_REPETITION / max(seconds, 1e-9)))
    return calls, seconds if calls == 1 else _seconds(step, calls, device) / calls


def _seconds(step: Step, calls: int, device: str) -> float:
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
