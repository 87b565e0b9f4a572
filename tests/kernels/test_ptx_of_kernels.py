"""Every kernel, executed from its PTX for sm_80, the form closest to what a GPU executes."""

from typing import Any
from unittest import mock

import pytest
import torch
import triton
import triton.language as tl
from cases import Inputs, make_inputs, with_absences
from checks import Step, assert_right, step
from tensor_core import TENSOR_CORES

from benchmarks.clock_model.launches import Launch, launches
from benchmarks.clock_model.warps import rounded_multiply_add

ADDITION = {"rounded": rounded_multiply_add} | {name: core.multiply_add for name, core in TENSOR_CORES.items()}

SHAPE = (40, 70)

_empty = torch.empty


def empty_of_nan(*size: Any, **options: Any) -> torch.Tensor:
    tensor = _empty(*size, **options)
    return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor


def executed(inputs: Inputs, addition: str = "rounded", **options: float) -> Step:
    """A training step whose launches are executed from their PTX."""

    def execute(launch: Launch) -> None:
        launch.execute(range(launch.programs), ADDITION[addition])

    with mock.patch.object(torch, "empty", empty_of_nan), launches(execute):
        return step("bickd", inputs, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_step_matches_the_definition(dtype: torch.dtype) -> None:
    inputs = make_inputs(*SHAPE, dtype=dtype)
    assert_right(executed(inputs), "bickd", inputs)


@pytest.mark.parametrize("addition", TENSOR_CORES)
def test_a_step_on_truncating_tensor_cores_matches_the_definition(addition: str) -> None:
    inputs = make_inputs(*SHAPE, dtype=torch.float32)
    assert_right(executed(inputs, addition), "bickd", inputs)


def test_absent_classes_and_ignored_rows_are_left_out() -> None:
    inputs = with_absences(make_inputs(*SHAPE, dtype=torch.float32))
    assert_right(executed(inputs), "bickd", inputs)


@triton.jit
def product(a, b, out, size: tl.constexpr, precision: tl.constexpr):
    rows, columns = tl.arange(0, size)[:, None], tl.arange(0, size)[None, :]
    place = rows * size + columns
    tl.store(out + place, tl.dot(tl.load(a + place), tl.load(b + place), input_precision=precision))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_products_on_tensor_cores_are_exact_for_small_whole_numbers(dtype: torch.dtype) -> None:
    a, b = torch.randint(-8, 9, (2, 32, 32), generator=torch.Generator().manual_seed(0)).to(dtype)
    out = torch.empty(32, 32)
    found: list[Launch] = []
    with launches(found.append):
        product[(1,)](a, b, out, 32, "tf32")
    (launch,) = found
    names = {one.full_name for block in launch.kernel.blocks for one in block if one.name == "mma"}
    kind = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "tf32"}[dtype]
    assert any(f".f32.{kind}.{kind}.f32" in name for name in names)
    launch.execute([0])
    assert torch.equal(out, a.float() @ b.float())
