"""Runs of rows: a pass over an array that needs a temporary of its own goes through it block by block.

The temporary is then written and read while it is in the cache, and takes no memory worth mentioning.
"""

from torch import Tensor

BLOCK_BYTES = 2 * 2**20


def blocks_of(array: Tensor, dim: int = 0) -> list[slice]:
    """Runs along a dimension, each of ``BLOCK_BYTES`` at most or of one row; one run for an array that is no larger."""
    count = array.shape[dim]
    return runs(count, max(1, BLOCK_BYTES * count // max(array.nbytes, 1)))


def runs(count: int, rows: int) -> list[slice]:
    """``count`` rows in runs of as many as are asked for; one empty run if there is none."""
    rows = min(count, rows)
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)] if count > 0 else [slice(0, 0)]


def part(values: Tensor, rows: slice) -> Tensor:
    """``values[rows]``, without the cost of a view where that is all of it: small problems are bound by such costs."""
    return values if rows.stop - rows.start == values.shape[0] else values[rows]
