"""Compiles and executes the launches of a loss call, for a GPU of compute capability 8.0 that need not be present.

Tensors are on the CPU. A launch is compiled with exactly the specialisation that a GPU would get for the same arguments.
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
"""Programs that are executed together; more would take more memory and not be faster."""


class Launch(NamedTuple):
    """One launch, as compiled by Triton.

    Attributes:
        kernel: the parsed PTX.
        grid: the number of programs in three dimensions.
        arguments: in the order of the parameters.
        resources: what a program takes on a multiprocessor.
    """

    kernel: Kernel
    grid: Program
    arguments: tuple[Any, ...]
    resources: Resources

    @property
    def programs(self) -> int:
        """The number of programs."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def bytes_of_tensors(self) -> int:
        """Bytes of all memory that the launch can access."""
        storages = [argument.untyped_storage() for argument in self.arguments if isinstance(argument, Tensor)]
        return sum({storage.data_ptr(): int(storage.nbytes()) for storage in storages}.values())

    def place(self, number: int) -> Program:
        """The grid position of a program by its number, in launch order."""
        x, y, _ = self.grid
        return number % x, number // x % y, number // (x * y)

    def execute(self, numbers: Sequence[int], multiply_add: MultiplyAdd = rounded_multiply_add) -> dict[int, Trace]:
        """Executes the programs with these numbers in groups of ``TOGETHER``."""
        traces: dict[int, Trace] = {}
        for start in range(0, len(numbers), TOGETHER):
            group, warps = numbers[start : start + TOGETHER], self.resources.warps
            places = [self.place(number) for number in group]
            events = execute(self.kernel, self.grid, places, self.arguments, self.resources.shared_bytes, multiply_add)
            traces |= {number: Trace(events, warps * index, warps) for index, number in enumerate(group)}
        return traces


@contextmanager
def launches(consume: Callable[[Launch], object]) -> Iterator[None]:
    """Compiles Triton launches on CPU tensors and passes them to ``consume`` instead of a GPU."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compile_and_consume(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        # Triton caches compiled kernels per device, regardless of the target.
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
    """The driver queries that Triton makes before it compiles."""

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
    """The kernel arguments for a value: several for a tuple, none for a constant."""
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
        raise RuntimeError(f"cuobjdump reports no registers for {compiled.name}: {usage}")
    return Resources(compiled.metadata.num_warps, int(registers[1]), compiled.metadata.shared)


def zeros_for_empty() -> Any:
    """Makes uninitialised memory 0: if only some programs are executed, they read results that others did not write."""
    return mock.patch.object(torch, "empty", torch.zeros)
