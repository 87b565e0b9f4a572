"""Between stages 3 and 4, where there are many tiles: the partial sums of a side added up, so that each is read once.

    sums_q,i = sum_tile partials_q,tile,i         q = 0: rs,  q = 1: cs

Grid: ``(n / BLOCK, 2)``. Up to ``launch.MAX_PARTIALS`` tiles the readers of partial sums add them up themselves.
"""

import triton
import triton.language as tl


@triton.jit
def partial_sums(
    partials,  # in   (2, tiles, vectors) float32
    sums,  # out  (2, vectors) float32
    tiles,
    vectors,
    BLOCK: tl.constexpr,
):
    quantity = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < vectors
    row = partials + (quantity * tiles).to(tl.int64) * vectors + i
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(0, tiles):
        total += tl.load(row, mask=inside, other=0.0)
        row += vectors
    tl.store(sums + quantity * vectors + i, total, mask=inside)
