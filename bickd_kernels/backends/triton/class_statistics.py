"""Stage 2, class statistics: all sums over the samples of a class, and the unit vectors of both sides.

    log2 P_ac   = s (x_ac - max x_a) - normalizer_a,  s = log2(e) / t
    log2 |P_c|  = max_a log2 P_ac + 1/2 log2 sum_a 2^(2 (log2 P_ac - max_a log2 P_ac))      column length, in log space
    Pc_ac       = 2^(log2 P_ac - log2 |P_c|)            class vectors, stored (C, B)
    Pr_ac       = 2^(log2 P_ac - log2 |P_a|)            sample vectors, stored (B, C)

and the same for ``Q``. For correlations, vectors are centred, and lengths are those of the centred vectors. Grid: one
program per ``CLASSES`` classes. Reads ``x``, ``y``, ``statistics``, the samples' ``members``; writes ``lengths``,
``shifts``, the classes' ``labels`` and ``members``, and the unit vectors, padded to whole tiles with zeros so that later
stages need no mask. Up to ``SAMPLES`` samples stay on chip between the statistics and the vectors, so that the logits are
read once. Larger batches are read a second time for the vectors.

Each thread holds samples of one class and sums most of a column by itself: here, reductions across threads cost more than
loads of single logits.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import (
    LOG2_E,
    UNIT_SCALE,
    finite_or_zero,
    logits_of,
    mean_of,
    rescaled,
    squares_between,
)
from bickd_kernels.backends.triton.products import high_part, low_part
from bickd_kernels.backends.triton.scratch import (
    STUDENT_LENGTH,
    STUDENT_MAX,
    STUDENT_NORMALIZER,
    STUDENT_SHIFT,
    TEACHER_LENGTH,
    TEACHER_MAX,
    TEACHER_NORMALIZER,
    TEACHER_SHIFT,
    as_float16,
    as_int32,
    buffers,
)


class Moments(NamedTuple):
    """Moments of columns of ``log2 P_ac``, with ``p = 2^(log2 P_ac - maximum)``."""

    maximum: Any
    total: Any
    """``sum_a p`` if vectors are centred, else 0."""
    squares: Any
    """``sum_a p^2``, or the squares about the mean of ``p`` if vectors are centred."""


@triton.jit
def log_probabilities(
    row, statistics, sample, column, valid, inside, padded_samples, scale, MAX: tl.constexpr, NORMALIZER: tl.constexpr
):
    """``log2 softmax`` for these samples and classes, -inf outside the batch, and which logits are not -inf."""
    tile = tl.load(row + column[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    maximum = tl.load(statistics + MAX * padded_samples + sample, mask=valid, other=0.0)
    normalizer = tl.load(statistics + NORMALIZER * padded_samples + sample, mask=valid, other=0.0)
    return (tile - maximum[:, None]) * scale - normalizer[:, None], tile != float("-inf")


@triton.jit
def tile_of_samples(logits, memory, start, column, padded_samples, scale, SAMPLES: tl.constexpr):
    """``SAMPLES`` samples: their indices, which are in the batch, and the ``log_probabilities`` of both networks.

    Two bits of one number say which logits are not -inf: 1 for the student, 2 for the teacher.
    """
    sample = start + tl.arange(0, SAMPLES)
    in_buffer = sample < padded_samples
    valid = tl.load(memory.samples.members + sample, mask=in_buffer, other=0.0) > 0.0
    inside = valid[:, None] & (column < logits.classes)[None, :]
    wide = sample.to(tl.int64)[:, None]
    x, x_seen = log_probabilities(
        logits.student + wide * logits.student_stride,
        memory.statistics,
        sample=sample,
        column=column,
        valid=valid,
        inside=inside,
        padded_samples=padded_samples,
        scale=scale,
        MAX=STUDENT_MAX,
        NORMALIZER=STUDENT_NORMALIZER,
    )
    y, y_seen = log_probabilities(
        logits.teacher + wide * logits.teacher_stride,
        memory.statistics,
        sample=sample,
        column=column,
        valid=valid,
        inside=inside,
        padded_samples=padded_samples,
        scale=scale,
        MAX=TEACHER_MAX,
        NORMALIZER=TEACHER_NORMALIZER,
    )
    return sample, valid, x, y, x_seen.to(tl.int32) | (y_seen.to(tl.int32) << 1)


@triton.jit
def store_units(
    units, offsets, log_scaled, shift, inside, in_buffer, low_offset, CENTRED: tl.constexpr, PARTS: tl.constexpr
):
    """Writes a tile of unit vectors, computed from logarithms, shifted if centred, zero outside the batch."""
    values = tl.exp2(log_scaled)
    if CENTRED:
        values -= shift
    values = tl.where(inside, values * UNIT_SCALE, 0.0)
    high = high_part(values)
    tl.store(units + offsets, high, mask=in_buffer)
    if PARTS == 2:
        tl.store(units + low_offset + offsets, low_part(values, high), mask=in_buffer)


@triton.jit
def store_both_units(
    log_p,
    class_length,
    class_shift,
    statistics,
    class_units,
    sample_units,
    sample,
    column,
    valid,
    present,
    padded_samples,
    padded_classes,
    LENGTH: tl.constexpr,
    SHIFT: tl.constexpr,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    CENTRED: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Writes the class and sample vectors of one network, each contiguous along its vectors."""
    low_offset = tl.cast(padded_samples, tl.int64) * padded_classes
    inside = valid[:, None] & present[None, :]
    in_buffer = (sample < padded_samples)[:, None]
    if WITH_CLASS:
        first = tl.min(column, axis=0)
        tile = as_float16(class_units) + first.to(tl.int64) * padded_samples
        offsets = (column - first)[None, :] * padded_samples + sample[:, None]
        scaled, shift = log_p - class_length[None, :], class_shift[None, :]
        store_units(tile, offsets, scaled, shift, inside, in_buffer, low_offset, CENTRED=CENTRED, PARTS=PARTS)
    if WITH_SAMPLE:
        sample_length = tl.load(statistics + LENGTH * padded_samples + sample, mask=valid, other=0.0)
        offsets = sample.to(tl.int64)[:, None] * padded_classes + column[None, :]
        tile = as_float16(sample_units)
        shift = tl.zeros_like(sample_length)
        if CENTRED:
            shift = tl.load(statistics + SHIFT * padded_samples + sample, mask=valid, other=0.0)
        scaled, shift = log_p - sample_length[:, None], shift[:, None]
        store_units(tile, offsets, scaled, shift, inside, in_buffer, low_offset, CENTRED=CENTRED, PARTS=PARTS)


