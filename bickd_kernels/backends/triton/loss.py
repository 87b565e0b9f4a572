"""One extra program of stage 5: the terms and their weighted sum, from the results of the other stages.

    class_wise  = mean_i 1/2 (log rs_i + log cs_i) + sum_j w_ij (o - S_ij) / k         over the classes of the batch
    sample_wise = the same over its samples,   kd = T^2 mean_a kl_a,   ce = mean_a ce_a
    loss        = sum of weight * term over the nonzero weights

Reads the sums of both sides and ``statistics``; writes ``loss``, ``terms`` and ``counts``, by which stage 6 divides.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import LN_2, sum_over_tiles
from bickd_kernels.backends.triton.scratch import CE, KL, STUDENT_NORMALIZER, TEACHER_NORMALIZER


@triton.jit
def contrast_loss(
    side,
    vectors,
    contrast_temperature,
    ADDED_UP: tl.constexpr,
    TILE: tl.constexpr,
    MOST_TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One side of the bilateral loss, 0 for an empty batch, and the number of vectors that it averages over."""
    block = tl.arange(0, BLOCK)
    logarithms = tl.zeros((BLOCK,), tl.float32)
    members = tl.zeros((BLOCK,), tl.float32)
    distances = tl.zeros((BLOCK,), tl.float32)
    tiles = vectors // TILE
    for start in range(0, vectors, BLOCK):
        i = start + block
        inside = i < vectors
        member = tl.load(side.members + i, mask=inside, other=0.0) > 0.0
        if ADDED_UP:
            rs = tl.load(side.sums + i, mask=inside, other=0.0)
            cs = tl.load(side.sums + vectors + i, mask=inside, other=0.0)
        else:
            of_columns = side.partial_sums + tl.cast(tiles, tl.int64) * vectors
            rs = sum_over_tiles(side.partial_sums, vectors, tiles, i, inside, MOST_TILES=MOST_TILES)
            cs = sum_over_tiles(of_columns, vectors, tiles, i, inside, MOST_TILES=MOST_TILES)
        logarithms += tl.where(member, tl.log2(rs) + tl.log2(cs), 0.0)
        members += member.to(tl.float32)
    for start in range(0, tiles * tiles, BLOCK):
        tile = start + block
        distances += tl.load(side.positives + tile, mask=tile < tiles * tiles, other=0.0)
    count = tl.sum(members, axis=0)
    total = tl.sum(logarithms, axis=0) * (0.5 * LN_2) + tl.sum(distances, axis=0) / contrast_temperature
    return total / tl.maximum(count, 1.0), count


@triton.jit
def weighted(weight, term):
    """``weight * term``, but 0 if the weight is 0, even for an infinite term."""
    return tl.where(weight == 0.0, 0.0, weight * term)


@triton.jit
def loss_of_the_batch(
    memory,
    loss,
    terms,
    padded_samples,
    padded_classes,
    numbers,
    WITH_CE: tl.constexpr,
    WITH_KD: tl.constexpr,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    SMOOTHED: tl.constexpr,
    CLASSES_ADDED_UP: tl.constexpr,
    SAMPLES_ADDED_UP: tl.constexpr,
    TILE: tl.constexpr,
    MOST_TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The whole loss, by one program."""
    block = tl.arange(0, BLOCK)
    samples = tl.zeros((BLOCK,), tl.float32)
    ce = tl.zeros((BLOCK,), tl.float32)
    kl = tl.zeros((BLOCK,), tl.float32)
    normalizers = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, padded_samples, BLOCK):
        a = start + block
        valid = tl.load(memory.samples.members + a, mask=a < padded_samples, other=0.0) > 0.0
        samples += valid.to(tl.float32)
        statistic = memory.statistics + a
        if WITH_CE:
            ce += tl.load(statistic + CE * padded_samples, mask=valid, other=0.0)
        if WITH_KD:
            kl += tl.load(statistic + KL * padded_samples, mask=valid, other=0.0)
        normalizers += tl.load(statistic + STUDENT_NORMALIZER * padded_samples, mask=valid, other=0.0)
        normalizers += tl.load(statistic + TEACHER_NORMALIZER * padded_samples, mask=valid, other=0.0)
    sample_count = tl.maximum(tl.sum(samples, axis=0), 1.0)
    # A sample without a finite logit, or with NaN or infinity, has a normalizer that is not finite. This turns every term
    # that compares probabilities into NaN, even where a maximum or a comparison has hidden it.
    not_a_number = tl.sum(normalizers, axis=0) * 0.0

    total = 0.0
    tl.store(memory.counts, sample_count)
    if SMOOTHED:
        members = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, padded_classes, BLOCK):
            column = start + block
            members += tl.load(memory.classes.members + column, mask=column < padded_classes, other=0.0)
        class_count = tl.sum(members, axis=0)
        tl.store(memory.counts + 2, tl.where(class_count > 0.0, 1.0 / tl.maximum(class_count, 1.0), 0.0))
    if WITH_CE:
        term = tl.sum(ce, axis=0) / sample_count
        total += weighted(numbers.ce_weight, term)
        tl.store(terms, term)
    else:
        tl.store(terms, 0.0)
    if WITH_KD:
        kd_temperature = numbers.kd_temperature
        term = tl.sum(kl, axis=0) / sample_count * kd_temperature * kd_temperature + not_a_number
        total += weighted(numbers.kd_weight, term)
        tl.store(terms + 1, term)
    else:
        tl.store(terms + 1, 0.0)
    if WITH_CLASS:
        term, classes = contrast_loss(
            memory.classes,
            vectors=padded_classes,
            contrast_temperature=numbers.contrast_temperature,
            ADDED_UP=CLASSES_ADDED_UP,
            TILE=TILE,
            MOST_TILES=MOST_TILES,
            BLOCK=BLOCK,
        )
        term += not_a_number
        total += weighted(numbers.class_wise_weight, term)
        tl.store(terms + 2, term)
        tl.store(memory.counts + 1, tl.maximum(classes, 1.0))
    else:
        tl.store(terms + 2, 0.0)
    if WITH_SAMPLE:
        term, _ = contrast_loss(
            memory.samples,
            vectors=padded_samples,
            contrast_temperature=numbers.contrast_temperature,
            ADDED_UP=SAMPLES_ADDED_UP,
            TILE=TILE,
            MOST_TILES=MOST_TILES,
            BLOCK=BLOCK,
        )
        term += not_a_number
        total += weighted(numbers.sample_wise_weight, term)
        tl.store(terms + 3, term)
    else:
        tl.store(terms + 3, 0.0)
    tl.store(loss, total)
