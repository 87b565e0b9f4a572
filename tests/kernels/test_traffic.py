"""The traffic counter counts exactly the reads and writes of kernels with known accesses."""

import launch_ir
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from simulate import simulator
from small_kernels import COMPILED, product, row_sums
from traffic import LaunchTraffic, count_traffic, total_counts_of
from triton.tools.tensor_descriptor import TensorDescriptor
from ttsem.sanitize import KernelFault


@triton.jit
def product_of_descriptors(a, b, out, inner, block: tl.constexpr):
    row, column = tl.program_id(0) * block, tl.program_id(1) * block
    total = tl.zeros((block, block), tl.float32)
    for k in range(0, inner, block):
        total = tl.dot(a.load([row, k]), b.load([k, column]), total)
    row += tl.arange(0, block)
    column += tl.arange(0, block)
    tl.store(out + row[:, None] * block * tl.num_programs(1) + column[None, :], total)


@triton.jit
def copy(x, out, size, block: tl.constexpr):
    element = tl.arange(0, block)
    tl.store(out + element, tl.load(x + element, mask=element < size), mask=element < size)


@triton.jit
def count_up(out, size, block: tl.constexpr):
    element = tl.arange(0, block)
    tl.atomic_add(out + element // 2, 1, mask=element < size)


def only(launches: list[LaunchTraffic]) -> LaunchTraffic:
    """The only launch."""
    (launch,) = launches
    return launch


@pytest.mark.parametrize(("stage", "cc"), COMPILED)
def test_masked_loads_of_strided_rows_are_counted_by_element(stage: str, cc: int) -> None:
    with simulator(stage, cc), count_traffic() as launches:
        storage = torch.randn(5, 40)
        x, out = storage[:, :24], torch.empty(5)
        row_sums[(5,)](x, out, 24, 40, block=16)
        row_sums[(3,)](x, out, 20, 40, block=16)
        first, second = launches
        assert first.kernel == "row_sums"
        assert first.tensors.keys() == {"x", "out"}
        np.testing.assert_array_equal(first.counts["x"].loads, np.ones((5, 24)))
        np.testing.assert_array_equal(first.counts_of(storage).loads, np.arange(40)[None] < [[24]] * 5)
        np.testing.assert_array_equal(first.counts["out"].stores, np.ones(5))
        assert not first.counts["out"].loads.any()
        assert not first.counts["x"].stores.any()
        assert (first.loaded_bytes, first.stored_bytes) == (5 * 24 * 4, 5 * 4)
        assert first.requested_bytes == first.compulsory_bytes == 5 * 25 * 4
        assert (second.loaded_bytes, second.stored_bytes) == (3 * 20 * 4, 3 * 4)
        total = total_counts_of(launches, x.t())
        assert total.loads.shape == (24, 5)
        np.testing.assert_array_equal(total.loads[:, 0], 1 + (np.arange(24) < 20))
        np.testing.assert_array_equal(total.loads[:, 3:], 1)


@pytest.mark.parametrize(("stage", "cc"), COMPILED)
def test_loads_of_a_pipelined_product_are_counted(stage: str, cc: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_ir, "_texts", {})
    with simulator(stage, cc), count_traffic() as launches:
        a, b, out = torch.randn(64, 128).half(), torch.randn(128, 96).half(), torch.empty(64, 96)
        product[(2, 3)](a, b, out, 128, block=32)
        assert ("ttg.async_copy_global_to_local" in "".join(launch_ir._texts.values())) == (stage == "ttgir")
        check_product(only(launches), a, b, out)


@pytest.mark.parametrize(("stage", "cc"), COMPILED[:1] + COMPILED[2:])
def test_copies_of_whole_tiles_are_counted(stage: str, cc: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_ir, "_texts", {})
    with simulator(stage, cc), count_traffic() as launches:
        a, b, out = torch.randn(64, 128).half(), torch.randn(128, 96).half(), torch.empty(64, 96)
        # ttsem drops what is stored through a descriptor that is an argument.
        tiles = (TensorDescriptor.from_tensor(x, [32, 32]) for x in (a, b))
        product_of_descriptors[(2, 3)](*tiles, out, 128, block=32)
        assert ("ttng.async_tma_copy_global_to_local" in "".join(launch_ir._texts.values())) == (stage == "ttgir")
        check_product(only(launches), a, b, out)


def check_product(launch: LaunchTraffic, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """The traffic of a product of 64 x 128 and 128 x 96 by tiles of 32 x 32."""
    torch.testing.assert_close(out, a.float() @ b.float(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(launch.counts["a"].loads, np.full((64, 128), 3))
    np.testing.assert_array_equal(launch.counts["b"].loads, np.full((128, 96), 2))
    np.testing.assert_array_equal(launch.counts["out"].stores, np.ones((64, 96)))
    assert launch.loaded_bytes == 3 * 64 * 128 * 2 + 2 * 128 * 96 * 2
    assert launch.stored_bytes == 64 * 96 * 4
    assert launch.compulsory_bytes == 64 * 128 * 2 + 128 * 96 * 2 + 64 * 96 * 4


def test_views_of_one_storage_are_counted_once() -> None:
    with simulator(), count_traffic() as launches:
        storage = torch.randn(32)
        copy[(1,)](storage[:12], storage[16:], 12, block=16)
        launch = only(launches)
        np.testing.assert_array_equal(launch.counts["x"].loads, np.ones(12))
        np.testing.assert_array_equal(launch.counts["out"].stores, np.arange(16) < 12)
        np.testing.assert_array_equal(launch.counts_of(storage[8:20]).loads, np.arange(12) < 4)
        np.testing.assert_array_equal(launch.counts_of(storage[8:20]).stores, np.arange(12) >= 8)
        assert (launch.loaded_bytes, launch.stored_bytes) == (48, 48)


def test_elements_are_counted_whatever_dtype_they_are_read_as() -> None:
    with simulator(), count_traffic() as launches:
        x = torch.randn(16).half()
        copy[(1,)](x.view(torch.int32), torch.empty(8, dtype=torch.int32), 7, block=8)
        launch = only(launches)
        np.testing.assert_array_equal(launch.counts_of(x).loads, np.arange(16) < 14)
        np.testing.assert_array_equal(launch.counts_of(x.expand(3, 16)[:, 12:]).loads, [[1, 1, 0, 0]] * 3)


def test_an_atomic_operation_counts_as_a_load_and_a_store() -> None:
    with simulator(), count_traffic() as launches:
        out = torch.zeros(8, dtype=torch.int32)
        count_up[(3,)](out, 6, block=16)
        launch = only(launches)
        np.testing.assert_array_equal(launch.counts["out"].loads, out.numpy())
        np.testing.assert_array_equal(launch.counts["out"].stores, [6, 6, 6, 0, 0, 0, 0, 0])
        assert launch.requested_bytes == 2 * 18 * 4
        assert launch.compulsory_bytes == 2 * 3 * 4


def test_counts_do_not_depend_on_when_they_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traffic.PENDING", 10)
    test_masked_loads_of_strided_rows_are_counted_by_element("ttir", 90)


def test_a_launch_that_faults_is_counted_up_to_the_fault() -> None:
    with simulator(), count_traffic() as launches:
        x, out = torch.randn(16), torch.empty(8)
        with pytest.raises(KernelFault):
            copy[(1,)](x, out, 16, block=16)
        assert (only(launches).loaded_bytes, only(launches).stored_bytes) == (64, 0)


def test_a_tensor_that_is_no_argument_has_no_counts() -> None:
    with simulator(), count_traffic() as launches:
        other = torch.empty(4)
        copy[(1,)](torch.randn(16), torch.empty(16), 16, block=16)
        with pytest.raises(KeyError):
            only(launches).counts_of(other)
        assert not total_counts_of(launches, other).loads.any()


def test_launches_after_the_counter_are_not_counted() -> None:
    with simulator():
        with count_traffic() as launches:
            pass
        copy[(1,)](torch.randn(16), torch.empty(16), 16, block=16)
        assert launches == []
