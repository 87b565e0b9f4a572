"""How many programs of a kernel fit on one multiprocessor at a time, from the compiled kernel's resource usage."""

from typing import NamedTuple

from benchmarks.devices import Multiprocessor

WARP = 32

PARTITIONS = 4
"""Partitions of a multiprocessor; each has its share of the registers and of a program's warps."""

REGISTER_UNIT, SHARED_UNIT, RESERVED_SHARED = 256, 128, 1024
"""Allocation units: registers per warp, and bytes of shared memory per program. The third is the number of bytes that the
driver reserves in every program. The rules are those of ``cuda_occupancy.h`` for compute capability 8 and 9."""


class Resources(NamedTuple):
    """Resources of one program of a compiled kernel: warps, registers per thread, and shared memory."""

    warps: int
    registers: int
    shared_bytes: int


def programs_per_multiprocessor(resources: Resources, multiprocessor: Multiprocessor) -> int:
    """The number of programs that the scarcest of warps, registers and shared memory allows."""
    limits = [multiprocessor.programs, multiprocessor.warps // resources.warps]
    of_a_warp = _round_up(WARP * resources.registers, REGISTER_UNIT)
    warps = PARTITIONS * (multiprocessor.registers // PARTITIONS // of_a_warp)
    limits.append(warps // resources.warps)
    limits.append(multiprocessor.shared_bytes // _round_up(resources.shared_bytes + RESERVED_SHARED, SHARED_UNIT))
    return min(limits)


def _round_up(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit
