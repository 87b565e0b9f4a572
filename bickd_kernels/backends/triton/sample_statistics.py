"""Stage 1, sample statistics: every sum over the classes of one sample, from one read of the logits.

    log2 sum_c 2^(s (x_c - max x)),  s = log2(e) / t      normalizer of P (and of Q, of both at T, of softmax(x))
    log2 |P_a| = 1/2 log2 sum_c p_c^2 - log2 sum_c p_c    length, from the same exponentials p_c
    ce_a = log sum_c exp(x_c) - x_l
    kl_a = sum_c q_c (log q_c - log p_c)                  at the temperature T

Grid: one program for ``SAMPLES`` samples. Reads ``x``, ``y``, ``l``; writes ``statistics`` and the samples' ``labels`` and
``members``. The sums are online: a running maximum, and sums that are rescaled when it grows.

A class that student or teacher gives -inf in every sample is no class of the batch and belongs to no sum but that of the
cross-entropy. It matters only where the other side has something in that class, so a tile that holds -inf on one side
only, and no other, looks at its whole columns.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import LN_2, LOG2_E, finite_or_zero, logits_of, rescaled
from bickd_kernels.backends.triton.scratch import (
    CE,
    CE_MAX,
    CE_NORMALIZER,
    KL,
    STUDENT_KD_NORMALIZER,
    STUDENT_LENGTH,
    STUDENT_MAX,
    STUDENT_NORMALIZER,
    TEACHER_KD_NORMALIZER,
    TEACHER_LENGTH,
    TEACHER_MAX,
    TEACHER_NORMALIZER,
    as_int32,
    buffers,
)


@triton.jit
def absent_classes(logits, target, column, ignore_index, HAS_TARGET: tl.constexpr, SAMPLES: tl.constexpr):
    """Which of the classes ``column`` have -inf in every sample of the batch, on one side at least."""
    in_student = tl.zeros_like(column)
    in_teacher = tl.zeros_like(column)
    for start in range(0, logits.samples, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)
        valid = sample < logits.samples
        if HAS_TARGET:
            valid &= tl.load(target + sample, mask=valid, other=ignore_index) != ignore_index
        inside = valid[:, None] & (column < logits.classes)[None, :]
        wide = sample.to(tl.int64)[:, None]
        x = tl.load(logits.student + wide * logits.student_stride + column[None, :], mask=inside, other=float("-inf"))
        y = tl.load(logits.teacher + wide * logits.teacher_stride + column[None, :], mask=inside, other=float("-inf"))
        in_student |= tl.max((x != float("-inf")).to(tl.int32), axis=0)
        in_teacher |= tl.max((y != float("-inf")).to(tl.int32), axis=0)
    return (in_student & in_teacher) == 0


@triton.jit
def positives_of(label, target, samples, ignore_index, TARGETS: tl.constexpr):
    """How many samples have each label."""
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
    target,  # in   (B,) int64; not read without HAS_TARGET
    scratch,  # out  statistics; labels and members of the samples
    sizes,  # LogitSizes
    padded_samples,
    padded_classes,
    ignore_index,
    numbers,  # Numbers
    HAS_TARGET: tl.constexpr,
    WITH_CE: tl.constexpr,
    WITH_KD: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    VECTOR: tl.constexpr,
    SAMPLES: tl.constexpr,  # of a tile of logits
    CLASSES: tl.constexpr,  # of a tile of logits
    TARGETS: tl.constexpr,  # that are looked at in a step of counting positives
):
    # Nothing here depends on what follows the samples' labels and members.
    memory = buffers(
        scratch,
        samples=padded_samples.to(tl.int64),
        classes=padded_classes.to(tl.int64),
        kept_samples=0,
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
    valid = sample < logits.samples
    label = sample.to(tl.int64)
    member = tl.full((SAMPLES,), 1.0, tl.float32)
    if HAS_TARGET:
        label = tl.load(target + sample, mask=valid, other=ignore_index)
        valid &= label != ignore_index
        if WITH_SAMPLE:
            member = 1.0 / positives_of(label, target, logits.samples, ignore_index, TARGETS=TARGETS).to(tl.float32)
    student_row = student + sample.to(tl.int64)[:, None] * logits.student_stride
    teacher_row = teacher + sample.to(tl.int64)[:, None] * logits.teacher_stride

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

    for start in range(0, classes, CLASSES):
        column = start + tl.arange(0, CLASSES)
        inside = valid[:, None] & (column < classes)[None, :]
        x = tl.load(student_row + column[None, :], mask=inside, other=minus_infinity).to(tl.float32)
        y = tl.load(teacher_row + column[None, :], mask=inside, other=minus_infinity).to(tl.float32)

        if WITH_CE:
            new_max = tl.maximum(ce_max, tl.max(x, axis=1))
            ce_sum = rescaled(ce_sum, ce_max, new_max, LOG2_E)
            ce_sum += tl.sum(tl.exp2((x - finite_or_zero(new_max)[:, None]) * LOG2_E), axis=1)
            ce_max = new_max
            target_logit += tl.sum(tl.where(label[:, None] == column[None, :], x, 0.0), axis=1)

        one_sided = (x == minus_infinity) != (y == minus_infinity)
        if tl.max(tl.max(one_sided.to(tl.int32), axis=1), axis=0) > 0:
            absent = absent_classes(logits, target, column, ignore_index, HAS_TARGET=HAS_TARGET, SAMPLES=SAMPLES)
            x = tl.where(absent[None, :], minus_infinity, x)
            y = tl.where(absent[None, :], minus_infinity, y)

        new_x_max = tl.maximum(x_max, tl.max(x, axis=1))
        new_y_max = tl.maximum(y_max, tl.max(y, axis=1))
        x_shifted = x - finite_or_zero(new_x_max)[:, None]
        y_shifted = y - finite_or_zero(new_y_max)[:, None]

        p = tl.exp2(x_shifted * scale)
        x_sum = rescaled(x_sum, x_max, new_x_max, scale) + tl.sum(p, axis=1)
        x_squares = rescaled(x_squares, x_max, new_x_max, 2.0 * scale) + tl.sum(p * p, axis=1)
        q = tl.exp2(y_shifted * scale)
        y_sum = rescaled(y_sum, y_max, new_y_max, scale) + tl.sum(q, axis=1)
        y_squares = rescaled(y_squares, y_max, new_y_max, 2.0 * scale) + tl.sum(q * q, axis=1)

        if WITH_KD:
            x_kd_sum = rescaled(x_kd_sum, x_max, new_x_max, kd_scale)
            x_kd_sum += tl.sum(tl.exp2(x_shifted * kd_scale), axis=1)
            # sum q (y - max y - (x - max x)): the shift of both maxima moves every difference alike.
            moved = finite_or_zero(y_max) - finite_or_zero(new_y_max) - (finite_or_zero(x_max) - finite_or_zero(new_x_max))
            moved = tl.where(y_kd_sum == 0.0, 0.0, y_kd_sum * moved)
            factor = tl.exp2((y_max - finite_or_zero(new_y_max)) * kd_scale)
            divergence = tl.where(factor == 0.0, 0.0, (divergence + moved) * factor)
            q_kd = tl.exp2(y_shifted * kd_scale)
            y_kd_sum = y_kd_sum * factor + tl.sum(q_kd, axis=1)
            # A class of teacher probability 0 adds 0, also where the difference of logits is infinite or undefined.
            divergence += tl.sum(tl.where(q_kd == 0.0, 0.0, q_kd * (y_shifted - x_shifted)), axis=1)

        x_max = new_x_max
        y_max = new_y_max

    in_buffer = sample < padded_samples
    out = memory.statistics + sample
    x_normalizer = tl.log2(x_sum)
    y_normalizer = tl.log2(y_sum)
    tl.store(out + STUDENT_MAX * padded_samples, finite_or_zero(x_max), mask=in_buffer)
    tl.store(out + TEACHER_MAX * padded_samples, finite_or_zero(y_max), mask=in_buffer)
    tl.store(out + STUDENT_NORMALIZER * padded_samples, x_normalizer, mask=in_buffer)
    tl.store(out + TEACHER_NORMALIZER * padded_samples, y_normalizer, mask=in_buffer)
    tl.store(out + STUDENT_LENGTH * padded_samples, 0.5 * tl.log2(x_squares) - x_normalizer, mask=in_buffer)
    tl.store(out + TEACHER_LENGTH * padded_samples, 0.5 * tl.log2(y_squares) - y_normalizer, mask=in_buffer)
    if WITH_KD:
        x_kd_normalizer = tl.log2(x_kd_sum)
        y_kd_normalizer = tl.log2(y_kd_sum)
        kl = divergence / (y_kd_sum * numbers.kd_temperature) + (x_kd_normalizer - y_kd_normalizer) * LN_2
        tl.store(out + STUDENT_KD_NORMALIZER * padded_samples, x_kd_normalizer, mask=in_buffer)
        tl.store(out + TEACHER_KD_NORMALIZER * padded_samples, y_kd_normalizer, mask=in_buffer)
        tl.store(out + KL * padded_samples, tl.where(valid, kl, 0.0), mask=in_buffer)
    if WITH_CE:
        # A label that names no class has no logit: NaN rather than a number that means nothing.
        target_logit = tl.where((label >= 0) & (label < classes), target_logit, float("nan"))
        ce_normalizer = tl.log2(ce_sum)
        ce = ce_normalizer * LN_2 + (finite_or_zero(ce_max) - target_logit)
        tl.store(out + CE_MAX * padded_samples, finite_or_zero(ce_max), mask=in_buffer)
        tl.store(out + CE_NORMALIZER * padded_samples, ce_normalizer, mask=in_buffer)
        tl.store(out + CE * padded_samples, tl.where(valid, ce, 0.0), mask=in_buffer)
    # Outside the batch every label is different, so that nothing is a positive of it.
    tl.store(as_int32(memory.samples.labels) + sample, tl.where(valid, label.to(tl.int32), -1 - sample), mask=in_buffer)
    tl.store(memory.samples.members + sample, tl.where(valid, member, 0.0), mask=in_buffer)
