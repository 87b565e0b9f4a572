"""The execution of PTX: values, accesses and errors of instructions for which they are known."""

import math
import re

import pytest
import torch
from ptx_text import kernel, run, value_of

from benchmarks.clock_model.memory import Cost

LANES = torch.arange(32, dtype=torch.int32)


def access(body: str, tensor: torch.Tensor) -> Cost:
    """The only access of global or shared memory in the last block."""
    (cost,) = run(body, tensor, torch.zeros(32))[-1].costs
    return cost


def test_a_kernel_is_parsed_with_predicates_vectors_and_the_blocks_that_branches_lead_to() -> None:
    found = kernel("""
    setp.lt.s32 %p1, %r1, 3;
    $L__tmp1:
    @!%p1 bra $L__BB0_2;
    ld.global.v2.b32 {%r2, %r3}, [%rd1 + -8];
    $L__BB0_2:
    """)
    assert [[one.full_name for one in block] for block in found.blocks[1:]] == [["ld.global.v2.b32"], ["ret"], []]
    assert found.blocks[0][-1][-2:] == ("%p1", True)
    assert found.targets == {"$L__BB0_2": 2}
    assert found.blocks[1][0].operands == ("{%r2, %r3}", "[%rd1 + -8]")
    assert (found.blocks[1][0].writes, found.blocks[1][0].reads) == (("%r2", "%r3"), ("%rd1",))
    assert [parameter.type for parameter in found.parameters] == ["u64", "u64"]


@pytest.mark.parametrize(
    ("instruction", "value"),
    [
        ("mov.b32 %r2, -7;", -7),
        ("add.s32 %r2, 2147483647, 1;", -(2**31)),
        ("mul.lo.s32 %r2, -3, 5;", -15),
        ("mul.hi.s32 %r2, 1073741824, -8;", -2),
        ("mad.lo.s32 %r2, 3, 4, 5;", 17),
        ("mul.wide.s32 %rd3, -3, 5; cvt.u32.u64 %r2, %rd3;", -15),
        ("div.s32 %r2, -7, 2;", -3),
        ("rem.s32 %r2, -7, 2;", -1),
        ("min.s32 %r2, -7, 2;", -7),
        ("max.u32 %r2, -7, 2;", -7),
        ("shl.b32 %r2, 3, 4;", 48),
        ("shl.b32 %r2, 3, 32;", 0),
        ("shr.s32 %r2, -8, 40;", -1),
        ("shr.u32 %r2, -8, 28;", 15),
        ("shf.l.wrap.b32 %r2, 0x80000000, 1, 1;", 3),
        ("bfe.u32 %r2, 0x5a0, 4, 8;", 0x5A),
        ("bfe.s32 %r2, 0xfa0, 4, 8;", -6),
        ("bfi.b32 %r2, 0xff, 0, 4, 8;", 0xFF0),
        ("prmt.b32 %r2, 0x44332211, 0x88776655, 0x7610;", 0x88772211 - 2**32),
        ("prmt.b32 %r2, 0x80, 0, 0x8;", 255 | 0x80 << 8 | 0x80 << 16 | 0x80 << 24),
        ("lop3.b32 %r2, 0xf0, 0xcc, 0xaa, 0x80;", 0x80),
        ("popc.b32 %r2, 0xff0;", 8),
        ("clz.b32 %r2, 255;", 24),
        ("not.b32 %r2, 0;", -1),
        ("neg.s32 %r2, 5;", -5),
        ("setp.lt.u32 %p1, 1, -1; selp.b32 %r2, 5, 6, %p1;", 5),
        ("setp.eq.s32 %p1, 1, 2; setp.lt.or.s32 %p2, 2, 1, !%p1; selp.b32 %r2, 5, 6, %p2;", 5),
        ("setp.ne.f32 %p1, 0f7FC00000, 0f00000000; selp.b32 %r2, 5, 6, %p1;", 6),
        ("setp.neu.f32 %p1, 0f7FC00000, 0f00000000; selp.b32 %r2, 5, 6, %p1;", 5),
        ("cvt.rzi.s32.f32 %r2, 0fC0200000;", -2),
        ("cvt.rni.s32.f32 %r2, 0f40200000;", 2),
        ("cvt.rzi.s32.f32 %r2, 0f7FC00000;", 0),
        ("cvt.rzi.s32.f32 %r2, 0f7F800000;", 2**31 - 1),
        ("mov.b32 {%rs1, %rs2}, 0x00020001; mov.b32 %r2, {%rs2, %rs1};", 0x00010002),
        ("mov.b64 %rd3, {1, 2}; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r2, %rd3;", 2),
        ("cvt.s64.s32 %rd3, -5; shr.s64 %rd3, %rd3, 1; cvt.u32.u64 %r2, %rd3;", -3),
    ],
)
def test_integer_instructions_give_known_values(instruction: str, value: int) -> None:
    result = value_of(instruction)
    assert result.tolist() == [(value + 2**31) % 2**32 - 2**31] * 32


