"""Stage 2, class statistics: every sum over the samples of one class, and the unit vectors of both sides.

    log2 P_ac   = s (x_ac - max x_a) - normalizer_a,  s = log2(e) / t
    log2 |P_c|  = max_a log2 P_ac + 1/2 log2 sum_a 2^(2 (log2 P_ac - max_a log2 P_ac))      column length, in log space
    Pc_ac       = 2^(log2 P_ac - log2 |P_c|)            class vectors, stored (C, B)
    Pr_ac       = 2^(log2 P_ac - log2 |P_a|)            sample vectors, stored (B, C)

and the same of ``Q``. Grid: one program for ``WIDTH`` classes. Reads ``x``, ``y``, ``rows``; writes ``columns``,
``labels``, ``weights`` and the unit vectors, with zeros where they are padded to whole tiles, so that later stages need
no mask. Up to ``ROW_BLOCK`` samples stay on chip between the statistics and the vectors: one read of the logits. Larger
batches are read a second time for the vectors.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import LOG2_E, UNIT_SCALE, finite_or_zero, high_part, low_part, rescaled
from bickd_kernels.backends.triton.row_statistics import (
    STUDENT_LENGTH,
    STUDENT_MAX,
    STUDENT_NORMALIZER,
    TEACHER_LENGTH,
    TEACHER_MAX,
    TEACHER_NORMALIZER,
)

COLUMN_STATISTICS = 1
"""How many numbers are kept for a class: the log2 of the length of the student's column."""


@triton.jit
def log_probabilities(
    logits,
    rows,
    row,
    column,
    valid,
    stride,
    classes,
    padded_samples,
    scale,
    MAX: tl.constexpr,
    NORMALIZER: tl.constexpr,
):
    """``log2 softmax`` of these samples and classes, -inf outside the batch, and which classes have a logit above -inf."""
    inside = valid[:, None] & (column < classes)[None, :]
    offsets = row.to(tl.int64)[:, None] * stride + column[None, :]
    tile = tl.load(logits + offsets, mask=inside, other=float("-inf")).to(tl.float32)
    seen = tl.max((tile != float("-inf")).to(tl.int32), axis=0)
    maximum = tl.load(rows + MAX * padded_samples + row, mask=valid, other=0.0)
    normalizer = tl.load(rows + NORMALIZER * padded_samples + row, mask=valid, other=0.0)
    return (tile - maximum[:, None]) * scale - normalizer[:, None], seen


@triton.jit
def block_of_samples(
    start,
    column,
    student,
    teacher,
    rows,
    sample_weights,
    student_stride,
    teacher_stride,
    classes,
    padded_samples,
    scale,
    ROW_BLOCK: tl.constexpr,
):
    """``ROW_BLOCK`` samples: which they are and which are in the batch, and what ``log_probabilities`` gives of both."""
    row = start + tl.arange(0, ROW_BLOCK)
    valid = tl.load(sample_weights + row, mask=row < padded_samples, other=0.0) > 0.0
    x, x_seen = log_probabilities(
        student, rows, row, column, valid, student_stride, classes, padded_samples, scale, STUDENT_MAX, STUDENT_NORMALIZER
    )
    y, y_seen = log_probabilities(
        teacher, rows, row, column, valid, teacher_stride, classes, padded_samples, scale, TEACHER_MAX, TEACHER_NORMALIZER
    )
    return row, valid, x, x_seen, y, y_seen


@triton.jit
def store_units(units, offsets, log_units, inside, in_buffer, part, PARTS: tl.constexpr):
    """Writes a tile of unit vectors from their logarithms; zero for what is not part of the batch."""
    values = tl.where(inside, tl.exp2(log_units) * UNIT_SCALE, 0.0)
    high = high_part(values)
    tl.store(units + offsets, high, mask=in_buffer)
    if PARTS == 2:
        tl.store(units + part + offsets, low_part(values, high), mask=in_buffer)


@triton.jit
def store_both_units(
    log_p,
    column_length,
    rows,
    class_units,
    sample_units,
    row,
    column,
    valid,
    present,
    padded_samples,
    padded_classes,
    LENGTH: tl.constexpr,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Class vectors and sample vectors of one network, each contiguous along its vectors."""
    part = tl.cast(padded_samples, tl.int64) * padded_classes
    inside = valid[:, None] & present[None, :]
    in_buffer = (row < padded_samples)[:, None]
    if WITH_CLASS:
        first = tl.min(column, axis=0)
        tile = class_units + first.to(tl.int64) * padded_samples
        offsets = (column - first)[None, :] * padded_samples + row[:, None]
        store_units(tile, offsets, log_p - column_length[None, :], inside, in_buffer, part, PARTS)
    if WITH_SAMPLE:
        row_length = tl.load(rows + LENGTH * padded_samples + row, mask=valid, other=0.0)
        offsets = row.to(tl.int64)[:, None] * padded_classes + column[None, :]
        store_units(sample_units, offsets, log_p - row_length[:, None], inside, in_buffer, part, PARTS)


@triton.jit
def column_sums(log_p, maximum, total):
    """Online ``max_a`` and ``sum_a 2^(2 (log2 P_ac - max))`` after one more tile of samples."""
    new_maximum = tl.maximum(maximum, tl.max(log_p, axis=0))
    total = rescaled(total, maximum, new_maximum, 2.0)
    total += tl.sum(tl.exp2((log_p - finite_or_zero(new_maximum)[None, :]) * 2.0), axis=0)
    return new_maximum, total


@triton.jit
def class_statistics(
    student,  # in   (B, C) logits, rows student_stride_v * VECTOR apart
    teacher,  # in   (B, C) logits, rows teacher_stride_v * VECTOR apart
    rows,  # in   (ROW_STATISTICS, padded_samples) float32
    sample_weights,  # in   (padded_samples,) float32, 0 for what is not in the batch
    columns,  # out  (padded_classes,) float32: log2 of the student's column lengths
    labels,  # out  (padded_classes,) int32: the class itself
    weights,  # out  (padded_classes,) float32: 1, or 0 for what is no class of the batch
    class_student,  # out  (PARTS, padded_classes, padded_samples) float16
    class_teacher,  # out  (PARTS, padded_classes, padded_samples) float16
    sample_student,  # out  (PARTS, padded_samples, padded_classes) float16
    sample_teacher,  # out  (PARTS, padded_samples, padded_classes) float16
    classes_v,
    student_stride_v,
    teacher_stride_v,
    padded_samples,
    padded_classes,
    temperature,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    VECTOR: tl.constexpr,
    PARTS: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    RESIDENT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    classes = classes_v * VECTOR
    student_stride = student_stride_v * VECTOR
    teacher_stride = teacher_stride_v * VECTOR
    scale = LOG2_E / temperature.to(tl.float32)
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)

    x_max = tl.full((WIDTH,), float("-inf"), tl.float32)
    y_max = tl.full((WIDTH,), float("-inf"), tl.float32)
    x_total = tl.zeros((WIDTH,), tl.float32)
    y_total = tl.zeros((WIDTH,), tl.float32)
    row, valid, x, in_student, y, in_teacher = block_of_samples(
        0, column, student, teacher, rows, sample_weights, student_stride, teacher_stride, classes, padded_samples, scale,
        ROW_BLOCK,
    )  # fmt: skip
    x_max, x_total = column_sums(x, x_max, x_total)
    y_max, y_total = column_sums(y, y_max, y_total)
    if not RESIDENT:
        for start in range(ROW_BLOCK, padded_samples, ROW_BLOCK):
            row, valid, x, x_seen, y, y_seen = block_of_samples(
                start, column, student, teacher, rows, sample_weights, student_stride, teacher_stride, classes,
                padded_samples, scale, ROW_BLOCK,
            )  # fmt: skip
            in_student |= x_seen
            in_teacher |= y_seen
            x_max, x_total = column_sums(x, x_max, x_total)
            y_max, y_total = column_sums(y, y_max, y_total)

    present = (in_student & in_teacher) != 0
    x_length = finite_or_zero(x_max) + 0.5 * tl.log2(x_total)
    y_length = finite_or_zero(y_max) + 0.5 * tl.log2(y_total)
    tl.store(columns + column, tl.where(present, x_length, 0.0))
    tl.store(labels + column, column)
    tl.store(weights + column, present.to(tl.float32))

    for start in range(0, padded_samples, ROW_BLOCK):
        if not RESIDENT:
            row, valid, x, x_seen, y, y_seen = block_of_samples(
                start, column, student, teacher, rows, sample_weights, student_stride, teacher_stride, classes,
                padded_samples, scale, ROW_BLOCK,
            )  # fmt: skip
        store_both_units(
            x, x_length, rows, class_student, sample_student, row, column, valid, present,
            padded_samples, padded_classes, STUDENT_LENGTH, WITH_CLASS, WITH_SAMPLE, PARTS,
        )  # fmt: skip
        store_both_units(
            y, y_length, rows, class_teacher, sample_teacher, row, column, valid, present,
            padded_samples, padded_classes, TEACHER_LENGTH, WITH_CLASS, WITH_SAMPLE, PARTS,
        )  # fmt: skip
