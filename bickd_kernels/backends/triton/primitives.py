"""Device functions and constants that several kernels share.

Kernels take logarithms and powers to the base 2, for which a GPU has instructions: ``log2(e)`` goes into the scale.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

UNIT_SCALE = tl.constexpr(16384.0)
"""Unit vectors are stored times this: small entries are then normal float16 numbers, and large ones far below infinity."""


class Logits(NamedTuple):
    """Logits in a kernel."""

    student: Any
    """Pointer to ``(B, C)`` logits."""
    teacher: Any
    """Pointer to ``(B, C)`` logits, of another dtype perhaps."""
    student_stride: Any
    """Elements between two samples."""
    teacher_stride: Any
    samples: Any
    classes: Any


@triton.jit
def logits_of(student, teacher, sizes, VECTOR: tl.constexpr):
    """What kernels get as ``launch.LogitSizes`` in units of elements, so that the compiler sees what divides it."""
    return Logits(
        student=student,
        teacher=teacher,
        student_stride=sizes.student_stride_v * VECTOR,
        teacher_stride=sizes.teacher_stride_v * VECTOR,
        samples=sizes.samples,
        classes=sizes.classes_v * VECTOR,
    )


@triton.jit
def finite_or_zero(maximum):
    """A maximum that can be subtracted: ``-inf - -inf`` would be NaN where nothing has been seen yet."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def rescaled(total, old_maximum, new_maximum, scale):
    """``total = sum 2^((x - old) scale)`` as it reads relative to the new maximum."""
    return total * tl.exp2((old_maximum - finite_or_zero(new_maximum)) * scale)


@triton.jit
def mean_of(total, count):
    """``total / count`` with one step of refinement: a vector of ones has a mean of exactly 1, and vanishes when centred."""
    inverse = 1.0 / tl.maximum(count, 1.0)
    mean = total * inverse
    return mean + tl.fma(-mean, count, total) * inverse


@triton.jit
def squares_about_mean(values, total, count, inside, AXIS: tl.constexpr):
    """``sum (values - mean)^2`` over ``count`` values inside, which add up to ``total``."""
    mean = tl.expand_dims(mean_of(total, count), AXIS)
    centred = tl.where(inside, values - mean, 0.0)
    return tl.sum(centred * centred, axis=AXIS)


@triton.jit
def squares_between(total, count, other_total, other_count):
    """What the squares about the mean of two sets have beyond those about the mean of each.

    So sums of squares of tiles are added without cancellation (Chan, Golub, LeVeque).
    """
    gap = mean_of(total, count) - mean_of(other_total, other_count)
    return gap * gap * (count * other_count / tl.maximum(count + other_count, 1.0))


@triton.jit
def sum_over_tiles(partial_sums, vectors, tiles, i, inside, MOST_TILES: tl.constexpr):
    """``sum_tile partial_sums[tile, i]`` over the first ``tiles <= MOST_TILES`` rows, always in the same order."""
    total = tl.zeros(i.shape, tl.float32)
    for tile in tl.static_range(MOST_TILES):
        total += tl.load(partial_sums + tl.cast(tile * vectors, tl.int64) + i, mask=inside & (tile < tiles), other=0.0)
    return total


@triton.jit
def inverse_or_zero(total):
    """``1 / total``, and 0 for the empty sum of a vector that is not part of the batch; NaN stays NaN."""
    return tl.where(total == 0.0, 0.0, 1.0 / total)
