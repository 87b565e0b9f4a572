"""Runs between stages 3 and 4 if there are many tiles: adds up a side's partial sums, so that each is read only once.

    sums_q,i = sum_tile partial_sums_q,tile,i         q = 0: rs,  q = 1: cs

Grid: ``(blocks of classes or samples, 2)``. Up to ``planning.MAX_TILES`` tiles, the kernels that read partial sums add them
up themselves.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.scratch import buffers


@triton.jit
def partial_sums(
    scratch,  # in   partial_sums of the side; out  its sums
    padded_samples,
    padded_classes,
    OF_CLASSES: tl.constexpr,  # which side
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    memory = buffers(
        scratch,
        samples=padded_samples.to(tl.int64),
        classes=padded_classes.to(tl.int64),
        PARTS=PARTS,
        TILE=TILE,
        WITH_CLASS=WITH_CLASS,
        WITH_SAMPLE=WITH_SAMPLE,
    )
    if OF_CLASSES:
        side = memory.classes
        vectors = padded_classes
    else:
        side = memory.samples
        vectors = padded_samples
    tiles = vectors // TILE
    quantity = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < vectors
    of_tile = side.partial_sums + (quantity * tiles).to(tl.int64) * vectors + i
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(0, tiles):
        total += tl.load(of_tile, mask=inside, other=0.0)
        of_tile += vectors
    tl.store(side.sums + quantity * vectors + i, total, mask=inside)
