"""Blocks of rows: a pass over an array that needs a temporary processes the array block by block.

The temporary then stays in the cache and takes negligible memory.
"""

from torch import Tensor

BLOCK_BYTES = 2 * 2**20


def blocks_of(array: Tensor, dim: int = 0) -> list[slice]:
    """Slices along a dimension, each of at most ``BLOCK_BYTES`` or of one row; a single one if the array is no larger."""
    count = array.shape[dim]
    return runs(count, max(1, BLOCK_BYTES * count // max(array.nbytes, 1)))


def runs(count: int, rows: int) -> list[slice]:
    """Splits ``count`` rows into slices of ``rows`` each; one empty slice if there are no rows."""
    rows = min(count, rows)
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)] if count > 0 else [slice(0, 0)]


def part(values: Tensor, rows: slice) -> Tensor:
    """``values[rows]``, without creating a view of all rows: such overheads dominate small problems."""
    return values if rows.stop - rows.start == values.shape[0] else values[rows]