@pytest.mark.parametrize(
    ("instruction", "value"),
    [
        ("fma.rn.f32 %r2, 0f3F800001, 0f3F800001, 0fBF800000;", 2**-22 + 2**-46),
        ("max.f32 %r2, 0f7FC00000, 0f3F800000;", 1.0),
        ("max.NaN.f32 %r2, 0f7FC00000, 0f3F800000;", math.nan),
        ("ex2.approx.ftz.f32 %r2, 0f40400000;", 8.0),
        ("ex2.approx.ftz.f32 %r2, 0fC3000000;", 0.0),
        ("lg2.approx.f32 %r2, 0f41000000;", 3.0),
        ("rcp.approx.ftz.f32 %r2, 0f40800000;", 0.25),
        ("sqrt.approx.f32 %r2, 0f41100000;", 3.0),
        ("div.full.f32 %r2, 0f3F800000, 0f40000000;", 0.5),
        ("abs.f32 %r2, 0fBF800000;", 1.0),
        ("cvt.rn.f32.s32 %r2, -3;", -3.0),
        ("cvt.rn.f16.f32 %rs1, 0f3F800800; cvt.f32.f16 %r2, %rs1;", 1.0),
        ("mov.b16 %rs1, 0x3F80; cvt.f32.bf16 %r2, %rs1;", 1.0),
        # 1 + 2^-8 is halfway between two bfloat16 numbers, of which 1 is the even one.
        ("cvt.rn.bf16.f32 %rs1, 0f3F808000; cvt.f32.bf16 %r2, %rs1;", 1.0),
        ("cvt.rn.f16x2.f32 %r3, 0f40000000, 0f3F800000; mov.b32 {%rs1, %rs2}, %r3; cvt.f32.f16 %r2, %rs1;", 1.0),
        ("cvt.rn.bf16x2.f32 %r3, 0f40000000, 0f3F800000; mov.b32 {%rs1, %rs2}, %r3; cvt.f32.bf16 %r2, %rs2;", 2.0),
        ("cvt.rna.tf32.f32 %r2, 0f3F801000;", 1 + 2**-10),
        ("add.rn.f16x2 %r3, 0x3C003C00, 0x40003C00; mov.b32 {%rs1, %rs2}, %r3; cvt.f32.f16 %r2, %rs2;", 3.0),
    ],
)
def test_floating_point_instructions_give_known_values(instruction: str, value: float) -> None:
    assert value_of(instruction, torch.float32).tolist() == pytest.approx([value] * 32, rel=1e-7, abs=0, nan_ok=True)


def test_threads_that_leave_a_loop_wait_for_the_others() -> None:
    result = value_of("""
    mov.b32 %r3, 0;
    mov.b32 %r2, 0;
    $L__BB0_1:
    add.s32 %r2, %r2, %r3;
    add.s32 %r3, %r3, 1;
    setp.le.s32 %p1, %r3, %r1;
    @%p1 bra $L__BB0_1;
    add.s32 %r2, %r2, 1000;
    """)
    assert result.tolist() == [1000 + lane * (lane + 1) // 2 for lane in range(32)]


def test_an_instruction_with_a_predicate_leaves_other_threads_alone() -> None:
    assert value_of("setp.lt.s32 %p1, %r1, 3; @!%p1 mov.b32 %r2, 7;").tolist() == [0] * 3 + [7] * 29


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("shfl.sync.bfly.b32 %r2, %r1, 5, 31, -1;", LANES ^ 5),
        ("shfl.sync.up.b32 %r2, %r1, 1, 0, -1;", (LANES - 1).clamp(min=0)),
        ("shfl.sync.down.b32 %r2, %r1, 2, 31, -1;", torch.where(LANES < 30, LANES + 2, LANES)),
        ("shfl.sync.idx.b32 %r2, %r1, 9, 31, -1;", torch.full((32,), 9)),
        # Segments of 8 lanes.
        ("shfl.sync.idx.b32 %r2, %r1, 1, 0x181f, -1;", LANES // 8 * 8 + 1),
        ("redux.sync.add.s32 %r2, %r1, -1;", torch.full((32,), 496)),
        ("redux.sync.max.u32 %r2, %r1, -1;", torch.full((32,), 31)),
        ("setp.lt.s32 %p1, %r1, 3; vote.sync.ballot.b32 %r2, %p1, -1;", torch.full((32,), 7)),
        ("setp.lt.s32 %p1, %r1, 3; vote.sync.any.pred %p2, %p1, -1; selp.b32 %r2, 1, 0, %p2;", torch.ones(32)),
    ],
)
def test_lanes_of_a_warp_exchange_values(instruction: str, expected: torch.Tensor) -> None:
    assert value_of(instruction).tolist() == expected.tolist()


