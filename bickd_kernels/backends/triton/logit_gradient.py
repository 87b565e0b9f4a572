"""Stage 6, the logit gradient: combines all parts and writes the gradient once, in float32.

    A = Pc * (Gc - Pc * hc),   D = Pr * (Gr - Pr * hr)         for correlations Pc * (Gc - (Pc - shift) * hc), D alike
    d loss / d x = class_wise_weight / (t C k) * (A - P * sum_c A) + sample_wise_weight / (t B k) * D
                   + ce_weight / B * (softmax(x) sum_c l_c - l) + kd_weight T / B * (P_T - Q_T)

where ``B`` and ``C`` are the samples and classes of the batch, and ``l`` is the target distribution of the cross-entropy.
Grid: one program per ``SAMPLES`` samples, which makes two passes over the classes, the first for ``sum_c A``. Reads ``x``,
``y``, ``l``, the statistics and the slopes ``G``; writes the gradient of the requested samples, 0 outside the batch.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import LOG2_E, logits_of
from bickd_kernels.backends.triton.scratch import (
    CE_MAX,
    CE_NORMALIZER,
    STUDENT_KD_NORMALIZER,
    STUDENT_LENGTH,
    STUDENT_MAX,
    STUDENT_NORMALIZER,
    STUDENT_SHIFT,
    TARGET_MASS,
    TEACHER_KD_NORMALIZER,
    TEACHER_MAX,
    buffers,
)


@triton.jit
def sum_of_projections(side, vectors, tiles, i, mask):
    """``h_i = sum_tile projections[tile, i]``, in order."""
    total = tl.zeros(i.shape, tl.float32)
    for tile in range(0, tiles):
        total += tl.load(side.projections + tl.cast(tile, tl.int64) * vectors + i, mask=mask, other=0.0)
    return total


@triton.jit
def class_slope(log_p, memory, column, offsets, inside, tiles, padded_classes, CENTRED: tl.constexpr):
    """A tile of ``A``; 0 for classes outside the batch."""
    in_buffer = column < padded_classes
    length = tl.load(memory.lengths + column, mask=in_buffer, other=0.0)
    h = sum_of_projections(memory.classes, vectors=padded_classes, tiles=tiles, i=column, mask=in_buffer)
    scaled = tl.where(inside, tl.exp2(log_p - length[None, :]), 0.0)
    unit = scaled
    if CENTRED:
        unit -= tl.load(memory.shifts + column, mask=in_buffer, other=0.0)[None, :]
    g = tl.load(memory.classes.slopes + offsets, mask=inside, other=0.0)
    return scaled * (g - unit * h[None, :])


@triton.jit(do_not_specialize=["first_sample", "wanted_samples"])
def logit_gradient(
    student,  # in   (B, C) logits, as LogitSizes describes them
    teacher,  # in   (B, C) logits
    target,  # in   labels (B,) int64 or PROBABILITIES (B, C), contiguous; read for the cross-entropy only
    scratch,  # in   statistics, lengths, counts, members, slopes, projections
    gradient,  # out  (wanted_samples, C) float32, contiguous
    sizes,  # LogitSizes
    padded_samples,
    padded_classes,
    first_sample,  # the first sample whose gradient is requested
    wanted_samples,  # the number of samples whose gradient is requested
    numbers,  # Numbers
    WITH_CE: tl.constexpr,
    WITH_KD: tl.constexpr,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    PROBABILITIES: tl.constexpr,
    SMOOTHED: tl.constexpr,
    CENTRED: tl.constexpr,
    VECTOR: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    SAMPLES: tl.constexpr,  # per tile of logits
    CLASSES: tl.constexpr,  # per tile of logits
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
    classes = logits.classes
    scale = LOG2_E / numbers.temperature
    kd_scale = LOG2_E / numbers.kd_temperature
    slope_scale = numbers.temperature * numbers.contrast_temperature

    wanted = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    in_gradient = wanted < wanted_samples
    sample = first_sample + wanted
    valid = tl.load(memory.samples.members + sample, mask=in_gradient, other=0.0) > 0.0
    wide = sample.to(tl.int64)[:, None]
    student_row = student + wide * logits.student_stride
    teacher_row = teacher + wide * logits.teacher_stride
    slope_row = wide * padded_classes
    statistic = memory.statistics + sample
    x_max = tl.load(statistic + STUDENT_MAX * padded_samples, mask=valid, other=0.0)[:, None]
    normalizer = tl.load(statistic + STUDENT_NORMALIZER * padded_samples, mask=valid, other=0.0)[:, None]
    sample_count = tl.load(memory.counts)

    sum_of_a = tl.zeros((SAMPLES,), tl.float32)
    if WITH_CLASS:
        class_factor = numbers.class_wise_weight / (slope_scale * tl.load(memory.counts + 1))
        class_projections = padded_samples // TILE
        for start in range(0, classes, CLASSES):
            column = start + tl.arange(0, CLASSES)
            in_row = column < classes
            present = tl.load(memory.classes.members + column, mask=in_row, other=0.0) > 0.0
            x = tl.load(student_row + column[None, :], mask=valid[:, None] & in_row[None, :], other=0.0).to(tl.float32)
            a = class_slope(
                (x - x_max) * scale - normalizer,
                memory,
                column=column,
                offsets=slope_row + column[None, :],
                inside=valid[:, None] & present[None, :],
                tiles=class_projections,
                padded_classes=padded_classes,
                CENTRED=CENTRED,
            )
            sum_of_a += tl.sum(a, axis=1)
    if WITH_SAMPLE:
        sample_factor = numbers.sample_wise_weight / (slope_scale * sample_count)
        length = tl.load(statistic + STUDENT_LENGTH * padded_samples, mask=valid, other=0.0)[:, None]
        if CENTRED:
            shift = tl.load(statistic + STUDENT_SHIFT * padded_samples, mask=valid, other=0.0)[:, None]
        tiles = padded_classes // TILE
        h = sum_of_projections(memory.samples, vectors=padded_samples, tiles=tiles, i=sample, mask=valid)[:, None]
    if WITH_KD:
        kd_factor = numbers.kd_weight * numbers.kd_temperature / sample_count
        y_max = tl.load(statistic + TEACHER_MAX * padded_samples, mask=valid, other=0.0)[:, None]
        x_kd_normalizer = tl.load(statistic + STUDENT_KD_NORMALIZER * padded_samples, mask=valid, other=0.0)[:, None]
        y_kd_normalizer = tl.load(statistic + TEACHER_KD_NORMALIZER * padded_samples, mask=valid, other=0.0)[:, None]
    if WITH_CE:
        ce_factor = numbers.ce_weight / sample_count
        mass = tl.full((SAMPLES, 1), 1.0, tl.float32)
        if PROBABILITIES:
            target_row = target + wide * classes
            mass = tl.load(statistic + TARGET_MASS * padded_samples, mask=valid, other=0.0)[:, None]
        else:
            label = tl.load(target + sample, mask=valid, other=0)[:, None]
        if SMOOTHED:
            smoothing = numbers.label_smoothing
            share = smoothing * tl.load(memory.counts + 2)
            mass = (1.0 - smoothing) * mass + tl.where(share > 0.0, smoothing, 0.0)
        ce_max = tl.load(statistic + CE_MAX * padded_samples, mask=valid, other=0.0)[:, None]
        ce_normalizer = tl.load(statistic + CE_NORMALIZER * padded_samples, mask=valid, other=0.0)[:, None]

    for start in range(0, classes, CLASSES):
        column = start + tl.arange(0, CLASSES)
        in_row = column < classes
        inside = valid[:, None] & in_row[None, :]
        loaded = inside
        if WITH_KD or WITH_CLASS or WITH_SAMPLE or SMOOTHED:
            inside &= (tl.load(memory.classes.members + column, mask=in_row, other=0.0) > 0.0)[None, :]
        x = tl.load(student_row + column[None, :], mask=loaded, other=0.0).to(tl.float32)
        log_p = (x - x_max) * scale - normalizer
        total = tl.zeros((SAMPLES, CLASSES), tl.float32)
        if WITH_CLASS:
            a = class_slope(
                log_p,
                memory,
                column=column,
                offsets=slope_row + column[None, :],
                inside=inside,
                tiles=class_projections,
                padded_classes=padded_classes,
                CENTRED=CENTRED,
            )
            total += class_factor * (a - tl.where(inside, tl.exp2(log_p), 0.0) * sum_of_a[:, None])
        if WITH_SAMPLE:
            scaled = tl.where(inside, tl.exp2(log_p - length), 0.0)
            unit = scaled
            if CENTRED:
                unit -= shift
            g = tl.load(memory.samples.slopes + slope_row + column[None, :], mask=inside, other=0.0)
            total += sample_factor * (scaled * (g - unit * h))
        if WITH_KD:
            y = tl.load(teacher_row + column[None, :], mask=loaded, other=0.0).to(tl.float32)
            p_kd = tl.exp2((x - x_max) * kd_scale - x_kd_normalizer)
            q_kd = tl.exp2((y - y_max) * kd_scale - y_kd_normalizer)
            total += tl.where(inside, kd_factor * (p_kd - q_kd), 0.0)
        if WITH_CE:
            softmax = tl.exp2((x - ce_max) * LOG2_E - ce_normalizer)
            if PROBABILITIES:
                expected = tl.load(target_row + column[None, :], mask=loaded, other=0.0).to(tl.float32)
            else:
                expected = (column[None, :] == label).to(tl.float32)
            if SMOOTHED:
                expected = (1.0 - smoothing) * expected + tl.where(inside, share, 0.0)
            if PROBABILITIES or SMOOTHED:
                softmax *= mass
            total += tl.where(loaded, ce_factor * (softmax - expected), 0.0)
        stored = in_gradient[:, None] & in_row[None, :]
        out = gradient + wanted.to(tl.int64)[:, None] * classes + column[None, :]
        tl.store(out, tl.where(valid[:, None], total, 0.0), mask=stored)
