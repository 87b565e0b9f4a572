"""The time of a launch on a GPU, extrapolated from some of its programs.

    time = launch overhead + max(busiest multiprocessor, sectors past L1 / L2 rate, bytes / memory bandwidth)

Programs are assigned to the multiprocessors round-robin; each runs as many at a time as registers, shared memory and warps
allow. A program that was not executed is assumed to take as long as the nearest executed one. If a multiprocessor has more
than two waves of programs, a sample represents them all.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.clock_model.clock import Multiprocessor, Trace
from benchmarks.clock_model.instructions import HOPPER
from benchmarks.clock_model.launches import Launch
from benchmarks.clock_model.memory import SECTOR
from benchmarks.clock_model.schedule import Block, schedule
from benchmarks.devices import Device
from benchmarks.occupancy import programs_per_multiprocessor

LAUNCH_SECONDS = 1.5e-6
"""An assumption: the overhead of a launch in a CUDA graph beyond its instructions, from the end of the previous launch."""

SECOND_CACHE_BYTES = 5120
"""L2 bytes per clock of the whole GPU, from the A100 whitepaper; assumed the same for an H100."""

WAVES = 2
"""Waves of programs on a multiprocessor that are simulated instruction by instruction."""

UNKNOWN = 0.02
"""If the programs between two executed ones could change the launch's instructions by more than this share, ``BETWEEN`` of
them are executed too, as long as fewer than ``MOST`` were."""

BETWEEN, MOST = 3, 40

Sample = dict[int, Trace]
"""Traces of executed programs by number, in ascending order."""


class Counts(NamedTuple):
    """Counts of a whole launch, extrapolated from the executed programs."""

    instructions: int
    """Warp-level machine instructions."""
    read: int
    """32-byte sectors of global memory requested by loads."""
    ideally_read: int
    """Sectors that dense accesses to the same bytes would request."""
    written: int
    ideally_written: int
    missed: int
    """Sectors read or written past the L1 caches."""


class Modelled(NamedTuple):
    """A launch on a device.

    Attributes:
        kernel: its name.
        programs: their number.
        resident: programs per multiprocessor at a time.
        seconds: the modelled time.
        longest: seconds of the longest program when it has a multiprocessor to itself.
        counts: of the launch.
    """

    kernel: str
    programs: int
    resident: int
    seconds: float
    longest: float
    counts: Counts


def model(launch: Launch, devices: Sequence[Device], size: int) -> list[Modelled]:
    """The time of a launch on each device, from ``size`` evenly spaced programs, or more if they differ."""
    sample = sample_of(launch, size)
    return [_on_device(launch, device, sample) for device in devices]


def sample_of(launch: Launch, size: int) -> Sample:
    """Executes programs, first evenly spaced ones including both ends, then some between programs that differ."""
    blocks = schedule(launch.kernel, HOPPER)
    # A program that does something different is often the first or the last one.
    ends = {1, launch.programs - 2} & set(range(launch.programs))
    sample = launch.execute(sorted({*evenly(launch.programs, size), *ends}))
    while len(sample) < MOST and (between := _borders(launch.programs, sample, blocks)):
        sample = dict(sorted((sample | launch.execute(between)).items()))
    return sample


def evenly(programs: int, size: int) -> list[int]:
    """The numbers of at most ``size`` evenly spaced programs, including the first and the last."""
    if programs <= size:
        return list(range(programs))
    return sorted({round(index * (programs - 1) / (size - 1)) for index in range(size)})


def _borders(programs: int, sample: Sample, blocks: Sequence[Block]) -> list[int]:
    """Evenly spaced program numbers between executed neighbours that differ."""
    instructions = {number: trace.instructions(blocks) for number, trace in sample.items()}
    allowed = UNKNOWN * sum(instructions[number] for number in _nearest(programs, list(sample)))
    return [
        first + number
        for first, second in itertools.pairwise(sample)
        if (second - first) / 2 * abs(instructions[first] - instructions[second]) > allowed
        for number in evenly(second - first + 1, BETWEEN + 2)[1:-1]
    ]


def _on_device(launch: Launch, device: Device, sample: Sample) -> Modelled:
    blocks = schedule(launch.kernel, device.rates)
    counts = _counts(Counter(_nearest(launch.programs, list(sample))), sample, blocks)
    resident = max(1, programs_per_multiprocessor(launch.resources, device.multiprocessor))
    cached = launch.bytes_of_tensors <= device.second_cache_bytes
    latency = device.second_cache_latency if cached else device.memory_latency
    alone = _clocks_alone(sample, blocks, latency)
    clocks = max(
        # With one program at a time on a multiprocessor, programs run back to back.
        sum(alone[number] for number in share)
        if resident == 1
        else _clocks_together([sample[number] for number in share], blocks, latency, resident)
        for share in _largest_shares(launch.programs, device.multiprocessors, sample, alone, blocks)
    )
    transfer = SECTOR * counts.missed / SECOND_CACHE_BYTES
    moved = 0 if cached else min(launch.bytes_of_tensors, SECTOR * counts.missed)
    seconds = LAUNCH_SECONDS + max(clocks / device.clock, transfer / device.clock, moved / device.bandwidth)
    return Modelled(launch.kernel.name, launch.programs, resident, seconds, max(alone.values()) / device.clock, counts)


def _clocks_alone(sample: Sample, blocks: Sequence[Block], latency: float) -> dict[int, float]:
    """Clocks of each executed program on its own; programs with equal instruction counts are taken to share a path."""
    paths = {trace.instructions(blocks): trace for trace in sample.values()}
    clocks = {instructions: Multiprocessor(blocks, latency).run([trace], 1) for instructions, trace in paths.items()}
    return {number: clocks[trace.instructions(blocks)] for number, trace in sample.items()}


def _largest_shares(
    programs: int, multiprocessors: int, sample: Sample, alone: dict[int, float], blocks: Sequence[Block]
) -> set[tuple[int, ...]]:
    """The programs of the multiprocessor with most instructions, and of the one with most stand-alone clocks.

    Programs are assigned round-robin. Each is represented by the number of the nearest executed program.
    """
    nearest = _nearest(programs, list(sample))
    shares = [tuple(nearest[first::multiprocessors]) for first in range(min(programs, multiprocessors))]
    instructions = {number: trace.instructions(blocks) for number, trace in sample.items()}
    return {
        max(shares, key=lambda share: sum(instructions[number] for number in share)),
        max(shares, key=lambda share: sum(alone[number] for number in share)),
    }


def _nearest(programs: int, numbers: list[int]) -> list[int]:
    """For each program, the nearest of ``numbers``; ties go to the smaller one."""
    result, index = [], 0
    for program in range(programs):
        while index + 1 < len(numbers) and numbers[index + 1] - program < program - numbers[index]:
            index += 1
        result.append(numbers[index])
    return result


def _clocks_together(programs: list[Trace], blocks: Sequence[Block], latency: float, resident: int) -> float:
    """Clocks of programs on one multiprocessor. Beyond ``WAVES`` waves, evenly spaced programs represent all."""
    followed = min(len(programs), WAVES * resident)
    chosen = [programs[(2 * index + 1) * len(programs) // (2 * followed)] for index in range(followed)]
    return Multiprocessor(blocks, latency).run(chosen, resident) * len(programs) / followed


def _counts(programs: Counter[int], sample: Sample, blocks: Sequence[Block]) -> Counts:
    """The counts of each executed program times the number of programs that it represents."""
    result = Counts(0, 0, 0, 0, 0, 0)
    for number, trace in sample.items():
        counted = _counts_of(trace, blocks)
        result = Counts(*(total + programs[number] * own for total, own in zip(result, counted, strict=True)))
    return result


def _counts_of(trace: Trace, blocks: Sequence[Block]) -> Counts:
    """The counts of one program."""
    read = ideally_read = written = ideally_written = missed = 0
    for cost, own in trace.costs:
        sectors, ideal = int(cost.sectors[own].sum()), int(cost.ideal[own].sum())
        missed += int(cost.missed[own].sum())
        if cost.written:
            written, ideally_written = written + sectors, ideally_written + ideal
        else:
            read, ideally_read = read + sectors, ideally_read + ideal
    return Counts(trace.instructions(blocks), read, ideally_read, written, ideally_written, missed)
