"""The order in which a compiler lets the instructions of a basic block begin.

PTX is not in the order that a GPU executes: ptxas moves loads and long computations forward within a block. Here the ready
instruction with the most work behind it is the next one, as in any list scheduler, of those within ``WINDOW`` instructions
of the first that is left: ptxas has only so many registers. Nothing moves across a branch or a barrier.
"""

from typing import NamedTuple

from benchmarks.clock_model.instructions import Rates, Timing, timing
from benchmarks.clock_model.ptx import Instruction, Kernel

WINDOW = 128


class Slot(NamedTuple):
    """An instruction in the order of the compiler."""

    timing: Timing
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    access: int
    """Its number among the accesses to memory of its block as PTX has them; -1: it is none."""
    left: int = 0
    """Groups of copies that ``cp.async.wait_group`` does not wait for."""


Block = tuple[Slot, ...]

ACCESSES = ("load", "store", "shared", "copy")


def schedule(kernel: Kernel, rates: Rates) -> tuple[Block, ...]:
    """The blocks of a kernel, each in the order in which its instructions begin."""
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
    """For each instruction those that begin before it, and how many clocks before it at least."""
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
    """What an instruction reads and what it writes: registers, and memory as if a kind of it were one register.

    So a load stays behind the stores before it, which may be to the same address, and loads may change places.
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
    """The order in which one warp alone would begin the instructions."""
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
    """The longest chain of instructions that begins with each, in clocks."""
    behind = [slot.timing.latency for slot in slots]
    for index in range(len(slots) - 1, -1, -1):
        for earlier, clocks in before[index].items():
            behind[earlier] = max(behind[earlier], clocks + behind[index])
    return behind
