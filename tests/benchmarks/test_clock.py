"""The clock model: what instructions cost by their kind and order, and what programs that share a multiprocessor cost."""

import pytest
import torch
from ptx_text import trace_of

from benchmarks.clock_model.clock import Multiprocessor, Trace
from benchmarks.clock_model.instructions import (
    AMPERE,
    ARITHMETIC_LATENCY,
    FIRST_CACHE_LATENCY,
    HOPPER,
    SHARED_LATENCY,
    SPECIAL,
    SPECIAL_LATENCY,
    Rates,
    timing,
)
from benchmarks.clock_model.ptx import Instruction, Kernel
from benchmarks.clock_model.schedule import schedule

MISS = 300.0


def clocks_of(found: tuple[Kernel, Trace], programs: int = 1, resident: int = 1, rates: Rates = HOPPER) -> float:
    kernel, trace = found
    return Multiprocessor(schedule(kernel, rates), MISS).run([trace] * programs, resident)


def clocks(body: str, *, threads: int = 32, programs: int = 1, resident: int = 1, rates: Rates = HOPPER) -> float:
    """The clocks of a kernel of these instructions, which waits for the result of the last one."""
    found = trace_of(f"{body} @%p9 bra $L__BB9_9;\n$L__BB9_9:\n", torch.zeros(4096), torch.zeros(4096), threads=threads)
    return clocks_of(found, programs, resident, rates)


START = 40
"""An upper bound of the clocks that a kernel takes in addition to the instructions under test."""

CHAIN = "\n".join(["fma.rn.f32 %r2, %r2, %r2, %r2;"] * 100)

INDEPENDENT = "\n".join(f"fma.rn.f32 %r{10 + index}, %r2, %r2, %r2;" for index in range(100))


LOADED = "ld.global.b32 %r5, [%rd8]; add.f32 %r6, %r5, %r5;"


def test_a_chain_waits_for_every_result_and_independent_instructions_start_every_clock() -> None:
    assert 99 * ARITHMETIC_LATENCY < clocks(CHAIN) < 100 * ARITHMETIC_LATENCY + START
    assert 100 < clocks(INDEPENDENT) < 100 + START


def test_warps_of_one_scheduler_share_its_slots_and_warps_of_four_do_not() -> None:
    once = clocks(INDEPENDENT)
    assert clocks(INDEPENDENT, threads=128) == pytest.approx(once, abs=START)
    assert 200 < clocks(INDEPENDENT, threads=256) < 200 + START


def test_warps_that_wait_for_results_leave_the_slots_to_others() -> None:
    assert clocks(CHAIN, threads=512) == pytest.approx(clocks(CHAIN), abs=START)


def test_programs_on_a_multiprocessor_share_its_schedulers_or_follow_one_another() -> None:
    alone = clocks(CHAIN)
    assert clocks(CHAIN, programs=4, resident=4) == pytest.approx(alone, rel=0.05)
    assert clocks(CHAIN, programs=4, resident=1) == pytest.approx(4 * alone, rel=0.05)
    busy = clocks(INDEPENDENT, threads=128)
    assert clocks(INDEPENDENT, threads=128, programs=3, resident=3) == pytest.approx(3 * busy, rel=0.1)


def test_a_gpu_of_half_the_lanes_takes_twice_as_long_for_float32() -> None:
    use = "\n".join(f"add.f32 %r3, %r3, %r{10 + index};" for index in range(100))
    assert clocks(CHAIN, rates=AMPERE) == pytest.approx(clocks(CHAIN), abs=START)
    fast, slow = (clocks(INDEPENDENT + use, threads=512, rates=rates) for rates in (HOPPER, AMPERE))
    assert slow == pytest.approx(2 * fast, rel=0.1)


def test_special_functions_take_the_time_of_their_unit() -> None:
    body = "\n".join(f"ex2.approx.ftz.f32 %r{10 + i}, %r2; add.f32 %r{80 + i}, %r{10 + i}, %r2;" for i in range(50))
    assert 49 * SPECIAL + SPECIAL_LATENCY < clocks(body) < 49 * SPECIAL + SPECIAL_LATENCY + START


