"""A tile of an fp16 GEMM, the inner loop of stages 3 and 5.

With ``PARTS == 1`` each operand is rounded to float16. With ``PARTS == 2`` (split-fp16) it is the sum of two float16
numbers, and three GEMMs give float32-level error; the product of both low parts is below that resolution and left out.

Tensor cores truncate their float32 sums towards 0 instead of rounding them, so a long sum of large numbers would lose the
precision that the low parts add. Each step of the high-part product is therefore summed from zero and then added to the
total in float32. Products with a low part are 2000 times smaller, and so is their error in a long sum.
"""

import triton
import triton.language as tl


@triton.jit
def high_part(values):
    """The float16 number nearest to each value."""
    return values.to(tl.float16)


@triton.jit
def low_part(values, high):
    """The remainder that ``high_part`` leaves, as float16."""
    return (values - high.to(tl.float32)).to(tl.float16)


@triton.jit
def tile_of_product(
    left,  # float16 (TILE, length): rows are left_stride apart
    right,  # float16 (length, TILE): rows are right_stride apart, columns right_column_stride
    length,
    left_stride,
    right_stride,
    right_column_stride,
    left_low_offset,  # int64: from a high part to its low part
    right_low_offset,  # int64
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """``left @ right``."""
    in_tile = tl.arange(0, TILE)
    step = tl.arange(0, STEP)
    left_offsets = in_tile[:, None] * left_stride + step[None, :]
    right_offsets = step[:, None] * right_stride + in_tile[None, :] * right_column_stride
    accumulator = tl.zeros((TILE, TILE), tl.float32)
    low_accumulator = tl.zeros((TILE, TILE), tl.float32)
    for _ in range(0, length, STEP):
        left_high = tl.load(left + left_offsets)
        right_high = tl.load(right + right_offsets)
        if PARTS == 2:
            left_low = tl.load(left + left_low_offset + left_offsets)
            right_low = tl.load(right + right_low_offset + right_offsets)
            # If this sum started from explicit zeros, Triton would start it from the accumulator instead.
            product = tl.dot(left_low, right_high)
            accumulator += tl.dot(left_high, right_high, product)
            low_accumulator = tl.dot(left_high, right_low, low_accumulator)
        else:
            accumulator = tl.dot(left_high, right_high, accumulator)
        left += STEP
        right += tl.cast(right_stride, tl.int64) * STEP
    return accumulator + low_accumulator if PARTS == 2 else accumulator
