"""The order in which a compiler schedules the instructions of a basic block.

A GPU does not execute PTX in order: ptxas moves loads and long computations forward within a block. As in any list
scheduler, the next instruction here is the ready one with the longest chain of work after it. Only instructions within
``WINDOW`` of the first remaining one are candidates: ptxas has only so many registers. Nothing moves across a branch or a
barrier.
"""

from typing import NamedTuple

from benchmarks.clock_model.instructions import Rates, Timing, timing
from benchmarks.clock_model.ptx import Instruction, Kernel

WINDOW = 128


class Slot(NamedTuple):
    """An instruction in the compiler's order."""

    timing: Timing
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    access: int
    """Its index among the memory accesses of its block in PTX order; -1 if it is not an access."""
    left: int = 0
    """Copy groups that ``cp.async.wait_group`` does not wait for."""


Block = tuple[Slot, ...]

ACCESSES = ("load", "store", "shared", "copy")


def schedule(kernel: Kernel, rates: Rates) -> tuple[Block, ...]:
    """The blocks of a kernel, each in issue order."""
    return tuple(_ordered(block, rates) for block in kernel.blocks)


def _ordered(block: tuple[Instruction, ...], rates: Rates) -> Block:
    slots, accesses = [], 0
    for instruction in block:
        found = timing(instruction, rates)
        is_access = found.kind in ACCESSES
        left = int(instruction.operands[0]) if found.kind == "wait_group" else 0
        slots.append(Slot(found, instruction.reads, instruction.writes, accesses if is_access else -1, left))
        accesses += is_access
    before = _dependencies(block, slots)
    return tuple(slots[index] for index in _list_schedule(slots, before))


def _dependencies(block: tuple[Instruction, ...], slots: list[Slot]) -> list[dict[int, int]]:
    """For each instruction, the instructions that must start before it, with the minimum distance in clocks."""
    before: list[dict[int, int]] = []
    written_by: dict[str, int] = {}
    read_by: dict[str, list[int]] = {}
    for index, (instruction, slot) in enumerate(zip(block, slots, strict=True)):
        read, written = _touched(instruction)
        after: dict[int, int] = {}
        for name in (*written, *read):
            if name in written_by:
                after[written_by[name]] = 0
        for name in slot.reads:
            if name in written_by:
                after[written_by[name]] = slots[written_by[name]].timing.latency
        for name in written:
            after = dict.fromkeys(read_by.pop(name, []), 0) | after
            written_by[name] = index
        for name in read:
            read_by.setdefault(name, []).append(index)
        if slot.timing.kind in ("branch", "barrier"):
            after = dict.fromkeys(range(index), 0) | after
        after.pop(index, None)
        before.append(after)
    return before


def _touched(instruction: Instruction) -> tuple[list[str], list[str]]:
    """What an instruction reads and writes: registers, and each kind of memory treated as one register.

    A load thus stays after earlier stores, which may be to the same address, while loads may be reordered.
    """
    read, written = list(instruction.reads), list(instruction.writes)
    if instruction.name in ("ld", "ldmatrix"):
        read.append(instruction.space)
    elif instruction.name in ("st", "atom", "red"):
        written.append(instruction.space)
    elif instruction.name == "cp":
        read.append("global")
        written += ["copies", "shared"]
    elif instruction.name in ("membar", "fence"):
        written += ["global", "shared"]
    return read, written


def _list_schedule(slots: list[Slot], before: list[dict[int, int]]) -> list[int]:
    """The order in which a single warp would issue the instructions."""
    behind = _clocks_behind(slots, before)
    ready = [0] * len(slots)
    waits_for = [len(after) for after in before]
    followers: list[list[int]] = [[] for _ in slots]
    for index, after in enumerate(before):
        for earlier in after:
            followers[earlier].append(index)
    order: list[int] = []
    left, clock = list(range(len(slots))), 0
    while left:
        free = [index for index in left[:WINDOW] if not waits_for[index]]
        now = [index for index in free if ready[index] <= clock]
        chosen = max(now, key=lambda index: behind[index]) if now else min(free, key=lambda index: ready[index])
        clock = max(clock, ready[chosen])
        order.append(chosen)
        left.remove(chosen)
        for follower in followers[chosen]:
            waits_for[follower] -= 1
            ready[follower] = max(ready[follower], clock + before[follower][chosen])
        clock += slots[chosen].timing.slots
    return order


def _clocks_behind(slots: list[Slot], before: list[dict[int, int]]) -> list[int]:
    """The longest chain of instructions that starts with each one, in clocks."""
    behind = [slot.timing.latency for slot in slots]
    for index in range(len(slots) - 1, -1, -1):
        for earlier, clocks in before[index].items():
            behind[earlier] = max(behind[earlier], clocks + behind[index])
    return behind
