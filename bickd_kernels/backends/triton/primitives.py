"""Device functions and constants that several kernels share.

Kernels use base-2 logarithms and powers, for which GPUs have instructions; ``log2(e)`` is folded into the scale.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

UNIT_SCALE = tl.constexpr(16384.0)
"""Stored unit vectors are scaled by this: small entries become normal float16 numbers, large ones stay far from overflow."""


class Logits(NamedTuple):
    """Logits in a kernel."""

    student: Any
    """Pointer to ``(B, C)`` logits."""
    teacher: Any
    """Pointer to ``(B, C)`` logits; the dtype may differ."""
    student_stride: Any
    """Elements between two samples."""
    teacher_stride: Any
    samples: Any
    classes: Any


@triton.jit
def logits_of(student, teacher, sizes, VECTOR: tl.constexpr):
    """Converts ``launch.LogitSizes`` to units of elements, in a way that shows their divisibility to the compiler."""
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
    """A maximum that is safe to subtract: before any finite value is seen, ``-inf - -inf`` would be NaN."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def rescaled(total, old_maximum, new_maximum, scale):
    """``total = sum 2^((x - old) scale)``, rescaled to the new maximum."""
    return total * tl.exp2((old_maximum - finite_or_zero(new_maximum)) * scale)


@triton.jit
def mean_of(total, count):
    """``total / count`` with one refinement step: a vector of ones then has a mean of exactly 1 and centres to 0."""
    inverse = 1.0 / tl.maximum(count, 1.0)
    mean = total * inverse
    return mean + tl.fma(-mean, count, total) * inverse


@triton.jit
def squares_about_mean(values, total, count, inside, AXIS: tl.constexpr):
    """``sum (values - mean)^2`` over the ``count`` values inside, whose sum is ``total``."""
    mean = tl.expand_dims(mean_of(total, count), AXIS)
    centred = tl.where(inside, values - mean, 0.0)
    return tl.sum(centred * centred, axis=AXIS)


@triton.jit
def squares_between(total, count, other_total, other_count):
    """The squares about the joint mean of two sets minus the squares about each set's own mean.

    With it, tiles' sums of squares are combined without cancellation (Chan, Golub, LeVeque).
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
    """``1 / total``, but 0 for the empty sum of a vector outside the batch; NaN stays NaN."""
    return tl.where(total == 0.0, 0.0, 1.0 / total)
