"""How many clocks a multiprocessor takes for programs that were executed.

Each of four schedulers begins one instruction a clock, of the warp that has been ready longest. A warp begins its
instructions in the order of ``schedule``, each when its operands are there. A unit takes one after the other: those of a
scheduler are its own, the path to memory and the one to the second cache are the multiprocessor's. Programs share all of it,
as many at a time as fit; the next one begins when one has ended.

Left out: fetching instructions, conflicts of register banks, the limits of queues, and what other multiprocessors do.
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
"""A clock, of a multiprocessor: 128 bytes from its cache, 64 from the second cache, and 32 to it."""


class Trace(NamedTuple):
    """What one program executed: the events of its group, and which of the group's warps are its own."""

    events: Sequence[Event]
    first_warp: int
    warps: int

    @property
    def costs(self) -> Iterator[tuple[Cost, slice]]:
        """The accesses of the group, and where the program's warps are among them."""
        own = slice(self.first_warp, self.first_warp + self.warps)
        return ((cost, own) for event in self.events for cost in event.costs)

    def instructions(self, blocks: Sequence[Block]) -> int:
        """Machine instructions of its warps."""
        slots = [sum(slot.timing.slots for slot in block) for block in blocks]
        own = slice(self.first_warp, self.first_warp + self.warps)
        return sum(slots[event.block] * int(event.warps[own].sum()) for event in self.events)


@dataclass(eq=False)
class _Program:
    """A program on the multiprocessor."""

    running: int
    waiting: list[tuple[float, "_Warp"]] = field(default_factory=list)


@dataclass(eq=False)
class _Warp:
    """A warp, the next instruction it begins, and when results of the earlier ones are there."""

    program: _Program
    scheduler: int
    slots: Iterator[tuple[Slot, tuple[float, float, float]]]
    ready: dict[str, float] = field(default_factory=dict)
    copies: list[float] = field(default_factory=list)
    """When those that are not committed have arrived; ``groups``: the latest of each group."""
    groups: list[float] = field(default_factory=list)
    next: Slot | None = None
    cost: tuple[float, float, float] = (0, 0, 0)

    def arrival(self, kind: str, left: int) -> float:
        """When the copies that an instruction waits for have arrived: of all groups but the last ``left``."""
        if kind != "wait_group":
            self.groups.append(max(self.copies, default=0.0))
            self.copies.clear()
        waits_for = 0 if kind == "commit_group" else len(self.groups) - left
        return max(self.groups[: max(0, waits_for)], default=0.0)


class Multiprocessor:
    """Four schedulers with their units, and the memory that they share."""

    def __init__(self, blocks: Sequence[Block], miss_latency: float) -> None:
        """Args:
        blocks: of the kernel.
        miss_latency: clocks to what a program has not read before.
        """
        self._blocks, self._miss_latency = blocks, miss_latency
        self._queue: list[tuple[float, int, _Warp]] = []
        self._scheduler_free = [0.0] * SCHEDULERS
        self._unit_free: dict[tuple[str, int], float] = defaultdict(float)
        self._second_free = 0.0
        self._begun = self._pushed = 0
        self._end = 0.0

    def run(self, programs: Sequence[Trace], resident: int) -> float:
        """The clocks of these programs, of which at most ``resident`` run at a time."""
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
        """Finds when a warp can begin its next instruction. What the compiler does without begins with its operands."""
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
        """Begins an instruction."""
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
        """If all warps that have not ended wait, they go on."""
        if not program.waiting or len(program.waiting) < program.running:
            return
        released, program.waiting = program.waiting, []
        opens = max(time for time, _ in released)
        for _, warp in released:
            assert warp.next is not None
            self._advance(warp, opens + warp.next.timing.latency)

    def _result(self, warp: _Warp, timing: Timing, begin: float) -> float:
        """When the result of an instruction that begins now is there."""
        if timing.kind == "unit":
            # Schedulers share the path to memory, which shuffles take too, and have the other units to themselves.
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
    """What a warp executed, with sectors, missed sectors and wavefronts of its accesses."""
    nothing = (0.0, 0.0, 0.0)
    for event in trace.events:
        if event.warps[warp]:
            costs = [(float(one.sectors[warp]), float(one.missed[warp]), float(one.wavefronts[warp])) for one in event.costs]
            for slot in blocks[event.block]:
                yield slot, costs[slot.access] if slot.access >= 0 else nothing
