"""A model of tensor cores, which truncate the sums of matrix products where ttsem rounds to nearest.

A tensor core aligns the accumulator and a group of products to the largest exponent among them, truncates each after a fixed
number of fraction bits, and adds. The sum is truncated to float32 too. An accumulator thus loses up to a unit in the last
place with every group, always towards zero: the errors of a long sum do not cancel. The sizes are those that arXiv
2512.07004 and PeerJ CS 330 infer from experiments; docs/performance.md has what probes on an H200 found.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32]

ZERO_EXPONENT = -1000
"""The exponent of zero, which is never the largest."""

SMALLEST_EXPONENTS = {"float16": -14, "float32": -126}
"""The exponent of the smallest normal number, which subnormal numbers share."""

BEYOND_FLOAT32 = np.int64(2**29 - 1)
"""The significant bits of a float64 number that float32 lacks."""


class TensorCore(NamedTuple):
    """How many products are added at a time, and how many bits of each are kept below the largest exponent."""

    group: int
    fraction_bits: int

    def multiply_add(self, left: Numbers, right: Numbers, accumulator: Numbers) -> Numbers:
        """``accumulator + left @ right`` over the last two axes, for operands that are float16 numbers."""
        left_exponents, right_exponents = (_exponents(operand, "float16") for operand in (left, right))
        # The float64 operations below are exact.
        left, right, total = left.astype(np.float64), right.astype(np.float64), accumulator.astype(np.float64)
        for start in range(0, left.shape[-1], self.group):
            group = range(start, min(start + self.group, left.shape[-1]))
            largest = _exponents(total, "float32")
            for a, b in _factors(left_exponents, right_exponents, group):
                largest = np.maximum(largest, a + b)
            units = np.ldexp(1.0, self.fraction_bits - np.maximum(largest, SMALLEST_EXPONENTS["float32"]))
            with np.errstate(invalid="ignore"):
                aligned = np.trunc(total * units)
                for a, b in _factors(left, right, group):
                    aligned = aligned + np.trunc(a * b * units)
            total = _cut_to_float32(aligned / units)
        return total.astype(np.float32)


TENSOR_CORES = {"a100": TensorCore(group=8, fraction_bits=24), "h100": TensorCore(group=16, fraction_bits=25)}


def _factors(left: NDArray, right: NDArray, group: range) -> Iterator[tuple[NDArray, NDArray]]:
    """The columns of ``left``, each with the row of ``right`` that it is multiplied by."""
    return ((left[..., k, None], right[..., None, k, :]) for k in group)


def _exponents(numbers: NDArray, dtype: str) -> NDArray[np.int32]:
    """``e`` of each number ``1.f * 2^e`` of this type."""
    exponents = np.maximum(np.frexp(numbers)[1] - 1, SMALLEST_EXPONENTS[dtype])
    return np.where(numbers == 0, ZERO_EXPONENT, exponents)


def _cut_to_float32(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Truncates each number to float32, towards zero."""
    return (numbers.view(np.int64) & ~BEYOND_FLOAT32).view(np.float64)
