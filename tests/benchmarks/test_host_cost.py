"""The cost of a step on the host: kernels are launched into a driver that does nothing, and the real one is restored."""

from typing import Any

import pytest
import torch
from conditions import KERNELS_CAN_RUN

from benchmarks import host_cost
from benchmarks.cases import Case
from benchmarks.checks import UnavailableError
from benchmarks.host_cost import launches_that_do_nothing, measure_parts, measure_ratio, table
from bickd_kernels import bickd_loss
from bickd_kernels.backends import choice

TINY = Case("tiny", 16, 16)

needs_triton = pytest.mark.skipif(not KERNELS_CAN_RUN, reason="needs Triton")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cost, "SECONDS", 0.0)
    monkeypatch.setattr(host_cost, "LEAST_REPETITIONS", 2)


@needs_triton
def test_a_step_launches_the_kernels_and_the_driver_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import driver

    launched: list[Any] = []
    monkeypatch.setattr(host_cost._Launcher, "__call__", lambda self, *arguments: launched.append(arguments))
    active, resolve = driver._active, choice.resolve
    with launches_that_do_nothing():
        host_cost._step(TINY)()
    assert len(launched) == 6
    assert (driver._active, choice.resolve) == (active, resolve)
    logits = torch.zeros(3, 4)
    assert bickd_loss(logits, logits, torch.zeros(3, dtype=torch.int64)).isfinite()
    assert len(launched) == 6


@needs_triton
@pytest.mark.usefixtures("quick")
def test_the_ratio_is_of_the_kernels_to_the_definition() -> None:
    times = measure_ratio(TINY)
    assert times.keys() == {"triton", "reference"}
    assert len(times["triton"]) == len(times["reference"]) >= 2
    assert min(map(min, times.values())) > 0


@needs_triton
@pytest.mark.usefixtures("quick")
def test_every_part_has_a_row_and_is_compared_with_the_definition() -> None:
    costs = measure_parts(TINY)
    assert table(costs).row_count == len(costs) == 5
    assert costs[0].to_reference.median == 1.0


def test_without_triton_the_error_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "HAS_TRITON", False)
    with pytest.raises(UnavailableError, match="triton"), launches_that_do_nothing():
        pass
