"""The simulator executes correct kernels, catches planted mistakes, and executes the code that each launch compiles to."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import launch_ir
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from simulate import simulator
from small_kernels import COMPILED, product, row_sums
from tensor_core import TENSOR_CORES
from torch import Tensor
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from ttsem import harness, mlir, ops, validate
from ttsem.sanitize import KernelFault, Unjudged


@triton.jit
def row_sums_without_mask(x, out, columns, stride, block: tl.constexpr):
    row = tl.program_id(0)
    total = 0.0
    for start in range(0, columns, block):
        total += tl.sum(tl.load(x + row * stride + start + tl.arange(0, block)))
    tl.store(out + row, total)


@triton.jit
def row_sums_without_the_last_column(x, out, columns, stride, block: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, block)
    tl.store(out + row, tl.sum(tl.load(x + row * stride + column, mask=column < columns - 1, other=0.0)))


@triton.jit
def fill(out, number, block: tl.constexpr):
    tl.store(out + tl.program_id(0) * block + tl.arange(0, block), number)


@triton.jit
def last_program_wins(out):
    tl.store(out, tl.program_id(0))


@triton.jit
def lanes_disagree(out, block: tl.constexpr):
    lane = tl.arange(0, block)
    tl.store(out + lane // 2, lane)


@triton.jit
def add_to(out, block: tl.constexpr):
    element = tl.arange(0, block)
    tl.store(out + element, tl.load(out + element) + 1.0)


@triton.jit
def product_in_float64(a, out, block: tl.constexpr):
    element = tl.arange(0, block)[:, None] * block + tl.arange(0, block)[None, :]
    values = tl.load(a + element)
    tl.store(out + element, tl.dot(values, values, out_dtype=tl.float64))


@triton.jit
def copy(x, out, number, block: tl.constexpr):
    element = tl.arange(0, block)
    tl.store(out + element, tl.load(x + element) + number)


def sums(kernel: JITFunction, x: Tensor, block: int = 16) -> Tensor:
    """The sum of each row, by a kernel."""
    out = torch.empty(x.shape[0], device=x.device)
    kernel[(x.shape[0],)](x, out, x.shape[1], x.stride(0), block=block)
    return out


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[list[str]]:
    """Records the modules that are compiled, starting from an empty cache."""
    texts: list[str] = []
    compile_ = launch_ir._compile

    def recorded(*args: Any) -> str:
        texts.append(compile_(*args))
        return texts[-1]

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(launch_ir, "_texts", {})
    monkeypatch.setattr(launch_ir, "_compile", recorded)
    return texts


@pytest.mark.parametrize(("stage", "cc"), COMPILED)
def test_a_correct_kernel_gives_correct_values(stage: str, cc: int) -> None:
    with simulator(stage, cc) as session:
        x = torch.randn(5, 24, device="cuda")
        torch.testing.assert_close(sums(row_sums, x), x.sum(1))
        assert session.launches == 1


@pytest.mark.parametrize(("stage", "cc"), COMPILED)
def test_a_pipelined_product_gives_correct_values(stage: str, cc: int) -> None:
    with simulator(stage, cc):
        a, b = torch.randn(64, 128).half(), torch.randn(128, 128).half()
        out = torch.empty(64, 128)
        product[(1, 2)](a, b, out, 128, block=64)
        torch.testing.assert_close(out, a.float() @ b.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("core", TENSOR_CORES)
@pytest.mark.parametrize(("stage", "cc"), COMPILED)
def test_products_can_be_accumulated_as_on_a_tensor_core(stage: str, cc: int, core: str) -> None:
    a, b = torch.randn(64, 128).half(), torch.randn(128, 128).half()
    out = torch.empty(64, 128)
    with simulator(stage, cc, products=core):
        product[(1, 2)](a, b, out, 128, block=64)
    expected = TENSOR_CORES[core].multiply_add(a.float().numpy(), b.float().numpy(), np.zeros((64, 128), np.float32))
    np.testing.assert_array_equal(out.numpy(), expected)
    with simulator(stage, cc):
        product[(1, 2)](a, b, out, 128, block=64)
    assert not np.array_equal(out.numpy(), expected)


def test_the_model_of_a_tensor_core_refuses_sums_in_float64() -> None:
    a = torch.ones(16, 16, dtype=torch.float64)
    with simulator(products="a100"), pytest.raises(Unjudged, match="float64"):
        product_in_float64[(1,)](a, torch.empty_like(a), block=16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_types_are_rounded_as_on_a_gpu(dtype: torch.dtype) -> None:
    with simulator():
        x = torch.randn(16).to(dtype)
        out = torch.empty(16, dtype=dtype)
        copy[(1,)](x, out, 0.1, block=16)
        torch.testing.assert_close(out, (x.float() + 0.1).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(("stage", "cc"), COMPILED)
def test_a_read_out_of_bounds_is_a_fault(stage: str, cc: int) -> None:
    with simulator(stage, cc), pytest.raises(KernelFault, match="x") as caught:
        sums(row_sums_without_mask, torch.randn(5, 24))
    assert caught.value.fault.kind == "oob_read"
    assert caught.value.fault.source_text.startswith("total += tl.sum(tl.load(")


@pytest.mark.parametrize(("stage", "cc"), COMPILED)
def test_a_write_out_of_bounds_is_a_fault(stage: str, cc: int) -> None:
    with simulator(stage, cc), pytest.raises(KernelFault) as caught:
        fill[(2,)](torch.empty(20), 1.0, block=16)
    assert caught.value.fault.kind == "oob_write"


@pytest.mark.parametrize(("stage", "cc"), COMPILED)
def test_a_race_between_programs_is_a_fault(stage: str, cc: int) -> None:
    with simulator(stage, cc), pytest.raises(KernelFault) as caught:
        last_program_wins[(3,)](torch.zeros(1, dtype=torch.int32))
    assert caught.value.fault.kind == "race"


def test_races_can_be_recorded_or_ignored() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    with simulator(races="record") as session:
        last_program_wins[(3,)](out)
        assert [race.kind for race in session.races] == ["race"]
    with simulator(races="off") as session:
        last_program_wins[(3,)](out)
        assert session.races == []


def test_lanes_that_write_different_values_to_one_element_are_a_fault() -> None:
    with simulator(), pytest.raises(KernelFault) as caught:
        lanes_disagree[(1,)](torch.zeros(8, dtype=torch.int32), block=16)
    assert caught.value.fault.kind == "poison"


@pytest.mark.parametrize(("stage", "cc"), COMPILED)
def test_memory_that_was_never_written_is_nan(stage: str, cc: int) -> None:
    with simulator(stage, cc):
        out = torch.empty(16, device="cuda")
        add_to[(1,)](out, block=16)
        assert out.isnan().all()


class Double(torch.autograd.Function):
    """A function whose gradient is written by a kernel, to half of its elements only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        assert upstream.device.type == "cuda"
        out = torch.empty(upstream.shape, device=upstream.device)
        fill[(1,)](out, 2.0, block=16)
        return out


