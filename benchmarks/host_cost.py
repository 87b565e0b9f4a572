"""Host time of a training step: everything that runs before, between and after the kernel launches.

    python -m benchmarks.host_cost    the whole step and its parts, compared with the definition in eager mode

This needs no GPU: Triton gets a driver that does nothing, and tensors are on the CPU. The batch is so small that PyTorch's
own computation on it is negligible; the host does the same for every batch whose similarities are kept. The driver itself,
about 2 to 4 us per launch, is not included, nor is it for the definition in eager mode, which has 30 times as many launches.
Times depend on the machine; ``make bench-check`` limits the ratio to the definition.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cases import Case
from benchmarks.checks import UnavailableError
from benchmarks.dispatched import definition, make_inputs
from benchmarks.timing import Spread, interleaved, ratios, spread
from bickd_kernels import bickd_loss, call
from bickd_kernels.backends import choice

CASE = Case("CIFAR-100", 64, 100)

SECONDS = 8.0
"""Time for all repetitions."""

LEAST_REPETITIONS, MOST_REPETITIONS = 11, 300

NO_GPU = 1 << 10
"""The index of the null device. Triton caches compiled kernels per device, and no GPU has this index."""


class Cost(NamedTuple):
    """Host time of one part of a step."""

    part: str
    seconds: Spread
    to_reference: Spread
    """Ratio to the definition in eager mode, over the repetitions."""


class _Launcher:
    def __init__(self, src: Any, metadata: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        """Launches nothing."""


class _Utils:
    def load_binary(self, *_: Any) -> tuple[int, int, int, int, int]:
        return 0, 1, 128, 0, 1024

    def unload_module(self, module: int) -> None:
        pass

    def get_device_properties(self, _device: int = 0) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "max_num_regs": 65536, "warpSize": 32}


class _Driver:
    """The driver queries that Triton makes for a launch on an H100."""

    launcher_cls = _Launcher
    utils = _Utils()

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return NO_GPU

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def get_device_capability(self, _device: int = 0) -> tuple[int, int]:
        return 9, 0


def _kernels(*_: object) -> str:
    return "triton"


def _nothing(*_: object) -> None:
    pass


@contextmanager
def launches_that_do_nothing() -> Iterator[None]:
    """Runs the Triton backend on CPU tensors, with launches that go to a driver that does nothing.

    Raises:
        UnavailableError: without Triton.
    """
    if not choice.HAS_TRITON:
        raise UnavailableError("the kernels need the package triton >= 3.4")
    from triton.runtime import driver

    active = driver._active
    driver.set_active(_Driver())
    try:
        with (
            mock.patch.object(choice, "resolve", _kernels),
            # On a GPU the values of targets are not checked.
            mock.patch.object(call, "check_labels", _nothing),
        ):
            yield
    finally:
        driver._active = active


def measure_ratio(case: Case) -> dict[str, list[float]]:
    """Seconds per repetition of a training step with the kernels, ``triton``, and with the definition, ``reference``.

    Raises:
        UnavailableError: without Triton.
    """
    with launches_that_do_nothing():
        steps = {"triton": _step(case), "reference": _definition()}
        return interleaved(steps, seconds=SECONDS, least=LEAST_REPETITIONS, most=MOST_REPETITIONS)


def measure_parts(case: Case = CASE) -> list[Cost]:
    """A training step, and the same step without some of its parts.

    Raises:
        UnavailableError: without Triton.
    """
    with launches_that_do_nothing():
        from bickd_kernels.backends import triton
        from bickd_kernels.backends.triton import stages

        result = _result(case)
        steps = {
            "the definition in eager mode": _definition(),
            "a training step": _step(case),
            "its forward": _forward(case),
            "the step without launches": _patched(_step(case), stages, "run"),
            "the step without the backend": _patched(_step(case), triton, "compute", result),
        }
        times = interleaved(steps, seconds=SECONDS, least=LEAST_REPETITIONS, most=MOST_REPETITIONS)
    reference = times["the definition in eager mode"]
    return [Cost(part, spread(found), spread(ratios(found, reference))) for part, found in times.items()]


def table(costs: list[Cost]) -> Table:
    """One row for each part."""
    result = Table(title=f"What a step costs the host ({CASE.samples} x {CASE.classes}, bfloat16)")
    result.add_column("part")
    result.add_column("us", justify="right")
    result.add_column("/ definition", justify="right")
    for cost in costs:
        result.add_row(cost.part, f"{1e6 * cost.seconds.median:.0f}", f"{cost.to_reference.median:.3f}")
    return result


def _step(case: Case) -> Callable[[], object]:
    student, teacher, target = make_inputs(case.samples, case.classes, torch.bfloat16, "cpu")
    return lambda: torch.autograd.grad(bickd_loss(student, teacher, target, backend="triton"), student)


def _forward(case: Case) -> Callable[[], object]:
    student, teacher, target = make_inputs(case.samples, case.classes, torch.bfloat16, "cpu")
    return lambda: bickd_loss(student, teacher, target, backend="triton")


def _definition() -> Callable[[], object]:
    # So few elements that dispatch dominates.
    student, teacher, target = make_inputs(4, 6, torch.float32, "cpu")
    return lambda: torch.autograd.grad(definition(student, teacher, target), student)


def _result(case: Case) -> Any:
    from bickd_kernels.backends.contract import Result

    return Result(torch.zeros(()), torch.zeros(4), torch.zeros(case.samples, case.classes))


def _patched(step: Callable[[], object], module: Any, name: str, result: Any = None) -> Callable[[], object]:
    """The step with one function replaced by one that does nothing and returns ``result``."""

    def nothing(*_: Any) -> Any:
        return result

    def patched() -> object:
        # Cheaper than mock.patch, whose cost would be measured too.
        original = getattr(module, name)
        setattr(module, name, nothing)
        try:
            return step()
        finally:
            setattr(module, name, original)

    return patched


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    Console().print(table(measure_parts()))


if __name__ == "__main__":
    main()
