"""Stage 2, class statistics: every sum over the samples of one class, and the unit vectors of both sides.

    log2 P_ac   = s (x_ac - max x_a) - normalizer_a,  s = log2(e) / t
    log2 |P_c|  = max_a log2 P_ac + 1/2 log2 sum_a 2^(2 (log2 P_ac - max_a log2 P_ac))      column length, in log space
    Pc_ac       = 2^(log2 P_ac - log2 |P_c|)            class vectors, stored (C, B)
    Pr_ac       = 2^(log2 P_ac - log2 |P_a|)            sample vectors, stored (B, C)

and the same of ``Q``. Of correlations lengths are about the mean, and the mean is subtracted from vectors. Grid: one program
for ``CLASSES`` classes. Reads ``x``, ``y``, ``statistics``, the samples' ``members``; writes ``lengths``, ``shifts``, the
classes' ``labels`` and ``members``, and the unit vectors, with zeros where they are padded to whole tiles, so that later
stages need no mask. Up to ``SAMPLES`` samples stay on chip between the statistics and the vectors: one read of the logits.
Larger batches are read a second time for the vectors.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import (
    LOG2_E,
    UNIT_SCALE,
    finite_or_zero,
    logits_of,
    mean_of,
    rescaled,
    squares_about_mean,
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


@triton.jit
def log_probabilities(
    row, statistics, sample, column, valid, inside, padded_samples, scale, MAX: tl.constexpr, NORMALIZER: tl.constexpr
):
    """``log2 softmax`` of these samples and classes, -inf outside the batch, and which classes have a logit above -inf."""
    tile = tl.load(row + column[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    seen = tl.max((tile != float("-inf")).to(tl.int32), axis=0)
    maximum = tl.load(statistics + MAX * padded_samples + sample, mask=valid, other=0.0)
    normalizer = tl.load(statistics + NORMALIZER * padded_samples + sample, mask=valid, other=0.0)
    return (tile - maximum[:, None]) * scale - normalizer[:, None], seen


@triton.jit
def tile_of_samples(logits, memory, start, column, padded_samples, scale, SAMPLES: tl.constexpr):
    """``SAMPLES`` samples: which they are and which are in the batch, and what ``log_probabilities`` gives of both."""
    sample = start + tl.arange(0, SAMPLES)
    valid = tl.load(memory.samples.members + sample, mask=sample < padded_samples, other=0.0) > 0.0
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
    return sample, valid, x, x_seen, y, y_seen


@triton.jit
def store_units(
    units, offsets, log_scaled, shift, inside, in_buffer, low_offset, CENTRED: tl.constexpr, PARTS: tl.constexpr
):
    """Writes a tile of unit vectors: from logarithms, shifted if centred, and zero for what is not part of the batch."""
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
    """Class vectors and sample vectors of one network, each contiguous along its vectors."""
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
def column_moments(log_p, valid, count, CENTRED: tl.constexpr):
    """Of a tile ``max_a`` and, of ``p = 2^(log2 P_ac - max)``, the sum if centred, and the squares about the mean or 0."""
    maximum = tl.max(log_p, axis=0)
    p = tl.exp2(log_p - finite_or_zero(maximum)[None, :])
    if CENTRED:
        total = tl.sum(p, axis=0)
        return maximum, total, squares_about_mean(p, total, count, valid[:, None], AXIS=0)
    return maximum, tl.zeros_like(maximum), tl.sum(p * p, axis=0)


@triton.jit
def joined_moments(
    maximum,
    total,
    squares,
    count,
    other_maximum,
    other_total,
    other_squares,
    other_count,
    CENTRED: tl.constexpr,
):
    """The moments of two tiles together."""
    largest = tl.maximum(maximum, other_maximum)
    total = rescaled(total, maximum, largest, 1.0)
    other_total = rescaled(other_total, other_maximum, largest, 1.0)
    squares = rescaled(squares, maximum, largest, 2.0) + rescaled(other_squares, other_maximum, largest, 2.0)
    if CENTRED:
        squares += squares_between(total, count, other_total, other_count)
    return largest, total + other_total, squares


@triton.jit
def length_and_shift(maximum, total, squares, count, CENTRED: tl.constexpr):
    """The logarithm of a column's length, and what centres the scaled column; a constant column has no direction."""
    length = finite_or_zero(maximum) + 0.5 * tl.log2(squares)
    shift = tl.zeros_like(length)
    if CENTRED:
        length = tl.where(squares == 0.0, float("inf"), length)
        # From the length that is stored, so that its rounding moves the mean as much as the entries.
        shift = mean_of(total, count) * tl.exp2(finite_or_zero(maximum) - length)
    return length, shift


@triton.jit
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
    SAMPLES: tl.constexpr,  # of a tile of logits
    CLASSES: tl.constexpr,  # of a tile of logits
    RESIDENT: tl.constexpr,  # whether SAMPLES are all
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

    sample, valid, x, in_student, y, in_teacher = tile_of_samples(
        logits, memory, start=0, column=column, padded_samples=padded_samples, scale=scale, SAMPLES=SAMPLES
    )
    count = tl.sum(valid.to(tl.float32), axis=0)
    x_max, x_total, x_squares = column_moments(x, valid, count, CENTRED=CENTRED)
    y_max, y_total, y_squares = column_moments(y, valid, count, CENTRED=CENTRED)
    if not RESIDENT:
        for start in range(SAMPLES, padded_samples, SAMPLES):
            sample, valid, x, x_seen, y, y_seen = tile_of_samples(
                logits, memory, start=start, column=column, padded_samples=padded_samples, scale=scale, SAMPLES=SAMPLES
            )
            in_student |= x_seen
            in_teacher |= y_seen
            more = tl.sum(valid.to(tl.float32), axis=0)
            largest, total, squares = column_moments(x, valid, more, CENTRED=CENTRED)
            x_max, x_total, x_squares = joined_moments(
                x_max, x_total, x_squares, count, largest, total, squares, more, CENTRED=CENTRED
            )
            largest, total, squares = column_moments(y, valid, more, CENTRED=CENTRED)
            y_max, y_total, y_squares = joined_moments(
                y_max, y_total, y_squares, count, largest, total, squares, more, CENTRED=CENTRED
            )
            count += more

    present = (in_student & in_teacher) != 0
    x_length, x_shift = length_and_shift(x_max, x_total, x_squares, count, CENTRED=CENTRED)
    y_length, y_shift = length_and_shift(y_max, y_total, y_squares, count, CENTRED=CENTRED)
    tl.store(memory.lengths + column, tl.where(present, x_length, 0.0))
    if CENTRED:
        tl.store(memory.shifts + column, tl.where(present, x_shift, 0.0))
    tl.store(as_int32(memory.classes.labels) + column, column)
    tl.store(memory.classes.members + column, present.to(tl.float32))

    for start in range(0, padded_samples, SAMPLES):
        if not RESIDENT:
            sample, valid, x, x_seen, y, y_seen = tile_of_samples(
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