@pytest.mark.parametrize(
    "differentiate",
    [
        lambda y, _: y.backward(gradient=torch.ones(())),
        lambda y, _: torch.autograd.backward(y),
        lambda y, x: setattr(x, "grad", *torch.autograd.grad(y, x)),
    ],
    ids=["Tensor.backward", "torch.autograd.backward", "torch.autograd.grad"],
)
def test_backward_runs_on_the_gpu_too(differentiate: Callable[[Tensor, Tensor], None]) -> None:
    with simulator():
        x = torch.ones(32, requires_grad=True, device="cuda")
        differentiate(Double.apply(x).sum(), x)
        assert (x.grad[:16] == 2).all()
        assert x.grad[16:].isnan().all()


def test_a_slightly_wrong_formula_gives_slightly_wrong_values() -> None:
    x = torch.rand(5, 24, generator=torch.Generator().manual_seed(0))
    x[:, -1] = 1e-3
    with simulator():
        out = sums(row_sums_without_the_last_column, x, 32)
    # A sum of 24 numbers below 1 has a rounding error below 24^2 / 2 units of 2^-24.
    torch.testing.assert_close(out, x.sum(1) - 1e-3, rtol=0, atol=2e-5)


def test_a_launch_is_compiled_once_in_a_process_and_once_on_a_disk(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with simulator():
        sums(row_sums, torch.randn(5, 24))
        sums(row_sums, torch.randn(3, 40))
    with simulator():
        sums(row_sums, torch.randn(5, 24))
    assert len(compilations) == 1
    monkeypatch.setattr(launch_ir, "_texts", {})
    with simulator():
        sums(row_sums, torch.randn(5, 24))
    assert len(compilations) == 1


def launch_copy(
    *, size: int = 16, offset: int = 0, number: float = 2, dtype: torch.dtype = torch.float32, **options: int
) -> None:
    """Launches ``copy`` and checks what it writes."""
    x = torch.arange(size + offset, dtype=dtype)[offset:]
    out = torch.empty(size, dtype=dtype)
    copy[(1,)](x, out, number, block=size, **options)
    torch.testing.assert_close(out, x + number)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"number": 3}, True),
        ({"number": 16}, False),
        ({"number": 1}, False),
        ({"number": 2.0}, False),
        ({"number": 2**40}, False),
        ({"offset": 1}, False),
        ({"offset": 4}, True),
        ({"size": 32}, False),
        ({"dtype": torch.float64}, False),
        ({"num_warps": 8}, False),
        ({"num_stages": 1}, False),
    ],
    ids=str,
)
def test_only_launches_that_compile_to_the_same_binary_share_a_cache_entry(
    change: dict[str, Any], same: bool, compilations: list[str]
) -> None:
    with simulator():
        launch_copy()
        launch_copy(**change)
        launch_copy()
    assert len(compilations) == (1 if same else 2)


