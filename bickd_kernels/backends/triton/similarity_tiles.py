"""Stage 3, similarities: tiles of ``S`` of both sides, the sums of ``E`` within each tile, and the sums over positives.

Grid: one program per tile of the class side, then one per tile of the sample side. Reads unit vectors, ``labels``,
``members``; writes ``partial_sums``, ``positives`` and, for the rows that are kept, ``exponentials``.

If ``E`` is not kept, the same kernel runs again for each panel of ``S`` once the sums are known (``SUMMED``). The same
products in the same order reproduce the summed ``E`` bit for bit, and the kernel writes the panel's ``derivatives``.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.contrast import exponentials_of, in_tiles, positives_of_tile, relative, store_derivatives
from bickd_kernels.backends.triton.primitives import UNIT_SCALE, inverse_or_zero
from bickd_kernels.backends.triton.products import tile_of_product
from bickd_kernels.backends.triton.scratch import as_float16, buffers


@triton.jit
def distances_of_positives(similarity, side, i, j, member_i, with_positives):
    """``sum_j w_ij (o - S_ij)`` within a tile, for each ``i``."""
    distance = tl.zeros_like(member_i)
    if with_positives:
        positive = positives_of_tile(side, i, j)
        distance = tl.sum(tl.where(positive, -similarity, 0.0), axis=1) * member_i
    # Multiplying by 0 would not mask NaN outside the batch.
    return tl.where(member_i > 0.0, distance, 0.0)


@triton.jit(do_not_specialize=["held"])
def similarity_tiles(
    scratch,  # in   unit vectors, labels, members, sums if SUMMED; out  see the module docstring
    padded_samples,
    padded_classes,
    held,  # Held
    class_panel,  # Panel of M
    sample_panel,  # Panel of R
    kept_class_rows,  # TileRows whose E is kept
    kept_sample_rows,  # TileRows whose E is kept
    numbers,  # Numbers
    BY_LABEL: tl.constexpr,  # whether samples with the same label are positives
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    SUMMED: tl.constexpr,  # whether the sums are known
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    CENTRED: tl.constexpr,  # whether vectors are centred
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
        side = memory.classes
        vectors, length = tl.cast(padded_classes, tl.int32), tl.cast(padded_samples, tl.int32)
        panel = in_tiles(class_panel)
        first_kept, kept = kept_class_rows.first.to(tl.int32), kept_class_rows.number.to(tl.int32)
        by_label = False
    else:
        program -= class_programs
        side = memory.samples
        vectors, length = tl.cast(padded_samples, tl.int32), tl.cast(padded_classes, tl.int32)
        panel = in_tiles(sample_panel)
        first_kept, kept = kept_sample_rows.first.to(tl.int32), kept_sample_rows.number.to(tl.int32)
        by_label = BY_LABEL

    in_tile = tl.arange(0, TILE)
    row = program // panel.columns
    column = program % panel.columns
    tile_i = panel.first_row + row
    tile_j = panel.first_column + column
    i = tile_i * TILE + in_tile
    j = tile_j * TILE + in_tile
    low_offset = tl.cast(vectors, tl.int64) * length
    similarity = tile_of_product(
        as_float16(side.student) + (tile_i * TILE).to(tl.int64) * length,
        as_float16(side.teacher) + (tile_j * TILE).to(tl.int64) * length,
        length=length,
        left_stride=length,
        right_stride=1,
        right_column_stride=length,
        left_low_offset=low_offset,
        right_low_offset=low_offset,
        PARTS=PARTS,
        TILE=TILE,
        STEP=STEP,
    )
    similarity = relative(similarity * (1.0 / (UNIT_SCALE * UNIT_SCALE)), CENTRED=CENTRED)
    with_positives = (tile_i == tile_j) | by_label
    if SUMMED:
        inverse_row_sums = inverse_or_zero(tl.load(side.sums + i))
        inverse_column_sums = inverse_or_zero(tl.load(side.sums + vectors + j))
        # Sums are 0 exactly for vectors outside the batch; loading members would take more registers.
        present_i, present_j = inverse_row_sums != 0.0, inverse_column_sums != 0.0
        store_derivatives(
            exponentials_of(similarity, present_i, present_j, numbers.contrast_temperature),
            side,
            inverse_row_sums=inverse_row_sums,
            inverse_column_sums=inverse_column_sums,
            i=i,
            j=j,
            row=row * TILE + in_tile,
            column=column * TILE + in_tile,
            panel=panel,
            with_positives=with_positives,
            PARTS=PARTS,
            TILE=TILE,
        )
    else:
        member_i = tl.load(side.members + i)
        e = exponentials_of(similarity, member_i > 0.0, tl.load(side.members + j) > 0.0, numbers.contrast_temperature)
        tiles = vectors // TILE
        tl.store(side.partial_sums + tile_j.to(tl.int64) * vectors + i, tl.sum(e, axis=1))
        tl.store(side.partial_sums + (tiles + tile_i).to(tl.int64) * vectors + j, tl.sum(e, axis=0))
        distance = distances_of_positives(similarity, side, i=i, j=j, member_i=member_i, with_positives=with_positives)
        # Sums a one-row matrix, because Triton 3.6 and 3.7 cannot compile the sum of a vector here for sm_100.
        tl.store(side.positives + tile_i * tiles + tile_j + tl.arange(0, 1), tl.sum(distance[None, :], axis=1))
        kept_row = tile_i - first_kept
        if (kept_row >= 0) & (kept_row < kept):
            first = (kept_row * TILE).to(tl.int64) * vectors + tile_j * TILE
            tl.store(side.exponentials + first + (in_tile[:, None] * vectors + in_tile[None, :]), e)
