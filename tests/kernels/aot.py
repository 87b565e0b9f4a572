"""Compiles the launches of code under test for a GPU that is not present, and measures the resources of their kernels."""

import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from machine_code import Instructions, count_amdgcn, count_sass
from stand_in import gpu_in_backward, gpu_in_operators, gpu_restored
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from ttsem import _fakedriver, sanitize

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
"""The most bytes of shared memory that a program can have."""

_PROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304}

_COMPUTE_CAPABILITY = {"sm_80": 80, "sm_90": 90, "sm_100": 100, "gfx942": 94}
"""The result of ``torch.cuda.get_device_capability``, which AMD GPUs have too."""

_run = JITFunction.run


@contextmanager
def recording(target: str) -> Iterator[list[CompiledKernel]]:
    """Compiles every launch on CPU tensors without executing it, while the tensors report that they are on a GPU.

    Kernels write nothing, so code under test must not depend on their results.

    Args:
        target: one of ``TARGETS``.

    Yields:
        The kernels in the order of their first launch, in exactly the specialisations that the launches would get. Every
        configuration of an autotuned kernel is among them. A kernel's name is ``.name``.
    """
    kernels: list[CompiledKernel] = []

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> CompiledKernel:
        # Triton caches compiled kernels by device, whatever the target.
        with mock.patch.object(self, "device_caches", defaultdict(self.create_binder)):
            kernel = _run(self, *args, grid=grid, warmup=True, **options)
        if kernel.hash not in {listed.hash for listed in kernels}:
            kernels.append(kernel)
        return kernel

    with (
        gpu_restored(),
        gpu_in_backward(),
        gpu_in_operators(),
        _pretending(target),
        mock.patch.object(JITFunction, "run", compile_only),
    ):
        yield kernels


@dataclass(frozen=True, kw_only=True)
class Resources(Instructions):
    """The GPU resources of a compiled kernel; ``dataclasses.asdict`` of it can be written as JSON.

    Attributes:
        registers: per thread; on AMD, vector registers.
        stack_bytes: memory per thread for values that do not fit in registers.
        tensor_memory: columns of tensor memory (sm_100), of which there are 512.
        vgpr_spills, sgpr_spills: spilled vector and scalar registers, known on AMD only. Scalars are spilled to vector
            registers while any are left.
    """

    kernel: str
    target: str
    num_warps: int
    num_stages: int
    shared_bytes: int
    registers: int
    stack_bytes: int
    tensor_memory: int = 0
    vgpr_spills: int = 0
    sgpr_spills: int = 0

    @property
    def spills(self) -> bool:
        """Whether registers are spilled to memory."""
        return bool(self.stack_bytes or self.local_loads or self.local_stores or self.vgpr_spills)


def measure(compiled: CompiledKernel) -> Resources:
    """The resources of a kernel on the GPU that it was compiled for.

    Raises:
        RuntimeError: NVIDIA's tools cannot read the machine code.
    """
    metadata = compiled.metadata
    target = next(name for name, target in TARGETS.items() if target == metadata.target)
    read = _read_amdgcn if metadata.target.backend == "hip" else _read_cubin
    instructions, resources = read(compiled)
    return Resources(
        kernel=compiled.name,
        target=target,
        num_warps=metadata.num_warps,
        num_stages=metadata.num_stages,
        shared_bytes=metadata.shared,
        tensor_memory=getattr(metadata, "tmem_size", 0) or 0,
        **resources,
        **vars(instructions),
    )


def _read_cubin(compiled: CompiledKernel) -> tuple[Instructions, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        usage = _output_of(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", path)
        # -ndf skips the data-flow analysis, which the counts do not need: twice as fast.
        code = _output_of(knobs.nvidia.nvdisasm.path, "-ndf", "-c", path)
    numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if numbers is None:
        raise RuntimeError(f"cuobjdump tells no resources of {compiled.name}: {usage}")
    registers, stack, local = map(int, numbers.groups())
    return count_sass(code), {"registers": registers, "stack_bytes": stack + local}


def _read_amdgcn(compiled: CompiledKernel) -> tuple[Instructions, dict[str, Any]]:
    text = compiled.asm["amdgcn"]

    def value(name: str) -> int:
        line = re.search(rf"^\s+\.{name}:\s+(\d+)$", text, re.MULTILINE)
        if line is None:
            raise RuntimeError(f"the assembly of {compiled.name} does not tell its {name}")
        return int(line[1])

    return count_amdgcn(text), {
        "registers": value("vgpr_count"),
        "stack_bytes": value("private_segment_fixed_size"),
        "vgpr_spills": value("vgpr_spill_count"),
        "sgpr_spills": value("sgpr_spill_count"),
    }


def _output_of(tool: str, *arguments: str | Path) -> str:
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(tool).name} fails with status {done.returncode}: {done.stderr}")
    return done.stdout


class _Driver(_fakedriver._FakeDriver):
    """Answers for a target what Triton asks a driver before a launch."""

    def __init__(self, target: str) -> None:
        self._target = TARGETS[target]
        self._properties = {"max_shared_mem": SHARED_LIMIT[target], "multiprocessor_count": _PROCESSORS[target]}

    def get_device_properties(self, device: Any = None) -> dict[str, int]:
        return {**super().get_device_properties(device), **self._properties}


@contextmanager
def _pretending(target: str) -> Iterator[None]:
    """Gives Triton a driver for ``target``, and makes CPU tensors report that they are on a GPU."""
    driver.set_active(_Driver(target))
    _fakedriver._stub_torch_cuda(_COMPUTE_CAPABILITY[target])
    redirect = sanitize._cuda_is_cpu()
    with ExitStack() as undo:
        undo.callback(sanitize._no_benchmarks())
        undo.callback(sanitize._pretend_cuda(redirect))
        undo.enter_context(redirect)
        yield