def test_each_target_and_stage_executes_the_code_compiled_for_it(compilations: list[str]) -> None:
    for cc in (80, 90, 100, 80):
        for stage in ("ttir", "ttgir"):
            with simulator(stage, cc):
                launch_copy()
    targets = [re.findall(r'"?ttg.target"? = "cuda:(\d+)"', text) for text in compilations]
    assert targets == [[], ["80"], [], ["90"], [], ["100"]]


def test_the_executed_ttgir_is_the_one_that_is_converted_to_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[harness.LaunchRecord] = []
    execute = harness.execute
    monkeypatch.setattr(harness, "execute", lambda launch, *a, **k: launches.append(launch) or execute(launch, *a, **k))
    with simulator("ttgir", 90):
        product[(1, 1)](torch.ones(32, 64).half(), torch.ones(64, 32).half(), torch.empty(32, 32), 64, block=32)
        target = harness.target_for("cpu", 90)
        dumps = validate.split_dump(harness.dump_for_launch(launches[0], target))
        (before_llvm,) = (text for name, text in dumps if name.startswith("Before ConvertTritonGPUToLLVM"))
        assert before_llvm.strip() == launch_ir.text_of(launches[0], "ttgir", target).strip()


def process_state() -> list[Any]:
    """What a session replaces in the process."""
    replaced = [getattr(torch.cuda, name) for name in ("is_available", "device", "get_device_capability", "manual_seed")]
    tensor = [Tensor.__dict__.get(name) for name in ("device", "is_cuda", "backward")]
    return [
        torch.autograd.has_torch_function,
        driver._active,
        JITFunction.run,
        harness.ir_for_launch,
        mlir.parse,
        ops._fma_chain,
        *replaced,
        *tensor,
    ]


def interrupted() -> None:
    with simulator("ttgir", 80), simulator("ttir", 100, products="h100"):
        raise KeyboardInterrupt


def rejected() -> None:
    with simulator(races="sometimes"):
        pass


@pytest.mark.parametrize(("leave", "error"), [(interrupted, KeyboardInterrupt), (rejected, ValueError)])
def test_everything_is_restored_after_an_exception(leave: Callable[[], None], error: type[BaseException]) -> None:
    before = process_state()
    with pytest.raises(error):
        leave()
    assert process_state() == before
    assert torch.ones(1).device.type == "cpu"
    assert not torch.ones(1).is_cuda


def test_a_nested_session_restores_the_outer_one(compilations: list[str]) -> None:
    with simulator("ttgir", 80) as outer:
        before = process_state()
        with simulator("ttir", 100) as inner:
            launch_copy()
            assert driver.active.get_current_target().arch == 100
        assert process_state() == before
        assert driver.active.get_current_target().arch == 80
        assert torch.ones(1).is_cuda
        launch_copy()
        assert (outer.launches, inner.launches) == (1, 1)
    assert "ttg.target" in compilations[1]


@pytest.mark.parametrize("unknown", [{"stage": "ptx"}, {"products": "exact"}])
def test_an_unknown_stage_or_kind_of_product_is_rejected(unknown: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(unknown))), simulator(**unknown):
        pass