@triton.jit
def largest_of_both(x, y, seen, other_x, other_y, other_seen):
    """Reduction of both maxima and the seen bits."""
    return tl.maximum(x, other_x), tl.maximum(y, other_y), seen | other_seen


@triton.jit
def sum_of_both(x, y, other_x, other_y):
    """Reduction of two sums at once."""
    return x + other_x, y + other_y


@triton.jit
def moments_of_both(x, y, seen, valid, count, CENTRED: tl.constexpr):
    """The ``Moments`` of both networks and the seen bits, in as few dependent reductions as possible."""
    x_max, y_max, seen = tl.reduce((x, y, seen), 0, largest_of_both)
    p = tl.exp2(x - finite_or_zero(x_max)[None, :])
    q = tl.exp2(y - finite_or_zero(y_max)[None, :])
    x_total = tl.zeros_like(x_max)
    y_total = tl.zeros_like(y_max)
    if CENTRED:
        x_total, y_total = tl.reduce((p, q), 0, sum_of_both)
        p = tl.where(valid[:, None], p - mean_of(x_total, count)[None, :], 0.0)
        q = tl.where(valid[:, None], q - mean_of(y_total, count)[None, :], 0.0)
    x_squares, y_squares = tl.reduce((p * p, q * q), 0, sum_of_both)
    return Moments(x_max, x_total, x_squares), Moments(y_max, y_total, y_squares), seen


@triton.jit
def joined(one, count, other, other_count, CENTRED: tl.constexpr):
    """The joint moments of two tiles."""
    largest = tl.maximum(one.maximum, other.maximum)
    total = rescaled(one.total, one.maximum, largest, 1.0)
    other_total = rescaled(other.total, other.maximum, largest, 1.0)
    squares = rescaled(one.squares, one.maximum, largest, 2.0) + rescaled(other.squares, other.maximum, largest, 2.0)
    if CENTRED:
        squares += squares_between(total, count, other_total, other_count)
    return Moments(largest, total + other_total, squares)


@triton.jit
def length_and_shift(moments, count, CENTRED: tl.constexpr):
    """The logarithm of a column's length, and the mean of the scaled column; a constant column has no direction."""
    largest = finite_or_zero(moments.maximum)
    length = largest + 0.5 * tl.log2(moments.squares)
    shift = tl.zeros_like(length)
    if CENTRED:
        length = tl.where(moments.squares == 0.0, float("inf"), length)
        # Uses the stored length, so that its rounding affects the mean and the entries alike.
        shift = mean_of(moments.total, count) * tl.exp2(largest - length)
    return length, shift


