"""The clocks that a multiprocessor takes for executed programs.

Each of four schedulers issues one instruction per clock, from the warp that has been ready longest. A warp issues its
instructions in the order of ``schedule``, each when its operands are ready. A unit processes one instruction at a time. Each
scheduler has its own units; the paths to memory and to the L2 cache belong to the multiprocessor. Programs share all of it,
as many at a time as fit; when one ends, the next one starts.

Not modelled: instruction fetch, register bank conflicts, queue limits, and other multiprocessors.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.clock_model.execution import Event
from benchmarks.clock_model.instructions import FIRST_CACHE_LATENCY, Timing
from benchmarks.clock_model.memory import Cost
from benchmarks.clock_model.schedule import Block, Slot

SCHEDULERS = 4

SECTORS_FROM_FIRST, SECTORS_FROM_SECOND, SECTORS_TO_SECOND = 4, 2, 1
"""Sectors per clock and multiprocessor: 128 bytes from the L1 cache, 64 from the L2 cache, and 32 to it."""


class Trace(NamedTuple):
    """The trace of one program: the events of its group, and which of the group's warps are its own."""

    events: Sequence[Event]
    first_warp: int
    warps: int

    @property
    def costs(self) -> Iterator[tuple[Cost, slice]]:
        """The accesses of the group, with the slice of this program's warps."""
        own = slice(self.first_warp, self.first_warp + self.warps)
        return ((cost, own) for event in self.events for cost in event.costs)

    def instructions(self, blocks: Sequence[Block]) -> int:
        """The machine instructions of the program's warps."""
        slots = [sum(slot.timing.slots for slot in block) for block in blocks]
        own = slice(self.first_warp, self.first_warp + self.warps)
        return sum(slots[event.block] * int(event.warps[own].sum()) for event in self.events)


@dataclass(eq=False)
class _Program:
    """A program running on the multiprocessor."""

    running: int
    waiting: list[tuple[float, "_Warp"]] = field(default_factory=list)


@dataclass(eq=False)
class _Warp:
    """A warp: its next instruction, and when the results of earlier ones are ready."""

    program: _Program
    scheduler: int
    slots: Iterator[tuple[Slot, tuple[float, float, float]]]
    ready: dict[str, float] = field(default_factory=dict)
    copies: list[float] = field(default_factory=list)
    """Arrival times of uncommitted copies; ``groups``: the latest arrival of each committed group."""
    groups: list[float] = field(default_factory=list)
    next: Slot | None = None
    cost: tuple[float, float, float] = (0, 0, 0)

    def arrival(self, kind: str, left: int) -> float:
        """The arrival time of the copies that an instruction waits for: all groups except the last ``left``."""
        if kind != "wait_group":
            self.groups.append(max(self.copies, default=0.0))
            self.copies.clear()
        waits_for = 0 if kind == "commit_group" else len(self.groups) - left
        return max(self.groups[: max(0, waits_for)], default=0.0)


