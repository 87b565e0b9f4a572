"""A matrix product whose sum shows how a tensor core truncates."""

import triton
import triton.language as tl


@triton.jit
def add_products(
    result,  # float32 (64, 64), out
    left,
    right,
    accumulator,
    count,
):
    """In every entry, ``accumulator`` plus ``count`` (at most 16) products ``left * right`` of float16 numbers."""
    i, k = tl.arange(0, 64), tl.arange(0, 16)
    a = tl.where((k < count)[None, :], left.to(tl.float32), 0.0) + tl.zeros((64, 16), tl.float32)
    b = tl.where((k < count)[:, None], right.to(tl.float32), 0.0) + tl.zeros((16, 64), tl.float32)
    c = tl.zeros((64, 64), tl.float32) + accumulator.to(tl.float32)
    tl.store(result + i[:, None] * 64 + i[None, :], tl.dot(a.to(tl.float16), b.to(tl.float16), c))
