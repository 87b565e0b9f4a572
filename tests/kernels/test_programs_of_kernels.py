"""The forecast has the number of programs that each launch of a step has, and the limits of the GPUs."""

import math
from typing import Any
from unittest import mock

import aot
import pytest
from aot import SHARED_LIMIT, recording
from cases import make_inputs
from triton.runtime.jit import JITFunction

from benchmarks.devices import DEVICES, Device
from benchmarks.forecast import DTYPES, SHAPES, kernels
from benchmarks.occupancy import Resources, programs_per_multiprocessor
from bickd_kernels import bickd_loss


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (300, 30), (1500, 2000)])
def test_every_launch_has_the_programs_of_the_formula(shape: tuple[int, int], dtype: str) -> None:
    inputs = make_inputs(*shape, dtype=DTYPES[dtype])
    launched: dict[str, int] = {}

    def record(self: JITFunction, *_: Any, grid: tuple[int, ...], **__: Any) -> None:
        launched[self.fn.__name__] = math.prod(grid)

    with recording("sm_90"), mock.patch.object(JITFunction, "run", record):
        bickd_loss(inputs.student.requires_grad_(), inputs.teacher, inputs.target).backward()
    by_formula = {work.kernel: work.programs for work in kernels(*shape, dtype)}
    launched_by_pytorch = {name for name, programs in by_formula.items() if programs is None}
    assert launched == {name: programs for name, programs in by_formula.items() if name not in launched_by_pytorch}
    assert launched_by_pytorch == {"scale of the gradient (PyTorch)"}


@pytest.mark.parametrize(("device", "target"), list(zip(DEVICES, ("sm_80", "sm_90"), strict=True)))
def test_the_gpus_of_the_forecast_are_those_that_kernels_are_compiled_for(device: Device, target: str) -> None:
    assert device.multiprocessors == aot._PROCESSORS[target]
    largest = Resources(warps=4, registers=16, shared_bytes=SHARED_LIMIT[target])
    assert programs_per_multiprocessor(largest, device.multiprocessor) == 1
    assert programs_per_multiprocessor(largest._replace(shared_bytes=largest.shared_bytes + 1), device.multiprocessor) == 0