class Multiprocessor:
    """Four schedulers with their units, and the memory paths that they share."""

    def __init__(self, blocks: Sequence[Block], miss_latency: float) -> None:
        """Args:
        blocks: of the kernel.
        miss_latency: clocks of a load that misses the L1 cache.
        """
        self._blocks, self._miss_latency = blocks, miss_latency
        self._queue: list[tuple[float, int, _Warp]] = []
        self._scheduler_free = [0.0] * SCHEDULERS
        self._unit_free: dict[tuple[str, int], float] = defaultdict(float)
        self._second_free = 0.0
        self._begun = self._pushed = 0
        self._end = 0.0

    def run(self, programs: Sequence[Trace], resident: int) -> float:
        """The clocks for these programs, at most ``resident`` of which run at a time."""
        waiting = deque(programs)
        for _ in range(min(resident, len(programs))):
            self._start(waiting.popleft(), 0.0)
        while self._queue:
            time, _, warp = heapq.heappop(self._queue)
            self._begin(warp, time)
            if warp.program.running == 0 and waiting:
                self._start(waiting.popleft(), self._end)
        return self._end

    def _start(self, trace: Trace, time: float) -> None:
        program = _Program(trace.warps)
        for number in range(trace.warps):
            slots = _slots_of(trace, trace.first_warp + number, self._blocks)
            self._advance(_Warp(program, (self._begun + number) % SCHEDULERS, slots), time)
        self._begun += trace.warps

    def _advance(self, warp: _Warp, time: float) -> None:
        """Finds when a warp can issue its next instruction. Instructions that the compiler removes take no time."""
        ready = warp.ready
        for slot, cost in warp.slots:
            if slot.timing.kind == "free":
                there = max((ready.get(name, 0.0) for name in slot.reads), default=0.0)
                ready.update(dict.fromkeys(slot.writes, there))
                continue
            warp.next, warp.cost = slot, cost
            for name in slot.reads:
                there = ready.get(name, 0.0)
                if there > time:
                    time = there
            self._pushed += 1
            heapq.heappush(self._queue, (time, self._pushed, warp))
            return
        self._finish(warp, time)

    def _finish(self, warp: _Warp, time: float) -> None:
        warp.program.running -= 1
        self._end = max(self._end, time)
        self._open_barrier(warp.program)

    def _begin(self, warp: _Warp, time: float) -> None:
        """Issues an instruction."""
        slot = warp.next
        assert slot is not None
        timing = slot.timing
        begin = max(time, self._scheduler_free[warp.scheduler])
        after = self._scheduler_free[warp.scheduler] = begin + timing.slots
        if timing.kind == "barrier":
            warp.program.waiting.append((after, warp))
            self._open_barrier(warp.program)
            return
        if timing.kind == "branch":
            after += timing.latency
        elif timing.kind in ("commit_group", "wait_group", "wait_all"):
            after = max(after, warp.arrival(timing.kind, slot.left))
        else:
            there = self._result(warp, timing, begin)
            for name in slot.writes:
                warp.ready[name] = there
        self._advance(warp, after)

    def _open_barrier(self, program: _Program) -> None:
        """Releases the waiting warps once every warp that has not ended is waiting."""
        if not program.waiting or len(program.waiting) < program.running:
            return
        released, program.waiting = program.waiting, []
        opens = max(time for time, _ in released)
        for _, warp in released:
            assert warp.next is not None
            self._advance(warp, opens + warp.next.timing.latency)

    def _result(self, warp: _Warp, timing: Timing, begin: float) -> float:
        """When the result of an instruction issued now is ready."""
        if timing.kind == "unit":
            # The memory path, which shuffles also use, is shared by all schedulers; other units belong to one scheduler.
            unit = (timing.unit, -1 if timing.unit == "memory" else warp.scheduler)
            start = max(begin, self._unit_free[unit])
            self._unit_free[unit] = start + timing.busy
            return start + timing.latency
        sectors, missed, wavefronts = warp.cost
        start = max(begin, self._unit_free["memory", -1])
        self._unit_free["memory", -1] = start + max(timing.busy, sectors / SECTORS_FROM_FIRST, wavefronts)
        if timing.kind == "shared":
            return start + timing.latency + max(0, wavefronts - 1)
        there = start + FIRST_CACHE_LATENCY + sectors / SECTORS_FROM_FIRST
        if missed:
            port = max(start, self._second_free)
            self._second_free = port + missed / (SECTORS_TO_SECOND if timing.kind == "store" else SECTORS_FROM_SECOND)
            there = self._second_free + self._miss_latency
        if timing.kind == "copy":
            warp.copies.append(there)
        return there


def _slots_of(trace: Trace, warp: int, blocks: Sequence[Block]) -> Iterator[tuple[Slot, tuple[float, float, float]]]:
    """The instructions that a warp executed, with sectors, missed sectors and wavefronts of its accesses."""
    nothing = (0.0, 0.0, 0.0)
    for event in trace.events:
        if event.warps[warp]:
            costs = [(float(one.sectors[warp]), float(one.missed[warp]), float(one.wavefronts[warp])) for one in event.costs]
            for slot in blocks[event.block]:
                yield slot, costs[slot.access] if slot.access >= 0 else nothing