def test_warps_exchange_values_through_shared_memory_and_a_barrier() -> None:
    out = torch.zeros(64, dtype=torch.int32)
    run(
        """
        mov.b32 %r2, global_smem;
        shl.b32 %r3, %r1, 2;
        add.s32 %r4, %r2, %r3;
        st.shared.b32 [%r4], %r1;
        bar.sync 0;
        xor.b32 %r5, %r4, 252;
        ld.shared.b32 %r6, [%r5];
        st.global.b32 [%rd9], %r6;
        """,
        out,
        out,
        threads=64,
    )
    assert out.tolist() == list(range(63, -1, -1))


def test_programs_have_their_own_shared_memory_and_know_their_index() -> None:
    out = torch.zeros(3, dtype=torch.int32)
    run(
        """
        mov.u32 %r2, %ctaid.x;
        mov.u32 %r6, %nctaid.x;
        mad.lo.s32 %r2, %r6, 100, %r2;
        mov.b32 %r3, global_smem;
        st.shared.b32 [%r3], %r2;
        bar.sync 0;
        ld.shared.b32 %r4, [%r3];
        mov.u32 %r2, %ctaid.x;
        mul.wide.u32 %rd3, %r2, 4;
        add.s64 %rd3, %rd1, %rd3;
        st.global.b32 [%rd3], %r4;
        """,
        out,
        out,
        programs=3,
    )
    assert out.tolist() == [300, 301, 302]


def test_arguments_are_passed_and_those_that_are_missing_are_0() -> None:
    out = torch.zeros(32)
    run("add.f32 %r2, %r102, %r103; st.global.b32 [%rd8], %r2;", out, 2.5, parameters=("u64", "f32", "f32"))
    assert out.tolist() == [2.5] * 32


def test_a_copy_arrives_when_it_is_waited_for_and_not_before() -> None:
    early, late = (
        value_of(
            f"""
        mov.b32 %r3, global_smem;
        shl.b32 %r4, %r1, 2;
        add.s32 %r3, %r3, %r4;
        st.shared.b32 [%r3], -1;
        cp.async.ca.shared.global [ %r3 + 0 ], [ %rd8 + 0 ], 0x4;
        cp.async.commit_group;
        cp.async.ca.shared.global [ %r3 + 128 ], [ %rd8 + 0 ], 0x4;
        cp.async.commit_group;
        cp.async.wait_group {left};
        ld.shared.b32 %r2, [%r3];
        """,
            inputs=LANES,
        )
        for left in (2, 1)
    )
    assert early.tolist() == [-1] * 32
    assert late.tolist() == list(range(32))


def test_a_copy_of_no_bytes_fills_with_zeros_and_reads_nothing() -> None:
    body = """
    mov.b32 %r3, global_smem;
    st.shared.b32 [%r3], -1;
    cp.async.cg.shared.global [ %r3 + 0 ], [ %rd8 + 1048576 ], 0x10, 0;
    cp.async.wait_all;
    ld.shared.b32 %r2, [%r3];
    """
    assert value_of(body).tolist() == [0] * 32


@pytest.mark.parametrize(("update", "value"), [("add.u32", 496), ("max.s32", 31), ("exch.b32", 31), ("or.b32", 31)])
def test_atomics_apply_to_every_lane(update: str, value: int) -> None:
    out = torch.zeros(32, dtype=torch.int32)
    run(f"atom.global.gpu.relaxed.{update} %r2, [%rd1], %r1;", out, out)
    assert out.tolist() == [value] + [0] * 31


@pytest.mark.parametrize(
    ("factor", "sectors", "ideal"),
    # Adjacent numbers of a warp are in 4 sectors; 32 bytes apart, each has its own; at one address, all are in one.
    [(4, 4, 4), (8, 8, 4), (32, 32, 4), (128, 32, 4), (0, 1, 1)],
)
def test_an_access_takes_the_sectors_of_its_addresses(factor: int, sectors: int, ideal: int) -> None:
    place = f"mul.wide.u32 %rd3, %r1, {factor}; add.s64 %rd3, %rd1, %rd3;"
    for instruction, written in (("ld.global.b32 %r2, [%rd3];", False), ("st.global.b32 [%rd3], %r1;", True)):
        cost = access(f"{place} {instruction}", torch.zeros(1024))
        assert (cost.sectors.tolist(), cost.ideal.tolist(), cost.written) == ([sectors], [ideal], written)


def test_rows_that_are_not_aligned_take_one_sector_more() -> None:
    cost = access("ld.global.b32 %r2, [%rd8 + 4];", torch.zeros(40))
    assert (cost.sectors.tolist(), cost.ideal.tolist()) == ([5], [4])


def test_a_second_read_does_not_miss_the_cache_unless_the_load_bypasses_it() -> None:
    first, again, past = run(
        "ld.global.b32 %r2, [%rd8]; ld.global.b32 %r3, [%rd8]; ld.global.cg.b32 %r4, [%rd8];",
        torch.zeros(32),
        torch.zeros(32),
    )[-1].costs
    assert [cost.missed.tolist() for cost in (first, again, past)] == [[4], [0], [4]]


@pytest.mark.parametrize(
    ("factor", "kind", "wavefronts"),
    # 32 banks of 4 bytes: a stride of 32 words is all in one bank, one of 33 in all banks.
    [(4, "b32", 1), (8, "b32", 2), (128, "b32", 32), (132, "b32", 1), (0, "b32", 1), (8, "b64", 2), (16, "v4.b32", 4)],
)
def test_an_access_to_shared_memory_takes_a_wavefront_for_every_word_of_its_busiest_bank(
    factor: int, kind: str, wavefronts: int
) -> None:
    target = {"b32": "%r4", "b64": "%rd4", "v4.b32": "{%r4, %r5, %r6, %r7}"}[kind]
    cost = access(f"mul.lo.u32 %r2, %r1, {factor}; ld.shared.{kind} {target}, [%r2];", torch.zeros(1))
    assert cost.wavefronts.tolist() == [wavefronts]


@pytest.mark.parametrize(
    "unknown",
    [
        "wgmma.fence.sync.aligned;",
        "add.f8 %r2, %r1, %r1;",
        "add.rz.f32 %r2, %r1, %r1;",
        "fma.rn.relu.f16x2 %r2, %r1, %r1, %r1;",
        "cvt.rz.f16.f32 %rs1, %r1;",
        "ld.local.b32 %r2, [%rd1];",
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%r2, %r3}, {%r4}, {%r5}, {%r2, %r3};",
    ],
)
def test_an_unknown_instruction_is_named(unknown: str) -> None:
    name = unknown.rstrip(";").split()[0]
    with pytest.raises(NotImplementedError, match=f"{re.escape(name)}|type f8"):
        run(unknown, torch.zeros(32), torch.zeros(32))


@pytest.mark.parametrize(
    ("instruction", "error"),
    [
        ("ld.global.b32 %r2, [%rd8 + 4];", "global memory is out of bounds"),
        ("ld.global.b32 %r2, [%rd7];", "global memory is out of bounds"),
        ("ld.shared.b32 %r2, [global_smem + 8192];", "shared memory is out of bounds"),
        ("ld.global.v2.b32 {%r2, %r3}, [%rd1 + 4];", "not aligned"),
    ],
)
def test_an_access_that_would_fail_on_a_gpu_is_an_error(instruction: str, error: str) -> None:
    with pytest.raises((IndexError, ValueError), match=error):
        run(instruction, torch.zeros(32), torch.zeros(32))
