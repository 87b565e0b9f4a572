"""Launches in the clock model: how their programs are sampled and distributed over a GPU."""

import pytest
import torch
from ptx_text import kernel

from benchmarks import occupancy
from benchmarks.clock_model import model as module
from benchmarks.clock_model.launches import Launch
from benchmarks.clock_model.model import LAUNCH_SECONDS, evenly, model, sample_of
from benchmarks.devices import DEVICES

H200 = DEVICES[-1]

ROUNDS = 300

WORK = "\n".join(["fma.rn.f32 %r2, %r2, %r2, %r2;"] * ROUNDS)


def launch_of(body: str, programs: int, *, registers: int = 32, shared_bytes: int = 0, threads: int = 128) -> Launch:
    resources = occupancy.Resources(threads // 32, registers, shared_bytes)
    return Launch(kernel(body, threads), (programs, 1, 1), (torch.zeros(4096), torch.zeros(4096)), resources)


def seconds(launch: Launch) -> float:
    """The time on an H200, without the launch overhead."""
    (modelled,) = model(launch, [H200], 5)
    return modelled.seconds - LAUNCH_SECONDS


def test_programs_are_sampled_evenly() -> None:
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(101, 5) == [0, 25, 50, 75, 100]


def test_more_programs_than_multiprocessors_cost_nothing_while_they_wait_for_results() -> None:
    once = seconds(launch_of(WORK, 1))
    assert once == pytest.approx(ROUNDS * 4 / H200.clock, rel=0.05)
    assert seconds(launch_of(WORK, 132)) == once
    assert seconds(launch_of(WORK, 133)) == pytest.approx(once, rel=0.05)


def test_programs_that_do_not_fit_run_in_waves() -> None:
    # A program that takes most of the shared memory is alone on its multiprocessor.
    large = {"shared_bytes": 150 * 1024}
    once = seconds(launch_of(WORK, 132, **large))
    assert seconds(launch_of(WORK, 133, **large)) == pytest.approx(2 * once, rel=0.02)
    assert seconds(launch_of(WORK, 10 * 132, **large)) == pytest.approx(10 * once, rel=0.02)
    # With 128 registers a thread, four programs of four warps fit.
    assert seconds(launch_of(WORK, 8 * 132, registers=128)) == pytest.approx(2 * once, rel=0.05)


def test_a_launch_takes_at_least_the_time_of_its_bytes_through_the_l2_cache() -> None:
    read = "\n".join(f"ld.global.cg.v4.b32 {{%r2, %r3, %r4, %r5}}, [%rd1 + {16 * i}];" for i in range(64))
    launch = launch_of(read, 100_000)
    # Each load reads one sector for all lanes of a warp.
    assert seconds(launch) >= 100_000 * 4 * 64 * 32 / module.SECOND_CACHE_BYTES / H200.clock


def test_programs_that_differ_are_sampled_separately() -> None:
    last = f"mov.u32 %r3, %ctaid.x; setp.lt.u32 %p1, %r3, 990; @%p1 bra $L__BB0_1; {WORK}\n$L__BB0_1:\n"
    launch = launch_of(last, 1000)
    sample = sample_of(launch, 3)
    assert any(980 <= number < 990 for number in sample)
    (modelled,), (nothing,) = (model(one, [H200], 3) for one in (launch, launch_of("", 1000)))
    # The last 10 programs of 4 warps have work to do, and all of them a comparison and a branch.
    more = modelled.counts.instructions - nothing.counts.instructions - 1000 * 4 * 2
    # Where the work begins is searched for until it could change no more than this share of the launch.
    assert abs(more - 10 * 4 * ROUNDS) <= module.UNKNOWN * modelled.counts.instructions
    assert modelled.longest == pytest.approx(ROUNDS * 4 / H200.clock, rel=0.1)


def test_counts_are_those_of_all_programs() -> None:
    (modelled,) = model(launch_of("ld.global.b32 %r2, [%rd8]; st.global.b32 [%rd9], %r2;", 1000), [H200], 3)
    assert modelled.counts[1:] == (16_000, 16_000, 16_000, 16_000, 32_000)
    assert (modelled.programs, modelled.resident) == (1000, 16)
