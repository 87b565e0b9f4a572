"""Stage 4, slopes: tiles of ``G = W @ V`` of both sides and their parts of ``h``, and in a program of its own the loss.

Grid: the program of ``loss``, those of the class side, those of the sample side. Reads ``E``, its sums and unit vectors;
writes ``slopes``, as ``(B, C)`` for both sides, and ``projections``. A class side whose ``E`` is not kept forms it again.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.contrast import exponentials_of, relative
from bickd_kernels.backends.triton.loss import loss_of_the_batch
from bickd_kernels.backends.triton.primitives import (
    SLOPE_SCALE,
    UNIT_SCALE,
    dot_of_parts,
    high_part,
    inverse_or_zero,
    low_part,
    product_of_parts,
    sum_over_tiles,
)
from bickd_kernels.backends.triton.scratch import as_float16, as_int32, buffers


@triton.jit
def slope_of(e, inverse_row_sums, inverse_column_sums, label_i, label_j, member_i):
    """``W``, the derivative by the similarities but for ``1 / (n k)``."""
    positive = label_i[:, None] == label_j[None, :]
    pushed = e * (inverse_row_sums[:, None] + inverse_column_sums[None, :]) * 0.5
    return pushed - tl.where(positive, member_i[:, None], 0.0)


@triton.jit
def units_of(units, offsets, low_offset, PARTS: tl.constexpr):
    """Unit vectors in float32."""
    values = tl.load(units + offsets).to(tl.float32)
    if PARTS == 2:
        values += tl.load(units + low_offset + offsets).to(tl.float32)
    return values * (1.0 / UNIT_SCALE)


@triton.jit
def store_slopes(accumulator, side, tile_d, i, d, vectors, length, vector_stride, entry_stride, PARTS: tl.constexpr):
    """Writes a finished tile of ``G`` and its part of ``h_i = sum_d U_id G_id``."""
    g = accumulator * (1.0 / (SLOPE_SCALE * UNIT_SCALE))
    low_offset = tl.cast(vectors, tl.int64) * length
    offsets = i.to(tl.int64)[:, None] * length + d[None, :]
    u = units_of(as_float16(side.student), offsets, low_offset, PARTS=PARTS)
    tl.store(side.projections + tl.cast(tile_d, tl.int64) * vectors + i, tl.sum(u * g, axis=1))
    tl.store(side.slopes + i.to(tl.int64)[:, None] * vector_stride + d.to(tl.int64)[None, :] * entry_stride, g)


@triton.jit
def slope_tile(
    program,
    side,
    tile_rows,  # TileRows: E is kept of these
    vectors,
    length,
    vector_stride,
    entry_stride,
    ADDED_UP: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    MOST_TILES: tl.constexpr,
):
    """A tile of ``G = W @ V`` from stored ``E``, and its part of ``h``."""
    kept_i = program % tile_rows.number
    tile_d = program // tile_rows.number
    i = (tile_rows.first + kept_i) * TILE + tl.arange(0, TILE)
    kept = kept_i * TILE + tl.arange(0, TILE)
    d = tile_d * TILE + tl.arange(0, TILE)
    step = tl.arange(0, STEP)
    low_offset = tl.cast(vectors, tl.int64) * length

    labels = as_int32(side.labels)
    label_i = tl.load(labels + i)
    member_i = tl.load(side.members + i)
    if ADDED_UP:
        tiles = 1
        row_sums = side.sums
    else:
        tiles = vectors // TILE
        row_sums = side.partial_sums
    column_sums = row_sums + tl.cast(tiles, tl.int64) * vectors
    inverse_rows = inverse_or_zero(sum_over_tiles(row_sums, vectors, tiles, i, MOST_TILES=MOST_TILES))
    accumulator = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, vectors, STEP):
        j = start + step
        e = tl.load(side.exponentials + kept.to(tl.int64)[:, None] * vectors + j[None, :])
        right = as_float16(side.teacher) + j.to(tl.int64)[:, None] * length + d[None, :]
        right_high = tl.load(right)
        right_low = right_high
        if PARTS == 2:
            right_low = tl.load(right + low_offset)
        inverse_columns = inverse_or_zero(sum_over_tiles(column_sums, vectors, tiles, j, MOST_TILES=MOST_TILES))
        slope = slope_of(e, inverse_rows, inverse_columns, label_i, tl.load(labels + j), member_i) * SLOPE_SCALE
        high = high_part(slope)
        accumulator = dot_of_parts(high, low_part(slope, high), right_high, right_low, accumulator=accumulator, PARTS=PARTS)

    store_slopes(
        accumulator,
        side,
        tile_d=tile_d,
        i=i,
        d=d,
        vectors=vectors,
        length=length,
        vector_stride=vector_stride,
        entry_stride=entry_stride,
        PARTS=PARTS,
    )


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
        in_steps(left_high, TILE=TILE, LENGTH=LENGTH, STEP=STEP),
        in_steps(left_low, TILE=TILE, LENGTH=LENGTH, STEP=STEP),
        tl.permute(in_steps(right_high, TILE=TILE, LENGTH=LENGTH, STEP=STEP), (0, 2, 1)),
        tl.permute(in_steps(right_low, TILE=TILE, LENGTH=LENGTH, STEP=STEP), (0, 2, 1)),
    )
    return tl.sum(products, axis=0)


@triton.jit
def recomputed_slope_tile(
    tile_i,
    side,
    vectors,
    vector_stride,
    entry_stride,
    contrast_temperature,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    LENGTH: tl.constexpr,
    CENTRED: tl.constexpr,
):
    """``G`` of a tile of vectors with all their entries, and its ``h``; ``E`` is formed again and never leaves the chip."""
    i = tile_i * TILE + tl.arange(0, TILE)
    d = tl.arange(0, LENGTH)
    low_offset = tl.cast(vectors, tl.int64) * LENGTH
    labels = as_int32(side.labels)
    label_i = tl.load(labels + i)
    member_i = tl.load(side.members + i)
    inverse_rows = inverse_or_zero(tl.load(side.sums + i))
    left = as_float16(side.student) + i.to(tl.int64)[:, None] * LENGTH + d[None, :]
    left_high = tl.load(left)
    left_low = left_high
    if PARTS == 2:
        left_low = tl.load(left + low_offset)
    accumulator = tl.zeros((TILE, LENGTH), tl.float32)
    for start in range(0, vectors, TILE):
        j = start + tl.arange(0, TILE)
        right = as_float16(side.teacher) + j.to(tl.int64)[:, None] * LENGTH + d[None, :]
        right_high = tl.load(right)
        right_low = right_high
        if PARTS == 2:
            right_low = tl.load(right + low_offset)
            similarity = similarities_of_parts(
                left_high, left_low, right_high, right_low, TILE=TILE, LENGTH=LENGTH, STEP=STEP
            )
        else:
            similarity = tl.dot(left_high, tl.trans(right_high))
        similarity = relative(similarity * (1.0 / (UNIT_SCALE * UNIT_SCALE)), CENTRED=CENTRED)
        e = exponentials_of(similarity, member_i, tl.load(side.members + j), contrast_temperature)
        inverse_columns = inverse_or_zero(tl.load(side.sums + vectors + j))
        slope = slope_of(e, inverse_rows, inverse_columns, label_i, tl.load(labels + j), member_i) * SLOPE_SCALE
        high = high_part(slope)
        accumulator = dot_of_parts(high, low_part(slope, high), right_high, right_low, accumulator=accumulator, PARTS=PARTS)
    store_slopes(
        accumulator,
        side,
        tile_d=0,
        i=i,
        d=d,
        vectors=vectors,
        length=LENGTH,
        vector_stride=vector_stride,
        entry_stride=entry_stride,
        PARTS=PARTS,
    )


@triton.jit(do_not_specialize=["kept_samples", "class_tiles", "sample_tiles"])
def slope_tiles(
    scratch,  # in   all that stages 1 to 3 wrote; out  slopes, projections, counts
    loss,  # out  () float32
    terms,  # out  (4,) float32
    padded_samples,
    padded_classes,
    kept_samples,  # how many rows of E the scratch memory has for the samples
    class_tiles,  # TileRows of M to form slopes of: E is kept of these, or of none
    sample_tiles,  # TileRows of R: E is kept of these
    numbers,  # Numbers
    WITH_CE: tl.constexpr,
    WITH_KD: tl.constexpr,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    SMOOTHED: tl.constexpr,  # whether the targets of the cross-entropy are smoothed
    CLASSES_ADDED_UP: tl.constexpr,  # whether partial sums of classes have been added up
    SAMPLES_ADDED_UP: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    MOST_TILES: tl.constexpr,  # of a side whose partial sums have not been added up, a power of 2
    RECOMPUTED: tl.constexpr,  # 0, or the number of entries of a class vector: E of the classes is formed again
    RECOMPUTED_TILE: tl.constexpr,
    CENTRED: tl.constexpr,  # whether vectors are centred
):
    memory = buffers(
        scratch,
        samples=padded_samples.to(tl.int64),
        classes=padded_classes.to(tl.int64),
        kept_samples=tl.cast(kept_samples, tl.int64),
        PARTS=PARTS,
        TILE=TILE,
        WITH_CLASS=WITH_CLASS,
        WITH_SAMPLE=WITH_SAMPLE,
    )
    if RECOMPUTED == 0:
        class_programs = class_tiles.number * (padded_samples // TILE)
    else:
        class_programs = class_tiles.number * (TILE // RECOMPUTED_TILE)
    # The loss is the longest program, so it starts first.
    program = tl.program_id(0) - 1
    if program < 0:
        loss_of_the_batch(
            memory,
            loss,
            terms,
            padded_samples=padded_samples,
            padded_classes=padded_classes,
            numbers=numbers,
            WITH_CE=WITH_CE,
            WITH_KD=WITH_KD,
            WITH_CLASS=WITH_CLASS,
            WITH_SAMPLE=WITH_SAMPLE,
            SMOOTHED=SMOOTHED,
            CLASSES_ADDED_UP=CLASSES_ADDED_UP,
            SAMPLES_ADDED_UP=SAMPLES_ADDED_UP,
            TILE=TILE,
            MOST_TILES=MOST_TILES,
        )
    elif program < class_programs:
        if RECOMPUTED == 0:
            slope_tile(
                program,
                memory.classes,
                tile_rows=class_tiles,
                vectors=padded_classes,
                length=padded_samples,
                vector_stride=1,
                entry_stride=padded_classes,
                ADDED_UP=CLASSES_ADDED_UP,
                PARTS=PARTS,
                TILE=TILE,
                STEP=STEP,
                MOST_TILES=MOST_TILES,
            )
        else:
            recomputed_slope_tile(
                program,
                memory.classes,
                vectors=padded_classes,
                vector_stride=1,
                entry_stride=padded_classes,
                contrast_temperature=numbers.contrast_temperature,
                PARTS=PARTS,
                TILE=RECOMPUTED_TILE,
                STEP=STEP,
                LENGTH=RECOMPUTED,
                CENTRED=CENTRED,
            )
    else:
        slope_tile(
            program - class_programs,
            memory.samples,
            tile_rows=sample_tiles,
            vectors=padded_samples,
            length=padded_classes,
            vector_stride=padded_classes,
            entry_stride=1,
            ADDED_UP=SAMPLES_ADDED_UP,
            PARTS=PARTS,
            TILE=TILE,
            STEP=STEP,
            MOST_TILES=MOST_TILES,
        )