@triton.jit(do_not_specialize=["sizes"])
def class_statistics(
    student,  # in   (B, C) logits, as LogitSizes describes them
    teacher,  # in   (B, C) logits
    scratch,  # in   statistics, members of the samples; out  lengths, labels and members of the classes, unit vectors
    sizes,  # LogitSizes
    padded_samples,
    padded_classes,
    numbers,  # Numbers
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    CENTRED: tl.constexpr,  # whether vectors are centred
    VECTOR: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    SAMPLES: tl.constexpr,  # per tile of logits
    CLASSES: tl.constexpr,  # per tile of logits
    RESIDENT: tl.constexpr,  # whether one tile holds all samples
):
    memory = buffers(
        scratch,
        samples=padded_samples.to(tl.int64),
        classes=padded_classes.to(tl.int64),
        PARTS=PARTS,
        TILE=TILE,
        WITH_CLASS=WITH_CLASS,
        WITH_SAMPLE=WITH_SAMPLE,
    )
    logits = logits_of(student, teacher, sizes, VECTOR=VECTOR)
    scale = LOG2_E / numbers.temperature
    column = tl.program_id(0) * CLASSES + tl.arange(0, CLASSES)

    sample, valid, x, y, seen = tile_of_samples(
        logits, memory, start=0, column=column, padded_samples=padded_samples, scale=scale, SAMPLES=SAMPLES
    )
    count = 0.0
    if CENTRED:
        count = tl.sum(valid.to(tl.float32), axis=0)
    of_student, of_teacher, seen = moments_of_both(x, y, seen, valid, count, CENTRED=CENTRED)
    if not RESIDENT:
        for start in range(SAMPLES, padded_samples, SAMPLES):
            sample, valid, x, y, more_seen = tile_of_samples(
                logits, memory, start=start, column=column, padded_samples=padded_samples, scale=scale, SAMPLES=SAMPLES
            )
            more = 0.0
            if CENTRED:
                more = tl.sum(valid.to(tl.float32), axis=0)
            more_of_student, more_of_teacher, more_seen = moments_of_both(x, y, more_seen, valid, more, CENTRED=CENTRED)
            of_student = joined(of_student, count, more_of_student, more, CENTRED=CENTRED)
            of_teacher = joined(of_teacher, count, more_of_teacher, more, CENTRED=CENTRED)
            seen |= more_seen
            count += more

    present = seen == 3
    x_length, x_shift = length_and_shift(of_student, count, CENTRED=CENTRED)
    y_length, y_shift = length_and_shift(of_teacher, count, CENTRED=CENTRED)
    tl.store(memory.lengths + column, tl.where(present, x_length, 0.0))
    if CENTRED:
        tl.store(memory.shifts + column, tl.where(present, x_shift, 0.0))
    tl.store(as_int32(memory.classes.labels) + column, column)
    tl.store(memory.classes.members + column, present.to(tl.float32))

    for start in range(0, padded_samples, SAMPLES):
        if not RESIDENT:
            sample, valid, x, y, _ = tile_of_samples(
                logits, memory, start=start, column=column, padded_samples=padded_samples, scale=scale, SAMPLES=SAMPLES
            )
        store_both_units(
            x,
            x_length,
            x_shift,
            memory.statistics,
            class_units=memory.classes.student,
            sample_units=memory.samples.student,
            sample=sample,
            column=column,
            valid=valid,
            present=present,
            padded_samples=padded_samples,
            padded_classes=padded_classes,
            LENGTH=STUDENT_LENGTH,
            SHIFT=STUDENT_SHIFT,
            WITH_CLASS=WITH_CLASS,
            WITH_SAMPLE=WITH_SAMPLE,
            CENTRED=CENTRED,
            PARTS=PARTS,
        )
        store_both_units(
            y,
            y_length,
            y_shift,
            memory.statistics,
            class_units=memory.classes.teacher,
            sample_units=memory.samples.teacher,
            sample=sample,
            column=column,
            valid=valid,
            present=present,
            padded_samples=padded_samples,
            padded_classes=padded_classes,
            LENGTH=TEACHER_LENGTH,
            SHIFT=TEACHER_SHIFT,
            WITH_CLASS=WITH_CLASS,
            WITH_SAMPLE=WITH_SAMPLE,
            CENTRED=CENTRED,
            PARTS=PARTS,
        )
