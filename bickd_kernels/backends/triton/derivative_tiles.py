"""Stage 4, derivatives: tiles of ``W`` of both sides, from the kept ``E`` and its sums.

    W_ij = 1/2 E_ij (1/rs_i + 1/cs_j) - w_ij

Grid: one program per tile of the class side, then one per tile of the sample side. Reads ``exponentials``, its sums,
``labels``, ``members``; writes ``derivatives``, the left operand of stage 5.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.contrast import in_tiles, store_derivatives
from bickd_kernels.backends.triton.primitives import inverse_or_zero, sum_over_tiles
from bickd_kernels.backends.triton.scratch import buffers


@triton.jit
def derivative_tile(
    program,
    side,
    vectors,
    panel,  # Panel with all columns
    BY_LABEL: tl.constexpr,
    ADDED_UP: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    MOST_TILES: tl.constexpr,
):
    """A tile of one side."""
    row = program // panel.columns
    tile_j = program % panel.columns
    tile_i = panel.first_row + row
    in_tile = tl.arange(0, TILE)
    i = tile_i * TILE + in_tile
    j = tile_j * TILE + in_tile
    kept = row * TILE + in_tile
    e = tl.load(side.exponentials + kept.to(tl.int64)[:, None] * vectors + j[None, :])
    if ADDED_UP:
        row_sums = tl.load(side.sums + i)
        column_sums = tl.load(side.sums + vectors + j)
    else:
        tiles = vectors // TILE
        row_sums = sum_over_tiles(side.partial_sums, vectors, tiles, i, i < vectors, MOST_TILES=MOST_TILES)
        of_columns = side.partial_sums + tl.cast(tiles, tl.int64) * vectors
        column_sums = sum_over_tiles(of_columns, vectors, tiles, j, j < vectors, MOST_TILES=MOST_TILES)
    store_derivatives(
        e,
        side,
        inverse_row_sums=inverse_or_zero(row_sums),
        inverse_column_sums=inverse_or_zero(column_sums),
        i=i,
        j=j,
        row=kept,
        column=j,
        panel=panel,
        with_positives=(tile_i == tile_j) | BY_LABEL,
        PARTS=PARTS,
        TILE=TILE,
    )


@triton.jit(do_not_specialize=["held"])
def derivative_tiles(
    scratch,  # in   exponentials, partial_sums or sums, labels, members; out  derivatives
    padded_samples,
    padded_classes,
    held,  # Held
    class_panel,  # Panel of M whose E is kept
    sample_panel,  # Panel of R whose E is kept
    BY_LABEL: tl.constexpr,  # whether samples with the same label are positives
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    CLASSES_ADDED_UP: tl.constexpr,  # whether partial sums of classes have been added up
    SAMPLES_ADDED_UP: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    MOST_TILES: tl.constexpr,  # along a side whose partial sums have not been added up, a power of 2
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
    program = tl.program_id(0)
    class_programs = (class_panel.rows * class_panel.columns).to(tl.int32)
    if program < class_programs:
        derivative_tile(
            program,
            memory.classes,
            vectors=padded_classes,
            panel=in_tiles(class_panel),
            BY_LABEL=False,
            ADDED_UP=CLASSES_ADDED_UP,
            PARTS=PARTS,
            TILE=TILE,
            MOST_TILES=MOST_TILES,
        )
    else:
        derivative_tile(
            program - class_programs,
            memory.samples,
            vectors=padded_samples,
            panel=in_tiles(sample_panel),
            BY_LABEL=BY_LABEL,
            ADDED_UP=SAMPLES_ADDED_UP,
            PARTS=PARTS,
            TILE=TILE,
            MOST_TILES=MOST_TILES,
        )
