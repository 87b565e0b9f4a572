"""The launches of a call of the loss: compiled for a GPU of compute capability 8.0, which need not be there, and executed.

Tensors are on the CPU. A launch is compiled for exactly the specialisation that a GPU would get, with the same arguments.
"""

import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.clock_model.clock import Trace
from benchmarks.clock_model.execution import Program, execute
from benchmarks.clock_model.ptx import Kernel, parse
from benchmarks.clock_model.warps import MultiplyAdd, rounded_multiply_add
from benchmarks.occupancy import Resources

TOGETHER = 16
"""Programs that are executed together: more take more memory and are not faster."""


class Launch(NamedTuple):
    """One launch, as Triton compiled it.

    Attributes:
        kernel: its PTX.
        grid: its programs in three dimensions.
        arguments: in the order of the parameters.
        resources: what a program takes of a multiprocessor.
    """

    kernel: Kernel
    grid: Program
    arguments: tuple[Any, ...]
    resources: Resources

    @property
    def programs(self) -> int:
        """How many there are."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def bytes_of_tensors(self) -> int:
        """Of all memory that it can access."""
        storages = [argument.untyped_storage() for argument in self.arguments if isinstance(argument, Tensor)]
        return sum({storage.data_ptr(): int(storage.nbytes()) for storage in storages}.values())

    def place(self, number: int) -> Program:
        """The place in the grid of the program of this number, in the order in which they start."""
        x, y, _ = self.grid
        return number % x, number // x % y, number // (x * y)

    def execute(self, numbers: Sequence[int], multiply_add: MultiplyAdd = rounded_multiply_add) -> dict[int, Trace]:
        """Executes the programs of these numbers in groups of ``TOGETHER``."""
        traces: dict[int, Trace] = {}
        for start in range(0, len(numbers), TOGETHER):
            group, warps = numbers[start : start + TOGETHER], self.resources.warps
            places = [self.place(number) for number in group]
            events = execute(self.kernel, self.grid, places, self.arguments, self.resources.shared_bytes, multiply_add)
            traces |= {number: Trace(events, warps * index, warps) for index, number in enumerate(group)}
        return traces


@contextmanager
def launches(consume: Callable[[Launch], object]) -> Iterator[None]:
    """Within it, launches of Triton on tensors of the CPU are compiled and handed to ``consume`` in place of a GPU."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compile_and_consume(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        # Compiled kernels are kept for each device, whatever its target was.
        with mock.patch.object(self, "device_caches", defaultdict(self.create_binder)):
            compiled = run(self, *args, grid=grid, warmup=True, **options)
        defaults = {parameter.name: parameter.default for parameter in self.params if parameter.has_default}
        named = defaults | dict(zip(self.arg_names, args, strict=False)) | options
        signature = compiled.src.signature
        arguments = tuple(value for name in signature for value in _flat(named[name], signature[name]))
        places = grid(named) if callable(grid) else grid
        consume(Launch(parse(compiled.asm["ptx"]), (*places, 1, 1)[:3], arguments, _resources(compiled)))
        return compiled

    active = driver._active
    driver.set_active(_Driver())
    try:
        with mock.patch.object(JITFunction, "run", compile_and_consume):
            yield
    finally:
        driver._active = active


class _Driver:
    """What Triton asks a driver before it compiles."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 80, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def get_device_properties(self, _device: int | None = None) -> dict[str, int]:
        return {"max_shared_mem": 163 * 1024, "multiprocessor_count": 108}


def _flat(value: Any, signature: Any) -> list[Any]:
    """The arguments that a value becomes: a tuple several, a constant none."""
    if isinstance(signature, tuple):
        return [leaf for part, kind in zip(value, signature, strict=True) for leaf in _flat(part, kind)]
    return [] if signature == "constexpr" else [value]


def _resources(compiled: Any) -> Resources:
    """What a program takes; its registers are those of the machine code."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers = re.search(r"REG:(\d+)", usage)
    if registers is None:
        raise RuntimeError(f"cuobjdump tells no registers of {compiled.name}: {usage}")
    return Resources(compiled.metadata.num_warps, int(registers[1]), compiled.metadata.shared)


def zeros_for_empty() -> Any:
    """Within it, memory that nobody wrote is 0: where only some programs are executed, others read what was not written."""
    return mock.patch.object(torch, "empty", torch.zeros)
