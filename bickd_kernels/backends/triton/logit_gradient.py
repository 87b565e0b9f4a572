"""Stage 5, the logit gradient: everything put together, written once, in float32.

    A = Pc * (Gc - Pc * hc),   D = Pr * (Gr - Pr * hr)
    d loss / d x = class_weight / (t C k) * (A - P * sum_c A) + sample_weight / (t B k) * D
                   + ce_weight / B * (softmax(x) - onehot(l)) + kd_weight T / B * (P_T - Q_T)

with ``B`` and ``C`` the samples and classes of the batch. Grid: one program for ``ROWS``
samples, which goes over the classes twice, first for ``sum_c A``. Reads ``x``, ``y``, ``l``, the statistics and the slopes
``G``; writes the gradient, 0 for a sample that is not in the batch.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import LOG2_E
from bickd_kernels.backends.triton.row_statistics import (
    CE_MAX,
    CE_NORMALIZER,
    STUDENT_KD_NORMALIZER,
    STUDENT_LENGTH,
    STUDENT_MAX,
    STUDENT_NORMALIZER,
    TEACHER_KD_NORMALIZER,
    TEACHER_MAX,
)


@triton.jit
def sum_of_rows(partials, count, stride, offsets, mask):
    """``sum_p partials[p, offsets]``, one row after the other."""
    total = tl.zeros(offsets.shape, tl.float32)
    for part in range(0, count):
        total += tl.load(partials + part.to(tl.int64) * stride + offsets, mask=mask, other=0.0)
    return total


@triton.jit
def class_slope(log_p, column, columns, slopes, slope_offsets, projections, projection_count, inside, padded_classes):
    """``A``, a tile of it; 0 for what is no class of the batch."""
    in_buffer = column < padded_classes
    length = tl.load(columns + column, mask=in_buffer, other=0.0)
    h = sum_of_rows(projections, projection_count, padded_classes, column, in_buffer)
    unit = tl.where(inside, tl.exp2(log_p - length[None, :]), 0.0)
    g = tl.load(slopes + slope_offsets, mask=inside, other=0.0)
    return unit * (g - unit * h[None, :])


@triton.jit
def logit_gradient(
    student,  # in   (B, C) logits, rows student_stride_v * VECTOR apart
    teacher,  # in   (B, C) logits, rows teacher_stride_v * VECTOR apart
    target,  # in   (B,) int64; read for the cross-entropy only
    rows,  # in   (ROW_STATISTICS, padded_samples) float32
    sample_weights,  # in   (padded_samples,) float32, 0 for what is not in the batch
    columns,  # in   (padded_classes,) float32: log2 of the student's column lengths
    class_weights,  # in   (padded_classes,) float32, 0 for what is no class of the batch
    class_slopes,  # in   (padded_samples, padded_classes) float32
    class_projections,  # in   (class_projection_count, padded_classes) float32
    sample_slopes,  # in   (padded_samples, padded_classes) float32
    sample_projections,  # in   (sample_projection_count, padded_samples) float32
    counts,  # in   (2,) float32: samples and classes of the batch
    gradient,  # out  (B, C) float32, contiguous
    samples,
    classes_v,
    student_stride_v,
    teacher_stride_v,
    padded_samples,
    padded_classes,
    class_projection_count,
    sample_projection_count,
    temperature,
    contrast_temperature,
    kd_temperature,
    ce_weight,
    kd_weight,
    class_weight,
    sample_weight,
    WITH_CE: tl.constexpr,
    WITH_KD: tl.constexpr,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    classes = classes_v * VECTOR
    temperature = temperature.to(tl.float32)
    contrast_temperature = contrast_temperature.to(tl.float32)
    kd_temperature = kd_temperature.to(tl.float32)
    scale = LOG2_E / temperature
    kd_scale = LOG2_E / kd_temperature

    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    in_batch = row < samples
    valid = tl.load(sample_weights + row, mask=in_batch, other=0.0) > 0.0
    wide_row = row.to(tl.int64)[:, None]
    student_row = student + wide_row * (student_stride_v * VECTOR)
    teacher_row = teacher + wide_row * (teacher_stride_v * VECTOR)
    slope_row = wide_row * padded_classes
    statistic = rows + row
    x_max = tl.load(statistic + STUDENT_MAX * padded_samples, mask=valid, other=0.0)[:, None]
    normalizer = tl.load(statistic + STUDENT_NORMALIZER * padded_samples, mask=valid, other=0.0)[:, None]
    sample_count = tl.load(counts)

    sum_of_a = tl.zeros((ROWS,), tl.float32)
    if WITH_CLASS:
        class_factor = class_weight.to(tl.float32) / (temperature * contrast_temperature * tl.load(counts + 1))
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)
            in_row = column < classes
            present = tl.load(class_weights + column, mask=in_row, other=0.0) > 0.0
            x = tl.load(student_row + column[None, :], mask=valid[:, None] & in_row[None, :], other=0.0).to(tl.float32)
            sum_of_a += tl.sum(
                class_slope(
                    (x - x_max) * scale - normalizer, column, columns, class_slopes, slope_row + column[None, :],
                    class_projections, class_projection_count, valid[:, None] & present[None, :], padded_classes,
                ),
                axis=1,
            )  # fmt: skip
    if WITH_SAMPLE:
        sample_factor = sample_weight.to(tl.float32) / (temperature * contrast_temperature * sample_count)
        length = tl.load(statistic + STUDENT_LENGTH * padded_samples, mask=valid, other=0.0)[:, None]
        h = sum_of_rows(sample_projections, sample_projection_count, padded_samples, row, valid)[:, None]
    if WITH_KD:
        kd_factor = kd_weight.to(tl.float32) * kd_temperature / sample_count
        y_max = tl.load(statistic + TEACHER_MAX * padded_samples, mask=valid, other=0.0)[:, None]
        x_kd_normalizer = tl.load(statistic + STUDENT_KD_NORMALIZER * padded_samples, mask=valid, other=0.0)[:, None]
        y_kd_normalizer = tl.load(statistic + TEACHER_KD_NORMALIZER * padded_samples, mask=valid, other=0.0)[:, None]
    if WITH_CE:
        ce_factor = ce_weight.to(tl.float32) / sample_count
        label = tl.load(target + row, mask=valid, other=0)[:, None]
        ce_max = tl.load(statistic + CE_MAX * padded_samples, mask=valid, other=0.0)[:, None]
        ce_normalizer = tl.load(statistic + CE_NORMALIZER * padded_samples, mask=valid, other=0.0)[:, None]

    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        in_row = column < classes
        inside = valid[:, None] & in_row[None, :]
        loaded = inside
        if WITH_KD or WITH_CLASS or WITH_SAMPLE:
            inside &= (tl.load(class_weights + column, mask=in_row, other=0.0) > 0.0)[None, :]
        x = tl.load(student_row + column[None, :], mask=loaded, other=0.0).to(tl.float32)
        log_p = (x - x_max) * scale - normalizer
        total = tl.zeros((ROWS, BLOCK), tl.float32)
        if WITH_CLASS:
            a = class_slope(
                log_p, column, columns, class_slopes, slope_row + column[None, :],
                class_projections, class_projection_count, inside, padded_classes,
            )  # fmt: skip
            total += class_factor * (a - tl.where(inside, tl.exp2(log_p), 0.0) * sum_of_a[:, None])
        if WITH_SAMPLE:
            unit = tl.where(inside, tl.exp2(log_p - length), 0.0)
            g = tl.load(sample_slopes + slope_row + column[None, :], mask=inside, other=0.0)
            total += sample_factor * (unit * (g - unit * h))
        if WITH_KD:
            y = tl.load(teacher_row + column[None, :], mask=loaded, other=0.0).to(tl.float32)
            p_kd = tl.exp2((x - x_max) * kd_scale - x_kd_normalizer)
            q_kd = tl.exp2((y - y_max) * kd_scale - y_kd_normalizer)
            total += tl.where(inside, kd_factor * (p_kd - q_kd), 0.0)
        if WITH_CE:
            softmax = tl.exp2((x - ce_max) * LOG2_E - ce_normalizer)
            onehot = (column[None, :] == label).to(tl.float32)
            total += tl.where(loaded, ce_factor * (softmax - onehot), 0.0)
        stored = in_batch[:, None] & in_row[None, :]
        tl.store(gradient + wide_row * classes + column[None, :], tl.where(valid[:, None], total, 0.0), mask=stored)
