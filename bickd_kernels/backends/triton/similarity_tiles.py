"""Stage 3, similarities: tiles of ``S`` of both sides, the sums of ``E`` within them, and those over the positives.

Grid: one program for a tile of the class side, then one for a tile of the sample side. Reads unit vectors, ``labels``,
``members``; writes ``partial_sums``, ``positives`` and, of the tile rows that are kept, ``exponentials``.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.contrast import exponentials_of, relative
from bickd_kernels.backends.triton.primitives import UNIT_SCALE, dot_of_parts
from bickd_kernels.backends.triton.scratch import as_float16, as_int32, buffers


@triton.jit
def similarities(
    left,  # (PARTS, vectors, length) float16, times UNIT_SCALE
    right,  # (PARTS, vectors, length) float16, times UNIT_SCALE
    i,
    j,
    vectors,
    length,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """A tile of ``U @ V.T``."""
    low_offset = tl.cast(vectors, tl.int64) * length
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
            left_low = tl.load(left_tile + low_offset + start)
            right_low = tl.load(right_tile + low_offset + start)
        accumulator = dot_of_parts(
            left_high, left_low, tl.trans(right_high), tl.trans(right_low), accumulator=accumulator, PARTS=PARTS
        )
    return accumulator * (1.0 / (UNIT_SCALE * UNIT_SCALE))


@triton.jit(do_not_specialize=["kept_samples", "class_tiles", "sample_tiles", "kept_class_tiles", "kept_sample_tiles"])
def similarity_tiles(
    scratch,  # in   unit vectors, labels, members; out  partial_sums, positives, exponentials
    padded_samples,
    padded_classes,
    kept_samples,  # how many rows of E the scratch memory has for the samples
    class_tiles,  # TileRows of M
    sample_tiles,  # TileRows of R
    kept_class_tiles,  # TileRows whose E is kept
    kept_sample_tiles,  # TileRows whose E is kept
    numbers,  # Numbers
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
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
    program = tl.program_id(0)
    class_programs = class_tiles.number * (padded_classes // TILE)
    if program < class_programs:
        side = memory.classes
        vectors, length = tl.cast(padded_classes, tl.int32), tl.cast(padded_samples, tl.int32)
        first = tl.cast(class_tiles.first, tl.int32)
        first_kept, kept = tl.cast(kept_class_tiles.first, tl.int32), tl.cast(kept_class_tiles.number, tl.int32)
    else:
        program -= class_programs
        side = memory.samples
        vectors, length = tl.cast(padded_samples, tl.int32), tl.cast(padded_classes, tl.int32)
        first = tl.cast(sample_tiles.first, tl.int32)
        first_kept, kept = tl.cast(kept_sample_tiles.first, tl.int32), tl.cast(kept_sample_tiles.number, tl.int32)

    tiles = vectors // TILE
    tile_i = first + program // tiles
    tile_j = program % tiles
    i = tile_i * TILE + tl.arange(0, TILE)
    j = tile_j * TILE + tl.arange(0, TILE)
    similarity = similarities(
        as_float16(side.student),
        as_float16(side.teacher),
        i=i,
        j=j,
        vectors=vectors,
        length=length,
        PARTS=PARTS,
        TILE=TILE,
        STEP=STEP,
    )
    similarity = relative(similarity, CENTRED=CENTRED)
    member_i = tl.load(side.members + i)
    e = exponentials_of(similarity, member_i, tl.load(side.members + j), numbers.contrast_temperature)

    tl.store(side.partial_sums + tile_j.to(tl.int64) * vectors + i, tl.sum(e, axis=1))
    tl.store(side.partial_sums + (tiles + tile_i).to(tl.int64) * vectors + j, tl.sum(e, axis=0))
    labels = as_int32(side.labels)
    positive = tl.load(labels + i)[:, None] == tl.load(labels + j)[None, :]
    distance = tl.sum(tl.where(positive, -similarity, 0.0), axis=1)
    # Zeros mask what is not in the batch, but 0 * NaN would not.
    distance = tl.where(member_i > 0.0, distance * member_i, 0.0)
    # A sum of a matrix of one row: Triton 3.6 and 3.7 do not compile the sum of the vector for sm_100.
    tl.store(side.positives + tile_i * tiles + tile_j + tl.arange(0, 1), tl.sum(distance[None, :], axis=1))
    kept_i = tile_i - first_kept
    if (kept_i >= 0) & (kept_i < kept):
        row = kept_i * TILE + tl.arange(0, TILE)
        tl.store(side.exponentials + row.to(tl.int64)[:, None] * vectors + j[None, :], e)
