"""Stage 4, one more program: the terms and their weighted sum, from what the other stages wrote.

    class_wise  = mean_i 1/2 (log rs_i + log cs_i) + sum_j w_ij (1 - S_ij) / k         over the classes of the batch
    sample_wise = the same over its samples,   kd = T^2 mean_a kl_a,   ce = mean_a ce_a
    loss        = sum of weight * term over the weights that are not 0

Reads partial sums and row statistics; writes ``loss``, ``terms`` and ``counts``, by which stage 5 divides.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import LN_2, sum_of_partials
from bickd_kernels.backends.triton.row_statistics import CE, KL, STUDENT_NORMALIZER, TEACHER_NORMALIZER


@triton.jit
def contrast_loss(
    sums,
    positives,
    weights,
    vectors,
    partials,
    positive_count,
    contrast_temperature,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One side of the bilateral loss, 0 for an empty batch, and how many vectors it is the mean over.

    ``vectors`` is a multiple of ``BLOCK``.
    """
    step = tl.arange(0, BLOCK)
    logarithms = tl.zeros((BLOCK,), tl.float32)
    members = tl.zeros((BLOCK,), tl.float32)
    distances = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vectors, BLOCK):
        i = start + step
        member = tl.load(weights + i) > 0.0
        row_sums = sum_of_partials(sums, vectors, partials, i, COUNT)
        column_sums = sum_of_partials(sums + partials * vectors, vectors, partials, i, COUNT)
        logarithms += tl.where(member, tl.log2(row_sums) + tl.log2(column_sums), 0.0)
        members += member.to(tl.float32)
    for start in range(0, positive_count, BLOCK):
        i = start + step
        distances += tl.load(positives + i, mask=i < positive_count, other=0.0)
    count = tl.sum(members, axis=0)
    total = tl.sum(logarithms, axis=0) * (0.5 * LN_2) + tl.sum(distances, axis=0) / contrast_temperature
    return total / tl.maximum(count, 1.0), count


@triton.jit
def weighted(weight, term):
    """``weight * term``; a term of weight 0 takes no part, not even as 0 * infinity."""
    return tl.where(weight == 0.0, 0.0, weight * term)


@triton.jit
def loss_of_the_batch(
    rows,
    sample_weights,
    class_sums,
    class_positives,
    class_weights,
    sample_sums,
    sample_positives,
    loss,
    terms,
    counts,
    padded_samples,
    padded_classes,
    class_partials,
    sample_partials,
    class_positive_count,
    sample_positive_count,
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
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The whole loss, by one program."""
    step = tl.arange(0, BLOCK)
    samples = tl.zeros((BLOCK,), tl.float32)
    ce = tl.zeros((BLOCK,), tl.float32)
    kl = tl.zeros((BLOCK,), tl.float32)
    normalizers = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, padded_samples, BLOCK):
        a = start + step
        valid = tl.load(sample_weights + a, mask=a < padded_samples, other=0.0) > 0.0
        samples += valid.to(tl.float32)
        if WITH_CE:
            ce += tl.load(rows + CE * padded_samples + a, mask=valid, other=0.0)
        if WITH_KD:
            kl += tl.load(rows + KL * padded_samples + a, mask=valid, other=0.0)
        normalizers += tl.load(rows + STUDENT_NORMALIZER * padded_samples + a, mask=valid, other=0.0)
        normalizers += tl.load(rows + TEACHER_NORMALIZER * padded_samples + a, mask=valid, other=0.0)
    sample_count = tl.sum(samples, axis=0)
    # A sample without a finite logit, or with NaN or infinity, has a normalizer that is not finite: everything that
    # compares probabilities becomes NaN, whatever a maximum or a comparison made of it on the way.
    not_a_number = tl.sum(normalizers, axis=0) * 0.0

    total = 0.0
    tl.store(counts, tl.maximum(sample_count, 1.0))
    if WITH_CE:
        term = tl.sum(ce, axis=0) / tl.maximum(sample_count, 1.0)
        total += weighted(ce_weight, term)
        tl.store(terms, term)
    else:
        tl.store(terms, 0.0)
    if WITH_KD:
        term = tl.sum(kl, axis=0) / tl.maximum(sample_count, 1.0) * kd_temperature * kd_temperature + not_a_number
        total += weighted(kd_weight, term)
        tl.store(terms + 1, term)
    else:
        tl.store(terms + 1, 0.0)
    if WITH_CLASS:
        term, classes = contrast_loss(
            class_sums, class_positives, class_weights, padded_classes, class_partials, class_positive_count,
            contrast_temperature, COUNT, BLOCK,
        )  # fmt: skip
        term += not_a_number
        total += weighted(class_weight, term)
        tl.store(terms + 2, term)
        tl.store(counts + 1, tl.maximum(classes, 1.0))
    else:
        tl.store(terms + 2, 0.0)
    if WITH_SAMPLE:
        term, _ = contrast_loss(
            sample_sums, sample_positives, sample_weights, padded_samples, sample_partials, sample_positive_count,
            contrast_temperature, COUNT, BLOCK,
        )  # fmt: skip
        term += not_a_number
        total += weighted(sample_weight, term)
        tl.store(terms + 3, term)
    else:
        tl.store(terms + 3, 0.0)
    tl.store(loss, total)
