"""Scratch memory: one float32 array per call, through which the stages pass their results.

``n`` and ``m`` are samples and classes padded to whole tiles. A *side* is ``v`` vectors of ``d`` entries: the classes
(``v, d = m, n``) or the samples (``v, d = n, m``). The buffers in order, float32 unless another dtype is given:

    statistics       (SAMPLE_STATISTICS, n)    of each sample, by the indices below
    lengths          (m,)                      log2 of the length of the student's class column
    shifts           (m,)                      correlations only: mean of the student's class column after scaling
    counts           (3,)                      samples and classes of the batch, 1 if there are none; the probability of a
                                               class in the uniform distribution over these classes
    of both sides, the classes first:
    labels           (v,) int32                equal for vectors that are positives of each other
    members          (v,)                      1 / number of positives of a vector; 0 for a vector outside the batch
    of a side that is computed, the classes first:
    student          (PARTS, v, d) float16     unit vectors, times ``UNIT_SCALE``
    teacher          (PARTS, v, d) float16
    partial_sums     (2, v / TILE, v)          sums of ``E`` within a tile: of its rows, of its columns
    sums             (2, v)                    these summed over tiles, if ``partial_sums`` is launched
    positives        (v / TILE, v / TILE)      sums of ``members_i (1 - S_ij)`` over the positives within a tile
    for a gradient, of a side that is computed, the classes first:
    projections      (d / TILE, v)             sums of ``U_id G_id`` within a tile
    slopes           (n, m)                    ``G``, in the layout of the logits
    for a gradient, of the similarity tiles that are held at a time, the samples first:
    derivatives      (PARTS, rows, columns) float16   ``W``, times ``DERIVATIVE_SCALE``
    exponentials     (rows, v)                 ``E``, if it is kept

Every buffer starts at a multiple of 16 numbers, which the compiler can prove, so loads have full width.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

SAMPLE_STATISTICS = tl.constexpr(15)
"""The number of statistics per sample; their indices follow."""

STUDENT_MAX = tl.constexpr(0)
TEACHER_MAX = tl.constexpr(1)
STUDENT_NORMALIZER = tl.constexpr(2)
TEACHER_NORMALIZER = tl.constexpr(3)
STUDENT_LENGTH = tl.constexpr(4)
TEACHER_LENGTH = tl.constexpr(5)
STUDENT_KD_NORMALIZER = tl.constexpr(6)
TEACHER_KD_NORMALIZER = tl.constexpr(7)
CE_MAX = tl.constexpr(8)
CE_NORMALIZER = tl.constexpr(9)
CE = tl.constexpr(10)
KL = tl.constexpr(11)
TARGET_MASS = tl.constexpr(12)
"""The sum of a sample's target probabilities; not written if targets are labels."""
STUDENT_SHIFT = tl.constexpr(13)
TEACHER_SHIFT = tl.constexpr(14)
"""The mean of a sample's probabilities divided by the centred vector's length; written only for correlations."""


class Side(NamedTuple):
    """Pointers (float32) to the buffers of a side."""

    labels: Any
    members: Any
    student: Any
    teacher: Any
    partial_sums: Any
    sums: Any
    positives: Any
    projections: Any
    slopes: Any
    derivatives: Any
    exponentials: Any


class Scratch(NamedTuple):
    """Pointers (float32) to the buffers. ``end`` follows the last buffer other than the classes' exponentials."""

    statistics: Any
    lengths: Any
    shifts: Any
    counts: Any
    classes: Side
    samples: Side
    end: Any


class Held(NamedTuple):
    """The number of similarity tiles that the scratch memory has room for."""

    classes: int
    """Of ``W``."""
    samples: int
    """Of ``W``."""
    kept_samples: int
    """Of ``E``."""


@triton.jit
def buffers(
    scratch,
    samples,  # int64
    classes,  # int64
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    held_classes=0,  # int64, like the following: the fields of ``Held``
    held_samples=0,
    kept_samples=0,
):
    """The layout. The host computes its size with the same code, passing 0 as ``scratch`` and Python integers as sizes."""
    class_tiles = classes // TILE
    sample_tiles = samples // TILE
    units = samples * (classes // 2) * PARTS

    statistics = scratch
    lengths = statistics + samples * SAMPLE_STATISTICS
    shifts = lengths + classes
    counts = shifts + classes
    class_labels = counts + 16
    class_members = class_labels + classes
    sample_labels = class_members + classes
    sample_members = sample_labels + samples

    class_student = sample_members + samples
    class_teacher = class_student + units * WITH_CLASS
    class_partial_sums = class_teacher + units * WITH_CLASS
    class_sums = class_partial_sums + classes * (2 * class_tiles * WITH_CLASS)
    class_positives = class_sums + classes * (2 * WITH_CLASS)

    sample_student = class_positives + (class_tiles * class_tiles * WITH_CLASS + 15) // 16 * 16
    sample_teacher = sample_student + units * WITH_SAMPLE
    sample_partial_sums = sample_teacher + units * WITH_SAMPLE
    sample_sums = sample_partial_sums + samples * (2 * sample_tiles * WITH_SAMPLE)
    sample_positives = sample_sums + samples * (2 * WITH_SAMPLE)

    class_projections = sample_positives + (sample_tiles * sample_tiles * WITH_SAMPLE + 15) // 16 * 16
    class_slopes = class_projections + classes * (sample_tiles * WITH_CLASS)
    sample_projections = class_slopes + classes * (samples * WITH_CLASS)
    sample_slopes = sample_projections + samples * (class_tiles * WITH_SAMPLE)
    sample_derivatives = sample_slopes + samples * (classes * WITH_SAMPLE)
    class_derivatives = sample_derivatives + held_samples * (TILE * TILE // 2 * PARTS)
    sample_exponentials = class_derivatives + held_classes * (TILE * TILE // 2 * PARTS)
    class_exponentials = sample_exponentials + kept_samples * (TILE * TILE)
    return Scratch(
        statistics=statistics,
        lengths=lengths,
        shifts=shifts,
        counts=counts,
        classes=Side(
            labels=class_labels,
            members=class_members,
            student=class_student,
            teacher=class_teacher,
            partial_sums=class_partial_sums,
            sums=class_sums,
            positives=class_positives,
            projections=class_projections,
            slopes=class_slopes,
            derivatives=class_derivatives,
            exponentials=class_exponentials,
        ),
        samples=Side(
            labels=sample_labels,
            members=sample_members,
            student=sample_student,
            teacher=sample_teacher,
            partial_sums=sample_partial_sums,
            sums=sample_sums,
            positives=sample_positives,
            projections=sample_projections,
            slopes=sample_slopes,
            derivatives=sample_derivatives,
            exponentials=sample_exponentials,
        ),
        end=class_exponentials,
    )


@triton.jit
def as_float16(pointer):
    """The float16 buffer at this address."""
    return pointer.to(tl.pointer_type(tl.float16))


@triton.jit
def as_int32(pointer):
    """The int32 buffer at this address."""
    return pointer.to(tl.pointer_type(tl.int32))
