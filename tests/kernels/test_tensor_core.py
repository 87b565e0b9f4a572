"""The model of tensor cores truncates as its sizes say, in examples that can be added up by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from tensor_core import TENSOR_CORES

ROOT = 2.0**-12
"""``ROOT * ROOT`` is 2^-24, half a unit in the last place of 1 as float32; both are float16 numbers."""

HALF_UNIT = ROOT * ROOT


def add_up(core: str, accumulator: float, left: Sequence[float], right: Sequence[float]) -> float:
    """``accumulator + sum_k left_k right_k`` by one of the tensor cores."""
    operands = np.array([left], np.float32), np.array(right, np.float32)[:, None]
    return float(TENSOR_CORES[core].multiply_add(*operands, np.array([[accumulator]], np.float32))[0, 0])


@pytest.mark.parametrize("core", TENSOR_CORES)
@pytest.mark.parametrize(
    ("accumulator", "left", "right", "expected"),
    [
        pytest.param(3.0, [2.0, 0.5], [1.5, -4.0], 4.0, id="exact"),
        pytest.param(1.0, [1.5 * ROOT], [ROOT], 1.0, id="rounding would go up"),
        pytest.param(-1.0, [1.5 * ROOT], [-ROOT], -1.0, id="rounding would go down"),
        pytest.param(1.0, [2 * ROOT], [ROOT], 1.0 + 2 * HALF_UNIT, id="a whole unit"),
        pytest.param(1.0, [ROOT] * 4, [ROOT] * 4, 1.0 + 4 * HALF_UNIT, id="halves of one group"),
        pytest.param(2.0**20, [-1.0, 0.0], [1.0, 0.0], 2.0**20 - 1, id="exact difference"),
        pytest.param(0.0, [2.0**-24], [2.0**-24], 2.0**-48, id="smallest products"),
        # The exponent of 1.5 * 1.5 = 2.25 is taken to be the sum of the operands' exponents, 0.
        pytest.param(0.0, [1.5, -1.5, ROOT], [1.5, 1.5, ROOT], HALF_UNIT, id="exponents of products"),
    ],
)
def test_bits_below_the_last_one_are_truncated(
    core: str, accumulator: float, left: list[float], right: list[float], expected: float
) -> None:
    assert add_up(core, accumulator, left, right) == expected


def test_an_h100_keeps_a_bit_more_than_an_a100() -> None:
    left, right = [ROOT / 2] * 8, [ROOT] * 8
    assert add_up("a100", 1.0, left, right) == 1.0
    assert add_up("h100", 1.0, left, right) == 1.0 + 4 * HALF_UNIT
    assert add_up("a100", 1.0, left, [-b for b in right]) == 1.0
    assert add_up("h100", 1.0, left, [-b for b in right]) == 1.0 - 4 * HALF_UNIT


def test_each_group_is_truncated_separately() -> None:
    halves = [ROOT if k in (7, 8) else 0.0 for k in range(17)]
    assert add_up("a100", 1.0, halves, halves) == 1.0
    assert add_up("h100", 1.0, halves, halves) == 1.0 + 2 * HALF_UNIT
    halves = [ROOT if k in (15, 16) else 0.0 for k in range(17)]
    assert add_up("h100", 1.0, halves, halves) == 1.0


@pytest.mark.parametrize("core", TENSOR_CORES)
def test_a_long_sum_loses_up_to_one_unit_per_group(core: str) -> None:
    generator = np.random.default_rng(0)
    left, right = (generator.random(shape).astype(np.float16).astype(np.float32) for shape in ((6, 512), (512, 7)))
    exact = left.astype(np.float64) @ right.astype(np.float64)
    lost = (exact - TENSOR_CORES[core].multiply_add(left, right, np.zeros((6, 7), np.float32))) / exact
    groups = 512 / TENSOR_CORES[core].group
    # Half a unit per group on average, in sums that grow from 0; a unit is 2^-23 of a number between 1 and 2.
    assert (lost > groups * 2.0**-27).all()
    assert (lost < groups * 2.0**-23).all()


@pytest.mark.parametrize("core", TENSOR_CORES)
def test_a_batched_product_equals_the_products_of_its_matrices(core: str) -> None:
    generator = np.random.default_rng(1)
    shapes = ((3, 4, 40), (3, 40, 5), (3, 4, 5))
    left, right, accumulator = (generator.normal(size=s).astype(np.float16).astype(np.float32) for s in shapes)
    batch = TENSOR_CORES[core].multiply_add(left, right, accumulator)
    for k in range(3):
        np.testing.assert_array_equal(batch[k], TENSOR_CORES[core].multiply_add(left[k], right[k], accumulator[k]))


@pytest.mark.parametrize("core", TENSOR_CORES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_row(core: str, bad: float) -> None:
    left, right = np.ones((2, 20), np.float32), np.ones((20, 3), np.float32)
    left[1, 4] = bad
    result = TENSOR_CORES[core].multiply_add(left, right, np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(result, np.array([[20.0] * 3, [bad] * 3], np.float32))
