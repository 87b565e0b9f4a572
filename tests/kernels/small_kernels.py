"""Small kernels with known results and accesses, on which the simulator and the traffic counter are tested."""

import triton
import triton.language as tl

COMPILED = [("ttir", 90), ("ttgir", 80), ("ttgir", 90), ("ttgir", 100)]
"""Stages and compute capabilities; the TTIR is the same for all of the latter."""


@triton.jit
def row_sums(x, out, columns, stride, block: tl.constexpr):
    row = tl.program_id(0)
    total = 0.0
    for start in range(0, columns, block):
        column = start + tl.arange(0, block)
        total += tl.sum(tl.load(x + row * stride + column, mask=column < columns, other=0.0))
    tl.store(out + row, total)


@triton.jit
def product(a, b, out, inner, block: tl.constexpr):
    row = tl.program_id(0) * block + tl.arange(0, block)
    column = tl.program_id(1) * block + tl.arange(0, block)
    columns = tl.num_programs(1) * block
    total = tl.zeros((block, block), tl.float32)
    for start in range(0, inner, block):
        k = start + tl.arange(0, block)
        left = tl.load(a + row[:, None] * inner + k[None, :])
        total = tl.dot(left, tl.load(b + k[:, None] * columns + column[None, :]), total)
    tl.store(out + row[:, None] * columns + column[None, :], total)