def test_the_compiler_moves_loads_ahead_of_instructions_that_do_not_need_them() -> None:
    assert clocks(CHAIN + LOADED) < clocks(CHAIN) + START < clocks(CHAIN) + clocks(LOADED)


def test_nothing_moves_across_a_barrier() -> None:
    assert clocks(f"{CHAIN} bar.sync 0; {LOADED}") > 99 * ARITHMETIC_LATENCY + MISS


def test_a_load_stays_behind_a_store_that_may_be_to_the_same_address() -> None:
    assert clocks(f"{CHAIN} st.global.b32 [%rd9], %r2; {LOADED}") > 99 * ARITHMETIC_LATENCY + MISS


def test_a_second_read_takes_the_latency_of_the_l1_cache() -> None:
    assert MISS < clocks(LOADED) < MISS + START
    assert FIRST_CACHE_LATENCY < clocks(f"{LOADED} bar.sync 0; {LOADED}") - clocks(LOADED) < MISS / 2


@pytest.mark.parametrize("instruction", ["ld.global.cg.b32 %r5, [%rd4];", "st.global.b32 [%rd4], %r1;"])
def test_scattered_accesses_take_longer_than_dense_ones(instruction: str) -> None:
    dense, scattered = (
        clocks(f"mul.wide.u32 %rd3, %r1, {step}; add.s64 %rd4, %rd1, %rd3;" + 10 * instruction + "bar.sync 0;" + LOADED)
        for step in (4, 32)
    )
    # Each access has 28 more sectors, of which the L2 cache delivers two in a clock.
    assert scattered > dense + 10 * 28 / 2 - START


def test_every_conflict_in_shared_memory_costs_a_pass() -> None:
    free, conflicting = (
        clocks(f"mul.lo.u32 %r3, %r1, {step}; ld.shared.b32 %r5, [%r3]; add.f32 %r6, %r5, %r5;") for step in (4, 128)
    )
    assert SHARED_LATENCY < free < SHARED_LATENCY + START
    assert conflicting - free == 31


def test_a_copy_costs_nothing_until_it_is_waited_for() -> None:
    copy = "shl.b32 %r3, %r1, 2; cp.async.ca.shared.global [ %r3 + 0 ], [ %rd8 + 0 ], 0x4; cp.async.commit_group;"
    assert clocks(copy) < START
    assert clocks(copy + "cp.async.wait_group 1;") < START
    assert clocks(copy + "cp.async.wait_group 0;") > MISS
    assert clocks(copy + "cp.async.wait_all;") > MISS
    assert clocks(f"{copy} {CHAIN} bar.sync 0; cp.async.wait_group 0;") < clocks(CHAIN) + START


def test_a_barrier_waits_for_the_slowest_warp() -> None:
    body = f"setp.lt.u32 %p1, %r1, 32; @!%p1 bra $L__BB0_1; {CHAIN}\n$L__BB0_1:\nbar.sync 0;"
    assert clocks(body, threads=128) >= clocks(CHAIN)


def test_a_loop_costs_the_same_in_every_iteration() -> None:
    body = "mov.b32 %r3, 0;\n$L__BB0_1:\nadd.s32 %r3, %r3, 1; setp.lt.s32 %p1, %r3, {}; @%p1 bra $L__BB0_1;"
    assert clocks(body.format(40)) - clocks(body.format(20)) == 2 * (clocks(body.format(20)) - clocks(body.format(10)))


def test_the_trace_counts_machine_instructions_of_warps() -> None:
    kernel, empty = trace_of("", torch.zeros(64), torch.zeros(64), threads=64)
    before = empty.instructions(schedule(kernel, HOPPER))
    # Copies of registers are free, and a 64-bit addition is two instructions.
    kernel, trace = trace_of("mov.b32 %r5, %r1; add.s64 %rd3, %rd1, %rd2;", torch.zeros(64), torch.zeros(64), threads=64)
    assert trace.instructions(schedule(kernel, HOPPER)) == before + 2 * 2


def test_the_time_of_an_unknown_instruction_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"frobnicate\.b32"):
        timing(Instruction("frobnicate", ("b32",), ("%r1", "%r2")), HOPPER)
