"""Times that are comparable on a machine whose speed drifts: runs are interleaved in one process.

Comparisons use the median, over repetitions, of the ratio of neighbouring runs. A repetition calls a fast step several times
in a row, because clock resolution and interruptions would distort a shorter one.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Step = Callable[[], object]

SHORTEST_REPETITION = 0.01
"""Seconds; a shorter step is called several times per repetition."""

LARGEST_FREED_BLOCK = 31 * 2**20
"""Bytes, just below the largest block from which glibc's allocator adapts its thresholds."""


class Spread(NamedTuple):
    """Median and quartiles."""

    low: float
    median: float
    high: float


def spread(values: list[float]) -> Spread:
    """Median and quartiles of one or more values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(times: list[float], others: list[float]) -> list[float]:
    """The ratio of the two times in each repetition."""
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
    """Seconds per call, by step and repetition.

    Args:
        steps: what to run, by name.
        seconds: duration of all repetitions.
        least: minimum number of repetitions.
        most: maximum number of repetitions.
        device: with ``"cuda"``, a repetition ends when the device has finished its work.
        warm_up: call each step once before timing; not needed if each has already run.
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
    """Brings glibc's allocator into its state after a training step.

    Until a large block has been freed, it returns freed memory to the system at once, and every page that is requested again
    costs a page fault. A network frees such blocks in its first step; a loss timed on its own would pay for the absence of
    the network.
    """
    block = torch.empty(LARGEST_FREED_BLOCK, dtype=torch.uint8)
    del block


def _first_repetition(step: Step, device: str) -> tuple[int, float]:
    """The number of calls per repetition, and the seconds per call in the first repetition."""
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
