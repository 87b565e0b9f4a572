"""How many programs of a kernel fit on one multiprocessor at a time, from what the compiled kernel takes of it."""

from typing import NamedTuple

from benchmarks.devices import Multiprocessor

WARP = 32

PARTITIONS = 4
"""Of a multiprocessor, each with its share of the registers and of the warps of a program."""

REGISTER_UNIT, SHARED_UNIT, RESERVED_SHARED = 256, 128, 1024
"""Registers are given to a warp, and bytes of shared memory to a program, in multiples of these; the driver takes the third
number of bytes of every program for itself. The rules are those of ``cuda_occupancy.h`` for compute capability 8 and 9."""


class Resources(NamedTuple):
    """What one program of a compiled kernel takes: warps, registers of each thread, and what it has to itself on chip."""

    warps: int
    registers: int
    shared_bytes: int


def programs_per_multiprocessor(resources: Resources, multiprocessor: Multiprocessor) -> int:
    """As many as the scarcest of warps, registers and shared memory allows."""
    limits = [multiprocessor.programs, multiprocessor.warps // resources.warps]
    of_a_warp = _round_up(WARP * resources.registers, REGISTER_UNIT)
    warps = PARTITIONS * (multiprocessor.registers // PARTITIONS // of_a_warp)
    limits.append(warps // resources.warps)
    limits.append(multiprocessor.shared_bytes // _round_up(resources.shared_bytes + RESERVED_SHARED, SHARED_UNIT))
    return min(limits)


def _round_up(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit
