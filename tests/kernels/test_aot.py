"""Launches are compiled for GPUs that are not present, and kernels with known properties are measured as such."""

import json
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from aot import SHARED_LIMIT, TARGETS, Resources, measure, recording
from machine_code import count_amdgcn, count_sass
from simulate import simulator
from torch import Tensor
from triton.runtime import driver
from triton.runtime.jit import JITFunction


@triton.jit
def scale_rows(x, out, columns, stride, factor, block: tl.constexpr):
    column = tl.arange(0, block)
    element = tl.program_id(0) * stride + column
    tl.store(out + element, tl.load(x + element, mask=column < columns) * factor, mask=column < columns)


@triton.jit
def softmax(x, out, block: tl.constexpr):
    element = tl.arange(0, block)
    value = tl.load(x + element)
    value = tl.exp(value - tl.max(value, 0))
    tl.store(out + element, value / tl.sum(value, 0))


@triton.jit
def product(a, b, out, inner, block: tl.constexpr):
    row, column = tl.arange(0, block), tl.arange(0, block)
    total = tl.zeros((block, block), tl.float32)
    for start in range(0, inner, block):
        k = start + tl.arange(0, block)
        left = tl.load(a + row[:, None] * inner + k[None, :])
        total = tl.dot(left, tl.load(b + k[:, None] * block + column[None, :]), total)
    tl.store(out + row[:, None] * block + column[None, :], total)


@triton.jit
def add_square_as(x, out, dtype: tl.constexpr, block: tl.constexpr):
    element = tl.arange(0, block)
    value = tl.load(x + element).to(dtype)
    tl.store(out + element, (value * value + value).to(tl.float32))


tuned = triton.autotune([triton.Config({"block": block}) for block in (64, 128)], key=["columns"])(scale_rows)


def compiled(target: str, launch: Callable[[], Any]) -> Resources:
    """The resources of the only kernel that ``launch`` launches."""
    with recording(target) as kernels:
        launch()
    (kernel,) = kernels
    return measure(kernel)


def launch_scale(x: Tensor) -> None:
    scale_rows[(x.shape[0],)](x, torch.empty_like(x), x.shape[1], x.stride(0), 2.0, block=2048)


def launch_product() -> None:
    a, b = torch.ones(64, 256).half(), torch.ones(256, 64).half()
    product[(1,)](a, b, torch.empty(64, 64), 256, block=64)


@pytest.mark.parametrize("target", TARGETS)
def test_a_product_uses_matrix_instructions_and_shared_memory(target: str) -> None:
    resources = compiled(target, launch_product)
    assert (resources.kernel, resources.target, resources.num_warps) == ("product", target, 4)
    assert resources.matrix_instructions > 0
    assert 0 < resources.shared_bytes <= SHARED_LIMIT[target]
    assert (resources.tensor_memory > 0) == (target == "sm_100")
    assert not resources.spills
    assert resources.widest_load == 128
    assert 0 < resources.registers <= 512
    assert resources.fp64_arithmetic == resources.fp64_conversions == 0


@pytest.mark.parametrize("target", TARGETS)
def test_a_kernel_with_more_values_than_registers_spills(target: str) -> None:
    options = {"waves_per_eu": 8} if target == "gfx942" else {"maxnreg": 32}
    per_thread = 128 if target == "gfx942" else 64
    block = per_thread * TARGETS[target].warp_size

    def launch(**options: int) -> None:
        softmax[(1,)](torch.empty(block), torch.empty(block), block=block, num_warps=1, **options)

    spilling, fitting = compiled(target, lambda: launch(**options)), compiled(target, launch)
    assert spilling.spills
    assert spilling.stack_bytes > 0
    assert spilling.local_loads > 0
    assert spilling.local_stores > 0
    assert (spilling.vgpr_spills > 0) == (target == "gfx942")
    assert not fitting.spills
    assert fitting.registers > spilling.registers


@pytest.mark.parametrize("target", TARGETS)
def test_fp64_arithmetic_and_conversions_are_counted(target: str) -> None:
    x = torch.empty(128)
    launch = add_square_as[(1,)]
    wide, narrow = (
        compiled(target, lambda dtype=dtype: launch(x, x, dtype, block=128)) for dtype in (tl.float64, tl.float32)
    )
    assert wide.fp64_arithmetic > 0
    assert wide.fp64_conversions >= 2
    assert narrow.fp64_arithmetic == narrow.fp64_conversions == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("columns", "stride", "bits"), [(1008, 1024, 128), (1000, 1001, 16)])
def test_rows_divisible_by_16_are_moved_by_wide_instructions(target: str, columns: int, stride: int, bits: int) -> None:
    resources = compiled(target, lambda: launch_scale(torch.empty(4, stride).half()[:, :columns]))
    assert resources.global_loads.keys() == {bits}
    assert (resources.widest_load, resources.widest_store) == (bits, bits)


@pytest.mark.parametrize("target", TARGETS)
def test_resources_can_be_written_as_json(target: str) -> None:
    resources = compiled(target, launch_product)
    assert json.loads(json.dumps(asdict(resources)))["registers"] == resources.registers


@pytest.mark.parametrize("target", TARGETS)
def test_code_under_test_sees_the_target_and_nothing_is_executed(target: str) -> None:
    with recording(target) as kernels:
        x = torch.zeros(4, 64, device="cuda")
        out = torch.ones_like(x)
        assert (x.device.type, x.is_cuda, torch.cuda.is_available()) == ("cuda", True, True)
        assert driver.active.get_current_target() == TARGETS[target]
        scale_rows[lambda meta: (4 * meta["block"],)](x, out, 64, 64, 2.0, block=64)
        assert [kernel.name for kernel in kernels] == ["scale_rows"]
    assert (out == 1).all()


def test_a_specialisation_is_listed_once_in_the_order_of_launches() -> None:
    x = torch.empty(4, 64)
    with recording("sm_90") as kernels:
        for columns in (64, 63, 48, 61):
            scale_rows[(4,)](x, x, columns, 64, 2.0, block=64)
        add_square_as[(1,)](x, x, tl.float32, block=128)
        scale_rows[(4,)](x, x, 64, 64, 2.0, block=64, num_warps=1)
    assert [(kernel.name, kernel.metadata.num_warps) for kernel in kernels] == [
        ("scale_rows", 4),
        ("scale_rows", 4),
        ("add_square_as", 4),
        ("scale_rows", 1),
    ]


def test_every_configuration_of_an_autotuned_kernel_is_compiled() -> None:
    x = torch.empty(1, 64)
    with recording("sm_90") as kernels:
        tuned[(1,)](x, x, 64, 64, 2.0)
    assert sorted(kernel.src.constants[(5,)] for kernel in kernels) == [64, 128]


def test_one_process_compiles_for_every_target_in_turn() -> None:
    x = torch.empty(4, 64)
    for target in (*TARGETS, *TARGETS):
        assert compiled(target, lambda: launch_scale(x)).target == target


def process_state() -> list[Any]:
    """What recording replaces in the process."""
    replaced = [getattr(torch.cuda, name) for name in ("is_available", "device", "get_device_capability", "manual_seed")]
    tensor = [Tensor.__dict__.get(name) for name in ("device", "is_cuda", "backward")]
    return [driver._active, JITFunction.run, triton.testing.do_bench, *replaced, *tensor]


def interrupted() -> None:
    with recording("gfx942"):
        launch_scale(torch.empty(4, 64))
        raise KeyboardInterrupt


def test_everything_is_restored_after_an_exception() -> None:
    before = process_state()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert process_state() == before
    assert len(scale_rows.device_caches) == 0
    assert not torch.ones(1).is_cuda


def test_recording_and_simulating_can_be_nested_and_take_turns() -> None:
    x, out = torch.ones(4, 64), torch.zeros(4, 64)
    with simulator(cc=80):
        with recording("sm_100") as kernels:
            launch_scale(x)
        scale_rows[(4,)](x, out, 64, 64, 2.0, block=64)
        assert driver.active.get_current_target().arch == 80
    assert measure(kernels[0]).target == "sm_100"
    assert (out == 2).all()


def test_machine_code_that_cannot_be_read_is_an_error() -> None:
    metadata = SimpleNamespace(target=TARGETS["sm_90"], num_warps=4, num_stages=3, shared=0)
    with pytest.raises(RuntimeError, match="cuobjdump"):
        measure(SimpleNamespace(name="broken", metadata=metadata, asm={"cubin": b"not machine code"}))


@pytest.mark.parametrize("count", [count_sass, count_amdgcn])
def test_code_without_instructions_is_an_error(count: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="no instruction"):
        count("\n// nothing here\n")


def test_nvidia_instructions_are_counted_by_kind() -> None:
    opcodes = """LDG.E.128.CONSTANT LDG.E.U16 LDG.E.LTC128B.64 LDG.E LDG.E.ENL2.256 LDGSTS.E.BYPASS.LTC128B.128
        STG.E.U8 LDS.128 LDL.64 STL UTMALDG.2D HMMA.16816.F32 HGMMA.64x64x16.F32 UTCHMMA LDGDEPBAR
        DFMA MUFU.RCP64H MUFU.EX2 F2F.F64.F32 I2F.F64 F2F.F32.F16"""
    lines = [
        f"        /*{16 * line:04x}*/              @!P0 {opcode} R2, R4 ;" for line, opcode in enumerate(opcodes.split())
    ]
    counted = count_sass("\n".join(lines))
    assert counted.global_loads == {128: 2, 16: 1, 64: 1, 32: 1, 256: 1}
    assert counted.global_stores == {8: 1}
    assert (counted.bulk_copies, counted.local_loads, counted.local_stores) == (1, 1, 1)
    assert (counted.matrix_instructions, counted.fp64_arithmetic, counted.fp64_conversions) == (3, 2, 2)


def test_amd_instructions_are_counted_by_kind() -> None:
    opcodes = """global_load_dwordx4 buffer_load_dwordx2 global_load_ushort buffer_load_short_d16_hi global_load_ubyte
        global_load_lds_dword buffer_load_dword global_store_dwordx3 ds_read_b128 s_load_dwordx4 scratch_load_dword
        scratch_store_dwordx2 v_mfma_f32_32x32x8_f16 v_fma_f64 v_cvt_f64_f32_e32 v_cvt_f32_f64_e32 v_add_f32"""
    counted = count_amdgcn("\n".join(f"\t{opcode} v1, v[2:3], off" for opcode in opcodes.split()))
    assert counted.global_loads == {128: 1, 64: 1, 32: 2, 16: 2, 8: 1}
    assert counted.global_stores == {96: 1}
    assert (counted.local_loads, counted.local_stores, counted.matrix_instructions) == (1, 1, 1)
    assert (counted.fp64_arithmetic, counted.fp64_conversions) == (1, 2)
