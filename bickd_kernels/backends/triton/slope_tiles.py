"""Stage 5, slopes: tiles of ``G = W @ V`` of both sides and their parts of ``h``, and the loss in a separate program.

    h_i = sum_d U_id G_id

Grid: in the first launch of a call the program of ``loss``, then those of the class side and those of the sample side. Reads
``derivatives`` and unit vectors; writes ``slopes``, as ``(B, C)`` for both sides, and ``projections``. Each panel of ``W``
after the first of its side adds to the ``G`` of the earlier ones.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.contrast import DERIVATIVE_SCALE, in_tiles
from bickd_kernels.backends.triton.loss import loss_of_the_batch
from bickd_kernels.backends.triton.primitives import UNIT_SCALE
from bickd_kernels.backends.triton.products import tile_of_product
from bickd_kernels.backends.triton.scratch import as_float16, buffers


@triton.jit
def units_of(units, offsets, low_offset, PARTS: tl.constexpr):
    """Unit vectors in float32."""
    values = tl.load(units + offsets).to(tl.float32)
    if PARTS == 2:
        values += tl.load(units + low_offset + offsets).to(tl.float32)
    return values * (1.0 / UNIT_SCALE)


@triton.jit
def slope_tile(
    program,
    side,
    vectors,
    length,
    panel,  # Panel
    vector_stride,
    entry_stride,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """A tile of ``G = W @ V``, and its part of ``h``."""
    entry_tiles = length // TILE
    # Concurrent programs share the larger operand: rows of W or columns of V.
    by_rows = panel.rows > entry_tiles
    row_tile = tl.where(by_rows, program // entry_tiles, program % panel.rows)
    tile_d = tl.where(by_rows, program % entry_tiles, program // panel.rows)
    first_i = ((panel.first_row + row_tile) * TILE).to(tl.int64)
    first_d = (tile_d * TILE).to(tl.int64)
    width = panel.columns * TILE
    low_offset = tl.cast(vectors, tl.int64) * length
    g = tile_of_product(
        as_float16(side.derivatives) + (row_tile * TILE).to(tl.int64) * width,
        as_float16(side.teacher) + (panel.first_column * TILE).to(tl.int64) * length + first_d,
        length=width,
        left_stride=width,
        right_stride=length,
        right_column_stride=1,
        left_low_offset=tl.cast(panel.rows * TILE, tl.int64) * width,
        right_low_offset=low_offset,
        PARTS=PARTS,
        TILE=TILE,
        STEP=STEP,
    )
    g *= 1.0 / (DERIVATIVE_SCALE * UNIT_SCALE)
    in_tile = tl.arange(0, TILE)
    slopes = side.slopes + first_i * vector_stride + first_d * entry_stride
    offsets = in_tile[:, None] * vector_stride + in_tile[None, :] * entry_stride
    if panel.first_column > 0:
        g += tl.load(slopes + offsets)
    tl.store(slopes + offsets, g)
    units = as_float16(side.student) + first_i * length + first_d
    u = units_of(units, in_tile[:, None] * length + in_tile[None, :], low_offset, PARTS=PARTS)
    tl.store(side.projections + tl.cast(tile_d, tl.int64) * vectors + first_i + in_tile, tl.sum(u * g, axis=1))


@triton.jit(do_not_specialize=["held", "loss_programs"])
def slope_tiles(
    scratch,  # in   the results of stages 1 to 4; out  slopes, projections, counts
    loss,  # out  () float32
    terms,  # out  (4,) float32
    padded_samples,
    padded_classes,
    held,  # Held
    loss_programs,  # 1 or 0
    class_panel,  # Panel of M
    sample_panel,  # Panel of R
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
    MOST_TILES: tl.constexpr,  # along a side whose partial sums have not been added up, a power of 2
    LOSS_BLOCK: tl.constexpr,  # vectors per step of the loss sums
):
    memory = buffers(
        scratch,
        samples=padded_samples.to(tl.int64),
        classes=padded_classes.to(tl.int64),
        PARTS=PARTS,
        TILE=TILE,
        WITH_CLASS=WITH_CLASS,
        WITH_SAMPLE=WITH_SAMPLE,
        held_classes=tl.cast(held.classes, tl.int64),
        held_samples=tl.cast(held.samples, tl.int64),
        kept_samples=tl.cast(held.kept_samples, tl.int64),
    )
    class_programs = class_panel.rows.to(tl.int32) * (padded_samples // TILE)
    # The loss is a long program, so it starts first.
    program = tl.program_id(0) - loss_programs
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
            BLOCK=LOSS_BLOCK,
        )
    elif program < class_programs:
        slope_tile(
            program,
            memory.classes,
            vectors=padded_classes,
            length=padded_samples,
            panel=in_tiles(class_panel),
            vector_stride=1,
            entry_stride=padded_classes,
            PARTS=PARTS,
            TILE=TILE,
            STEP=STEP,
        )
    else:
        slope_tile(
            program - class_programs,
            memory.samples,
            vectors=padded_samples,
            length=padded_classes,
            panel=in_tiles(sample_panel),
            vector_stride=padded_classes,
            entry_stride=1,
            PARTS=PARTS,
            TILE=TILE,
            STEP=STEP,
        )
