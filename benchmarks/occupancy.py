"""How many programs of a kernel fit on one multiprocessor at a time, from what the compiled kernel takes of it.

What it takes is read from the reports of the ahead-of-time compiler, ``tests/kernels/resources``, which the tests hold to
the kernels. Where the repository is without its tests, nothing is known and nothing else depends on it.
"""

import json
from pathlib import Path
from typing import NamedTuple

from benchmarks.devices import Multiprocessor

REPORTS = Path(__file__).parents[1] / "tests" / "kernels" / "resources"

WARP = 32

PARTITIONS = 4
"""Of a multiprocessor, each with its share of the registers and of the warps of a program."""

REGISTER_UNIT, SHARED_UNIT, RESERVED_SHARED = 256, 128, 1024
"""Registers are given to a warp, and bytes of shared memory to a program, in multiples of these; the driver takes the third
number of bytes of every program for itself. The rules are those of ``cuda_occupancy.h`` for compute capability 8 to 10."""


class Resources(NamedTuple):
    """What one program of a compiled kernel takes: warps, registers of each thread, and what it has to itself on chip."""

    warps: int
    registers: int
    shared_bytes: int
    tensor_columns: int = 0


def reported(target: str, dtype: str, samples: int, classes: int) -> dict[str, Resources]:
    """The kernels of a training step as they were compiled, by name; empty without a report of this target and batch."""
    path = REPORTS / f"{target}-{dtype}.json"
    if not path.exists():
        return {}
    kernels = json.loads(path.read_text()).get(f"{samples}x{classes}", [])
    return {
        kernel["kernel"]: Resources(
            kernel["num_warps"], kernel["registers"], kernel["shared_bytes"], kernel["tensor_memory"]
        )
        for kernel in kernels
    }


def programs_per_multiprocessor(resources: Resources, multiprocessor: Multiprocessor) -> int:
    """As many as the scarcest of warps, registers, shared memory and tensor memory allows."""
    limits = [multiprocessor.programs, multiprocessor.warps // resources.warps]
    of_a_warp = _round_up(WARP * resources.registers, REGISTER_UNIT)
    warps = PARTITIONS * (multiprocessor.registers // PARTITIONS // of_a_warp)
    limits.append(warps // resources.warps)
    limits.append(multiprocessor.shared_bytes // _round_up(resources.shared_bytes + RESERVED_SHARED, SHARED_UNIT))
    if resources.tensor_columns:
        limits.append(multiprocessor.tensor_columns // resources.tensor_columns)
    return min(limits)


def _round_up(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit
