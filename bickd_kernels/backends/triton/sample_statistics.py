"""Stage 1, sample statistics: all sums over the classes of a sample, from one read of the logits.

    log2 sum_c 2^(s (x_c - max x)),  s = log2(e) / t      normalizer of P (and of Q, of both at T, of softmax(x))
    log2 |P_a| = 1/2 log2 sum_c p_c^2 - log2 sum_c p_c    length, from the same exponentials p_c; for correlations that of
                                                          the centred vector, from sum_c (p_c - mean p)^2
    ce_a = log sum_c exp(x_c) - x_l                       for a label l; otherwise with the target distribution
    kl_a = sum_c q_c (log q_c - log p_c)                  at temperature T

Grid: one program per ``SAMPLES`` samples. Reads ``x``, ``y``, ``l``; writes ``statistics`` and the samples' ``labels`` and
``members``. The sums are those of an online softmax: a running maximum, and sums that are rescaled when it grows.

A class that student or teacher sets to -inf in every sample does not belong to the batch and enters only the sum of the
cross-entropy. This matters only where the other network has a value above -inf, so only a tile with -inf in exactly one
network reads its whole columns. Smoothing and means need the number of classes of the batch, so they check every -inf.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import (
    LN_2,
    LOG2_E,
    finite_or_zero,
    logits_of,
    rescaled,
    squares_about_mean,
    squares_between,
)
from bickd_kernels.backends.triton.scratch import (
    CE,
    CE_MAX,
    CE_NORMALIZER,
    KL,
    STUDENT_KD_NORMALIZER,
    STUDENT_LENGTH,
    STUDENT_MAX,
    STUDENT_NORMALIZER,
    STUDENT_SHIFT,
    TARGET_MASS,
    TEACHER_KD_NORMALIZER,
    TEACHER_LENGTH,
    TEACHER_MAX,
    TEACHER_NORMALIZER,
    TEACHER_SHIFT,
    as_int32,
    buffers,
)


@triton.jit
def in_batch(sample, samples, target, members, ignore_index, LABELS: tl.constexpr, PROBABILITIES: tl.constexpr):
    """Which samples belong to the batch: neither beyond its end nor ignored."""
    valid = sample < samples
    if LABELS:
        valid &= tl.load(target + sample, mask=valid, other=ignore_index) != ignore_index
    if PROBABILITIES:
        valid &= tl.load(members + sample, mask=valid, other=0.0) > 0.0
    return valid


@triton.jit
def absent_classes(
    logits,
    target,
    members,
    column,
    ignore_index,
    LABELS: tl.constexpr,
    PROBABILITIES: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """Which classes of ``column`` are -inf in every sample of the batch, for student or teacher."""
    in_student = tl.zeros_like(column)
    in_teacher = tl.zeros_like(column)
    for start in range(0, logits.samples, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)
        valid = in_batch(
            sample,
            logits.samples,
            target,
            members,
            ignore_index=ignore_index,
            LABELS=LABELS,
            PROBABILITIES=PROBABILITIES,
        )
        inside = valid[:, None] & (column < logits.classes)[None, :]
        wide = sample.to(tl.int64)[:, None]
        x = tl.load(logits.student + wide * logits.student_stride + column[None, :], mask=inside, other=float("-inf"))
        y = tl.load(logits.teacher + wide * logits.teacher_stride + column[None, :], mask=inside, other=float("-inf"))
        in_student |= tl.max((x != float("-inf")).to(tl.int32), axis=0)
        in_teacher |= tl.max((y != float("-inf")).to(tl.int32), axis=0)
    return (in_student & in_teacher) == 0


@triton.jit
def add_both(first, second, other_first, other_second):
    """Reduction of two sums at once."""
    return first + other_first, second + other_second


@triton.jit
def squares_of_row(p, squares, total, count, old_maximum, new_maximum, scale, inside, count_of_tile, CENTRED: tl.constexpr):
    """``sum p^2`` of a row, or the squares about its mean, after one more tile that ``total`` and ``count`` exclude."""
    squares = rescaled(squares, old_maximum, new_maximum, 2.0 * scale)
    if CENTRED:
        total_of_tile = tl.sum(p, axis=1)
        squares += squares_between(rescaled(total, old_maximum, new_maximum, scale), count, total_of_tile, count_of_tile)
        return squares + squares_about_mean(p, total_of_tile, count_of_tile, inside, AXIS=1)
    return squares + tl.sum(p * p, axis=1)


@triton.jit
def store_length(statistics, squares, normalizer, count, mask, padded_samples, LENGTH, SHIFT, CENTRED):
    """Writes the length of rows and the shift that centres them; a constant row has no direction and needs no shift."""
    length = 0.5 * tl.log2(squares) - normalizer
    if CENTRED:
        length = tl.where(squares == 0.0, float("inf"), length)
        tl.store(statistics + SHIFT * padded_samples, tl.exp2(-length) / tl.maximum(count, 1.0), mask=mask)
    tl.store(statistics + LENGTH * padded_samples, length, mask=mask)


@triton.jit
def positives_of(label, target, samples, ignore_index, TARGETS: tl.constexpr):
    """The number of samples that share each label."""
    count = tl.zeros_like(label)
    for start in range(0, samples, TARGETS):
        sample = start + tl.arange(0, TARGETS)
        other = tl.load(target + sample, mask=sample < samples, other=ignore_index)
        count += tl.sum((label[:, None] == other[None, :]).to(label.dtype), axis=1)
    return count


@triton.jit
def sample_statistics(
    student,  # in   (B, C) logits, as LogitSizes describes them
    teacher,  # in   (B, C) logits
    target,  # in   LABELS: (B,) int64; PROBABILITIES: (B, C) of a floating dtype, contiguous; else not read
    scratch,  # in   PROBABILITIES: members of the samples; out  statistics; labels and members of the samples
    sizes,  # LogitSizes
    padded_samples,
    padded_classes,
    ignore_index,
    numbers,  # Numbers
    LABELS: tl.constexpr,
    PROBABILITIES: tl.constexpr,
    BY_LABEL: tl.constexpr,  # whether samples with the same label are positives
    SMOOTHED: tl.constexpr,  # whether targets are smoothed
    WITH_CE: tl.constexpr,
    WITH_KD: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    CENTRED: tl.constexpr,  # whether vectors are centred
    VECTOR: tl.constexpr,
    SAMPLES: tl.constexpr,  # per tile of logits
    CLASSES: tl.constexpr,  # per tile of logits
    TARGETS: tl.constexpr,  # labels compared per step when counting positives
):
    # This stage uses none of the buffers after the samples' labels and members.
    memory = buffers(
        scratch,
        samples=padded_samples.to(tl.int64),
        classes=padded_classes.to(tl.int64),
        PARTS=1,
        TILE=16,
        WITH_CLASS=False,
        WITH_SAMPLE=False,
    )
    logits = logits_of(student, teacher, sizes, VECTOR=VECTOR)
    classes = logits.classes
    scale = LOG2_E / numbers.temperature
    kd_scale = LOG2_E / numbers.kd_temperature
    minus_infinity = float("-inf")

    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    valid = in_batch(
        sample,
        logits.samples,
        target,
        memory.samples.members,
        ignore_index=ignore_index,
        LABELS=LABELS,
        PROBABILITIES=PROBABILITIES,
    )
    label = sample.to(tl.int64)
    member = tl.full((SAMPLES,), 1.0, tl.float32)
    if LABELS:
        label = tl.load(target + sample, mask=valid, other=ignore_index)
        if WITH_SAMPLE and BY_LABEL:
            member = 1.0 / positives_of(label, target, logits.samples, ignore_index, TARGETS=TARGETS).to(tl.float32)
    # A label outside the classes has no logit: NaN instead of a meaningless number.
    nameless = (label < 0) | (label >= classes)
    label = label.to(tl.int32)
    in_buffer = sample < padded_samples
    # Outside the batch every label is different, so that a sample there has no positives.
    kept_label = tl.where(valid, label if BY_LABEL else sample, -1 - sample)
    tl.store(as_int32(memory.samples.labels) + sample, kept_label, mask=in_buffer)
    if not PROBABILITIES:
        tl.store(memory.samples.members + sample, tl.where(valid, member, 0.0), mask=in_buffer)
    student_row = student + sample.to(tl.int64)[:, None] * logits.student_stride
    teacher_row = teacher + sample.to(tl.int64)[:, None] * logits.teacher_stride
    target_row = target + sample.to(tl.int64)[:, None] * classes

    x_max = tl.full((SAMPLES,), minus_infinity, tl.float32)
    y_max = tl.full((SAMPLES,), minus_infinity, tl.float32)
    ce_max = tl.full((SAMPLES,), minus_infinity, tl.float32)
    x_sum = tl.zeros((SAMPLES,), tl.float32)
    y_sum = tl.zeros((SAMPLES,), tl.float32)
    x_squares = tl.zeros((SAMPLES,), tl.float32)
    y_squares = tl.zeros((SAMPLES,), tl.float32)
    x_kd_sum = tl.zeros((SAMPLES,), tl.float32)
    y_kd_sum = tl.zeros((SAMPLES,), tl.float32)
    divergence = tl.zeros((SAMPLES,), tl.float32)
    ce_sum = tl.zeros((SAMPLES,), tl.float32)
    target_logit = tl.zeros((SAMPLES,), tl.float32)
    # For probability targets: their sum, and how far the expected logit lies below the largest. The same for the
    # uniform distribution, but not normalized: its mass is the number of classes of the batch.
    target_mass = tl.zeros((SAMPLES,), tl.float32)
    target_gap = tl.zeros((SAMPLES,), tl.float32)
    count = 0.0
    uniform_gap = tl.zeros((SAMPLES,), tl.float32)

    for start in range(0, classes, CLASSES):
        column = start + tl.arange(0, CLASSES)
        inside = valid[:, None] & (column < classes)[None, :]
        x = tl.load(student_row + column[None, :], mask=inside, other=minus_infinity).to(tl.float32)
        y = tl.load(teacher_row + column[None, :], mask=inside, other=minus_infinity).to(tl.float32)

        if WITH_CE:
            new_max = tl.maximum(ce_max, tl.max(x, axis=1))
            growth = finite_or_zero(new_max) - finite_or_zero(ce_max)
            ce_sum = rescaled(ce_sum, ce_max, new_max, LOG2_E)
            ce_sum += tl.sum(tl.exp2((x - finite_or_zero(new_max)[:, None]) * LOG2_E), axis=1)
            ce_max = new_max
            if LABELS:
                target_logit += tl.sum(tl.where(label[:, None] == column[None, :], x, 0.0), axis=1)
            if PROBABILITIES:
                expected = tl.load(target_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
                # A class of probability 0 adds 0, even where its logit is -inf.
                gap = tl.where(expected == 0.0, 0.0, expected * (finite_or_zero(ce_max)[:, None] - x))
                # One reduction, because Triton cannot compile a sum in a loop whose result the loop also reads.
                mass_of_tile, gap_of_tile = tl.reduce((expected, gap), 1, add_both)
                target_gap += target_mass * growth + gap_of_tile
                target_mass += mass_of_tile

        doubtful = (x == minus_infinity) != (y == minus_infinity)
        if SMOOTHED or CENTRED:
            doubtful |= (x == minus_infinity) & inside
        present = column < classes
        count_of_tile = tl.minimum(classes - start, CLASSES).to(tl.float32)
        if tl.max(tl.max(doubtful.to(tl.int32), axis=1), axis=0) > 0:
            present = ~absent_classes(
                logits,
                target,
                memory.samples.members,
                column=column,
                ignore_index=ignore_index,
                LABELS=LABELS,
                PROBABILITIES=PROBABILITIES,
                SAMPLES=SAMPLES,
            )
            x = tl.where(present[None, :], x, minus_infinity)
            y = tl.where(present[None, :], y, minus_infinity)
            if SMOOTHED or CENTRED:
                count_of_tile = tl.sum(present.to(tl.float32), axis=0)
        if SMOOTHED:
            gap = tl.where(present[None, :], finite_or_zero(ce_max)[:, None] - x, 0.0)
            uniform_gap += count * growth + tl.sum(gap, axis=1)

        new_x_max = tl.maximum(x_max, tl.max(x, axis=1))
        new_y_max = tl.maximum(y_max, tl.max(y, axis=1))
        x_shifted = x - finite_or_zero(new_x_max)[:, None]
        y_shifted = y - finite_or_zero(new_y_max)[:, None]

        p = tl.exp2(x_shifted * scale)
        q = tl.exp2(y_shifted * scale)
        x_squares = squares_of_row(
            p, x_squares, x_sum, count, x_max, new_x_max, scale, present[None, :], count_of_tile, CENTRED=CENTRED
        )
        y_squares = squares_of_row(
            q, y_squares, y_sum, count, y_max, new_y_max, scale, present[None, :], count_of_tile, CENTRED=CENTRED
        )
        x_sum = rescaled(x_sum, x_max, new_x_max, scale) + tl.sum(p, axis=1)
        y_sum = rescaled(y_sum, y_max, new_y_max, scale) + tl.sum(q, axis=1)
        count += count_of_tile

        if WITH_KD:
            x_kd_sum = rescaled(x_kd_sum, x_max, new_x_max, kd_scale)
            x_kd_sum += tl.sum(tl.exp2(x_shifted * kd_scale), axis=1)
            # sum q (y - max y - (x - max x)): new maxima shift every difference by the same amount.
            moved = finite_or_zero(y_max) - finite_or_zero(new_y_max) - (finite_or_zero(x_max) - finite_or_zero(new_x_max))
            moved = tl.where(y_kd_sum == 0.0, 0.0, y_kd_sum * moved)
            factor = tl.exp2((y_max - finite_or_zero(new_y_max)) * kd_scale)
            divergence = tl.where(factor == 0.0, 0.0, (divergence + moved) * factor)
            q_kd = tl.exp2(y_shifted * kd_scale)
            y_kd_sum = y_kd_sum * factor + tl.sum(q_kd, axis=1)
            # A class of teacher probability 0 adds 0, even where the difference of logits is infinite or undefined.
            divergence += tl.sum(tl.where(q_kd == 0.0, 0.0, q_kd * (y_shifted - x_shifted)), axis=1)

        x_max = new_x_max
        y_max = new_y_max

    out = memory.statistics + sample
    x_normalizer = tl.log2(x_sum)
    y_normalizer = tl.log2(y_sum)
    tl.store(out + STUDENT_MAX * padded_samples, finite_or_zero(x_max), mask=in_buffer)
    tl.store(out + TEACHER_MAX * padded_samples, finite_or_zero(y_max), mask=in_buffer)
    tl.store(out + STUDENT_NORMALIZER * padded_samples, x_normalizer, mask=in_buffer)
    tl.store(out + TEACHER_NORMALIZER * padded_samples, y_normalizer, mask=in_buffer)
    store_length(
        out, x_squares, x_normalizer, count, in_buffer, padded_samples, STUDENT_LENGTH, STUDENT_SHIFT, CENTRED=CENTRED
    )
    store_length(
        out, y_squares, y_normalizer, count, in_buffer, padded_samples, TEACHER_LENGTH, TEACHER_SHIFT, CENTRED=CENTRED
    )
    if WITH_KD:
        x_kd_normalizer = tl.log2(x_kd_sum)
        y_kd_normalizer = tl.log2(y_kd_sum)
        kl = divergence / (y_kd_sum * numbers.kd_temperature) + (x_kd_normalizer - y_kd_normalizer) * LN_2
        tl.store(out + STUDENT_KD_NORMALIZER * padded_samples, x_kd_normalizer, mask=in_buffer)
        tl.store(out + TEACHER_KD_NORMALIZER * padded_samples, y_kd_normalizer, mask=in_buffer)
        tl.store(out + KL * padded_samples, tl.where(valid, kl, 0.0), mask=in_buffer)
    if WITH_CE:
        if PROBABILITIES:
            tl.store(out + TARGET_MASS * padded_samples, target_mass, mask=in_buffer)
        else:
            target_mass += 1.0
            target_logit = tl.where(nameless, float("nan"), target_logit)
            target_gap = finite_or_zero(ce_max) - target_logit
        ce_normalizer = tl.log2(ce_sum)
        ce = target_mass * (ce_normalizer * LN_2) + target_gap
        if SMOOTHED:
            smoothing = numbers.label_smoothing
            uniform = ce_normalizer * LN_2 + uniform_gap / tl.maximum(count, 1.0)
            ce = (1.0 - smoothing) * ce + tl.where(count > 0.0, smoothing * uniform, 0.0)
        tl.store(out + CE_MAX * padded_samples, finite_or_zero(ce_max), mask=in_buffer)
        tl.store(out + CE_NORMALIZER * padded_samples, ce_normalizer, mask=in_buffer)
        tl.store(out + CE * padded_samples, tl.where(valid, ce, 0.0), mask=in_buffer)
