"""Stages 3 and 4, the contrast of unit vectors: class contrast and sample contrast are the same computation.

A side is ``n`` vectors of ``d`` entries for each network, ``U`` of the student and ``V`` of the teacher: the classes
(``n = C, d = B``, ``M = Pc.T @ Qc``) or the samples (``n = B, d = C``, ``R = Pr @ Qr.T``). With ``k`` the contrast
temperature and ``w`` the weights of the positives,

    stage 3   S = U @ V.T,   E = exp((S - 1) / k),   rs_i = sum_j E_ij,   cs_j = sum_i E_ij
    stage 4   W_ij = 1/2 E_ij (1/rs_i + 1/cs_j) - w_ij,   G = W @ V,   h_i = sum_d U_id G_id

``n k d loss / d S = W`` and ``n k P * d loss / d P = U * (G - U h)``: ``n`` and ``k`` are divided by in stage 5. No maximum
is subtracted, because similarities lie in [0, 1]. Sums go through buffers of partial sums, one row a tile, which are added
in a fixed order: the result is the same from run to run.

Grid of both: programs of the class side, then those of the sample side; stage 4 begins with one that sums up the loss.
Stage 3 reads unit vectors and writes partial sums and, up to a budget, ``E``. Stage 4 reads ``E``, the partial sums and
unit vectors, and writes ``G``, as ``(B, C)`` for both sides, and partial sums of ``h``.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.loss import loss_of_the_batch
from bickd_kernels.backends.triton.primitives import (
    LOG2_E,
    SLOPE_SCALE,
    UNIT_SCALE,
    dot_of_parts,
    high_part,
    inverse_or_zero,
    low_part,
    product_of_parts,
    sum_of_partials,
)


@triton.jit
def similarities(
    left,  # (PARTS, n, d) float16, times UNIT_SCALE
    right,  # (PARTS, n, d) float16, times UNIT_SCALE
    i,
    j,
    vectors,
    length,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """A tile of ``U @ V.T``."""
    part = tl.cast(vectors, tl.int64) * length
    step = tl.arange(0, STEP)
    left_tile = left + i.to(tl.int64)[:, None] * length + step[None, :]
    right_tile = right + j.to(tl.int64)[:, None] * length + step[None, :]
    accumulator = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, length, STEP):
        left_high = tl.load(left_tile + start)
        right_high = tl.load(right_tile + start)
        left_low = left_high
        right_low = right_high
        if PARTS == 2:
            left_low = tl.load(left_tile + part + start)
            right_low = tl.load(right_tile + part + start)
        accumulator = dot_of_parts(left_high, left_low, tl.trans(right_high), tl.trans(right_low), accumulator, PARTS)
    return accumulator * (1.0 / (UNIT_SCALE * UNIT_SCALE))


@triton.jit
def exponentials_of(similarity, left_weight, right_weight, contrast_temperature):
    """``exp((S - 1) / k)``, and 0 where one of the two vectors is not part of the batch."""
    exponentials = tl.exp2((similarity - 1.0) * (LOG2_E / contrast_temperature))
    return tl.where((left_weight > 0.0)[:, None] & (right_weight > 0.0)[None, :], exponentials, 0.0)


@triton.jit
def similarity_tiles(
    class_student,  # in   (PARTS, padded_classes, padded_samples) float16
    class_teacher,  # in   (PARTS, padded_classes, padded_samples) float16
    class_labels,  # in   (padded_classes,) int32
    class_weights,  # in   (padded_classes,) float32
    class_exponentials,  # out  (rows of M from class_first on, padded_classes) float32; with keep_classes
    class_sums,  # out  (2, tiles, padded_classes) float32: parts of rs, then of cs
    class_positives,  # out  (tiles, tiles) float32: parts of sum_ij w_ij (1 - S_ij)
    sample_student,  # in   (PARTS, padded_samples, padded_classes) float16
    sample_teacher,  # in   (PARTS, padded_samples, padded_classes) float16
    sample_labels,  # in   (padded_samples,) int32
    sample_weights,  # in   (padded_samples,) float32
    sample_exponentials,  # out  (rows of R from sample_first on, padded_samples) float32; with keep_samples
    sample_sums,  # out  (2, tiles, padded_samples) float32
    sample_positives,  # out  (tiles, tiles) float32
    padded_classes,
    padded_samples,
    class_programs,
    class_first,  # the first tile of rows of M; exponentials begin there
    sample_first,  # the first tile of rows of R
    keep_classes,
    keep_samples,
    contrast_temperature,
    first_program,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    program = first_program + tl.program_id(0)
    if program < class_programs:
        left, right, labels, weights = class_student, class_teacher, class_labels, class_weights
        exponentials, sums, positives = class_exponentials, class_sums, class_positives
        vectors, length = tl.cast(padded_classes, tl.int32), tl.cast(padded_samples, tl.int32)
        first, keep = tl.cast(class_first, tl.int32), tl.cast(keep_classes, tl.int1)
    else:
        program -= class_programs
        left, right, labels, weights = sample_student, sample_teacher, sample_labels, sample_weights
        exponentials, sums, positives = sample_exponentials, sample_sums, sample_positives
        vectors, length = tl.cast(padded_samples, tl.int32), tl.cast(padded_classes, tl.int32)
        first, keep = tl.cast(sample_first, tl.int32), tl.cast(keep_samples, tl.int1)

    tiles = vectors // TILE
    tile_i = first + program // tiles
    tile_j = program % tiles
    i = tile_i * TILE + tl.arange(0, TILE)
    j = tile_j * TILE + tl.arange(0, TILE)
    similarity = similarities(left, right, i, j, vectors, length, PARTS, TILE, STEP)
    left_weight = tl.load(weights + i)
    e = exponentials_of(similarity, left_weight, tl.load(weights + j), contrast_temperature.to(tl.float32))

    tl.store(sums + tile_j.to(tl.int64) * vectors + i, tl.sum(e, axis=1))
    tl.store(sums + (tiles + tile_i).to(tl.int64) * vectors + j, tl.sum(e, axis=0))
    positive = tl.load(labels + i)[:, None] == tl.load(labels + j)[None, :]
    distance = tl.sum(tl.where(positive, 1.0 - similarity, 0.0), axis=1)
    # Zero weights mask what is not in the batch, but 0 * NaN would not.
    distance = tl.where(left_weight > 0.0, distance * left_weight, 0.0)
    # A sum of a matrix of one row: Triton 3.6 and 3.7 do not compile the sum of the vector for sm_100.
    tl.store(positives + tile_i * tiles + tile_j + tl.arange(0, 1), tl.sum(distance[None, :], axis=1))
    if keep:
        tl.store(exponentials + (i - first * TILE).to(tl.int64)[:, None] * vectors + j[None, :], e)


@triton.jit
def slope_of(e, inverse_row_sums, inverse_column_sums, label_i, label_j, weight_i):
    """``W``, the derivative by the similarities but for ``1 / (n k)``."""
    positive = label_i[:, None] == label_j[None, :]
    pushed = e * (0.5 * inverse_row_sums[:, None] + 0.5 * inverse_column_sums[None, :])
    return pushed - tl.where(positive, weight_i[:, None], 0.0)


@triton.jit
def units_of(units, offsets, part, PARTS: tl.constexpr):
    """Unit vectors in float32."""
    values = tl.load(units + offsets).to(tl.float32)
    if PARTS == 2:
        values += tl.load(units + part + offsets).to(tl.float32)
    return values * (1.0 / UNIT_SCALE)


@triton.jit
def store_slopes(
    accumulator,
    student,
    slopes,
    projections,
    i,
    d,
    vectors,
    length,
    vector_stride,
    entry_stride,
    PARTS: tl.constexpr,
):
    """Writes a finished tile of ``G`` and its part of ``h_i = sum_d U_id G_id``."""
    g = accumulator * (1.0 / (SLOPE_SCALE * UNIT_SCALE))
    part = tl.cast(vectors, tl.int64) * length
    u = units_of(student, i.to(tl.int64)[:, None] * length + d[None, :], part, PARTS)
    tl.store(projections + i, tl.sum(u * g, axis=1))
    tl.store(slopes + i.to(tl.int64)[:, None] * vector_stride + d.to(tl.int64)[None, :] * entry_stride, g)


@triton.jit
def slope_tile(
    program,
    student,
    teacher,
    labels,
    weights,
    exponentials,
    sums,
    partials,
    slopes,
    projections,
    vectors,
    length,
    first,
    tiles,
    vector_stride,
    entry_stride,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    COUNT: tl.constexpr,
):
    """A tile of ``G = W @ V`` from stored ``E``, and its part of ``h``."""
    tile_i = first + program % tiles
    tile_d = program // tiles
    i = tile_i * TILE + tl.arange(0, TILE)
    d = tile_d * TILE + tl.arange(0, TILE)
    step = tl.arange(0, STEP)
    part = tl.cast(vectors, tl.int64) * length

    label_i = tl.load(labels + i)
    weight_i = tl.load(weights + i)
    inverse_rows = inverse_or_zero(sum_of_partials(sums, vectors, partials, i, COUNT))
    column_sums = sums + partials * vectors
    accumulator = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, vectors, STEP):
        j = start + step
        e = tl.load(exponentials + (i - first * TILE).to(tl.int64)[:, None] * vectors + j[None, :])
        right = teacher + j.to(tl.int64)[:, None] * length + d[None, :]
        right_high = tl.load(right)
        right_low = right_high
        if PARTS == 2:
            right_low = tl.load(right + part)
        inverse_columns = inverse_or_zero(sum_of_partials(column_sums, vectors, partials, j, COUNT))
        slope = slope_of(e, inverse_rows, inverse_columns, label_i, tl.load(labels + j), weight_i) * SLOPE_SCALE
        high = high_part(slope)
        accumulator = dot_of_parts(high, low_part(slope, high), right_high, right_low, accumulator, PARTS)

    store_slopes(
        accumulator, student, slopes, projections + tile_d.to(tl.int64) * vectors, i, d, vectors, length, vector_stride,
        entry_stride, PARTS,
    )  # fmt: skip


@triton.jit
def in_steps(vectors, TILE: tl.constexpr, LENGTH: tl.constexpr, STEP: tl.constexpr):
    """Vectors cut into steps: ``(TILE, LENGTH)`` as ``(LENGTH // STEP, TILE, STEP)``."""
    return tl.permute(tl.reshape(vectors, (TILE, LENGTH // STEP, STEP)), (1, 0, 2))


@triton.jit
def similarities_of_parts(
    left_high, left_low, right_high, right_low, TILE: tl.constexpr, LENGTH: tl.constexpr, STEP: tl.constexpr
):
    """``U @ V.T`` of whole vectors on chip, added up step by step as in stage 3: what ``E`` is divided by was."""
    products = product_of_parts(
        in_steps(left_high, TILE, LENGTH, STEP),
        in_steps(left_low, TILE, LENGTH, STEP),
        tl.permute(in_steps(right_high, TILE, LENGTH, STEP), (0, 2, 1)),
        tl.permute(in_steps(right_low, TILE, LENGTH, STEP), (0, 2, 1)),
    )
    return tl.sum(products, axis=0)


@triton.jit
def recomputed_slope_tile(
    tile_i,
    student,
    teacher,
    labels,
    weights,
    sums,
    slopes,
    projections,
    vectors,
    vector_stride,
    entry_stride,
    contrast_temperature,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    LENGTH: tl.constexpr,
):
    """``G`` of a tile of vectors with all their entries, and its ``h``; ``E`` is formed again and never leaves the chip."""
    i = tile_i * TILE + tl.arange(0, TILE)
    d = tl.arange(0, LENGTH)
    part = tl.cast(vectors, tl.int64) * LENGTH
    label_i = tl.load(labels + i)
    weight_i = tl.load(weights + i)
    inverse_rows = inverse_or_zero(tl.load(sums + i))
    left = student + i.to(tl.int64)[:, None] * LENGTH + d[None, :]
    left_high = tl.load(left)
    left_low = left_high
    if PARTS == 2:
        left_low = tl.load(left + part)
    accumulator = tl.zeros((TILE, LENGTH), tl.float32)
    for start in range(0, vectors, TILE):
        j = start + tl.arange(0, TILE)
        right = teacher + j.to(tl.int64)[:, None] * LENGTH + d[None, :]
        right_high = tl.load(right)
        right_low = right_high
        if PARTS == 2:
            right_low = tl.load(right + part)
            similarity = similarities_of_parts(left_high, left_low, right_high, right_low, TILE, LENGTH, STEP)
        else:
            similarity = tl.dot(left_high, tl.trans(right_high))
        similarity *= 1.0 / (UNIT_SCALE * UNIT_SCALE)
        e = exponentials_of(similarity, weight_i, tl.load(weights + j), contrast_temperature)
        inverse_columns = inverse_or_zero(tl.load(sums + vectors + j))
        slope = slope_of(e, inverse_rows, inverse_columns, label_i, tl.load(labels + j), weight_i) * SLOPE_SCALE
        high = high_part(slope)
        accumulator = dot_of_parts(high, low_part(slope, high), right_high, right_low, accumulator, PARTS)
    store_slopes(accumulator, student, slopes, projections, i, d, vectors, LENGTH, vector_stride, entry_stride, PARTS)


@triton.jit
def slope_tiles(
    class_student,  # in   (PARTS, padded_classes, padded_samples) float16
    class_teacher,  # in   (PARTS, padded_classes, padded_samples) float16
    class_labels,  # in   (padded_classes,) int32
    class_weights,  # in   (padded_classes,) float32
    class_exponentials,  # in   (padded_classes, padded_classes) float32
    class_sums,  # in   (2, class_partials, padded_classes) float32
    class_positives,  # in   (class_positive_count,) float32
    class_slopes,  # out  (padded_samples, padded_classes) float32: G
    class_projections,  # out  (tiles of samples, padded_classes) float32: parts of h
    sample_student,  # in   (PARTS, padded_samples, padded_classes) float16
    sample_teacher,  # in   (PARTS, padded_samples, padded_classes) float16
    sample_labels,  # in   (padded_samples,) int32
    sample_weights,  # in   (padded_samples,) float32
    sample_exponentials,  # in   (padded_samples, padded_samples) float32
    sample_sums,  # in   (2, sample_partials, padded_samples) float32
    sample_positives,  # in   (sample_positive_count,) float32
    sample_slopes,  # out  (padded_samples, padded_classes) float32: G
    sample_projections,  # out  (tiles of classes, padded_samples) float32: parts of h
    rows,  # in   (ROW_STATISTICS, padded_samples) float32
    loss,  # out  () float32
    terms,  # out  (4,) float32
    counts,  # out  (2,) float32: samples and classes of the batch
    padded_classes,
    padded_samples,
    class_partials,
    sample_partials,
    class_positive_count,
    sample_positive_count,
    class_programs,
    class_first,  # the first tile of rows of M, where class_exponentials begin
    class_tiles,  # how many tiles of rows
    sample_first,  # the first tile of rows of R, where sample_exponentials begin
    sample_tiles,  # how many tiles of rows
    contrast_temperature,
    kd_temperature,
    ce_weight,
    kd_weight,
    class_weight,
    sample_weight,
    first_program,
    WITH_CE: tl.constexpr,
    WITH_KD: tl.constexpr,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    COUNT: tl.constexpr,
    RECOMPUTE: tl.constexpr,  # 0, or the number of entries of a class vector: M is formed again
    RECOMPUTE_TILE: tl.constexpr,
):
    # The loss is the longest program, so it starts first.
    program = first_program + tl.program_id(0) - 1
    if program < 0:
        loss_of_the_batch(
            rows, sample_weights, class_sums, class_positives, class_weights, sample_sums, sample_positives,
            loss, terms, counts, padded_samples, padded_classes, class_partials, sample_partials,
            class_positive_count, sample_positive_count,
            contrast_temperature.to(tl.float32), kd_temperature.to(tl.float32), ce_weight.to(tl.float32),
            kd_weight.to(tl.float32), class_weight.to(tl.float32), sample_weight.to(tl.float32),
            WITH_CE, WITH_KD, WITH_CLASS, WITH_SAMPLE, COUNT, TILE,
        )  # fmt: skip
    elif program < class_programs:
        if RECOMPUTE == 0:
            slope_tile(
                program, class_student, class_teacher, class_labels, class_weights, class_exponentials, class_sums,
                class_partials, class_slopes, class_projections, padded_classes, padded_samples, class_first, class_tiles,
                1, padded_classes, PARTS, TILE, STEP, COUNT,
            )  # fmt: skip
        else:
            recomputed_slope_tile(
                program, class_student, class_teacher, class_labels, class_weights, class_sums, class_slopes,
                class_projections, padded_classes, 1, padded_classes, contrast_temperature.to(tl.float32),
                PARTS, RECOMPUTE_TILE, STEP, RECOMPUTE,
            )  # fmt: skip
    else:
        slope_tile(
            program - class_programs, sample_student, sample_teacher, sample_labels, sample_weights, sample_exponentials,
            sample_sums, sample_partials, sample_slopes, sample_projections, padded_samples, padded_classes, sample_first,
            sample_tiles, padded_classes, 1, PARTS, TILE, STEP, COUNT,
        )  # fmt: skip
