"""What the stages of the contrast share: it is the same computation for classes and for samples.

A side is ``n`` vectors of ``d`` entries for each network, ``U`` of the student and ``V`` of the teacher: the classes
(``n = C, d = B``, ``M = Pc.T @ Qc``) or the samples (``n = B, d = C``, ``R = Pr @ Qr.T``). With ``k`` the contrast
temperature and ``w`` the weights of the positives,

    similarity_tiles    S = U @ V.T,   E = exp((S - o) / k),   rs_i = sum_j E_ij,   cs_j = sum_i E_ij
    derivative_tiles    W_ij = 1/2 E_ij (1/rs_i + 1/cs_j) - w_ij
    slope_tiles         G = W @ V,   h_i = sum_d U_id G_id

``n k d loss / d S = W`` and ``n k P * d loss / d P = U * (G - U h)``: ``n`` and ``k`` are divided by in ``logit_gradient``.
No maximum is subtracted: cosines lie in [0, 1] and ``o`` is 1, correlations in [-1, 1] and ``o`` is 0, so that ``E``
does not leave ``exp(-50)`` to ``exp(50)``, as ``k >= 0.02``. Sums go through buffers of partial sums, one row a tile, which
are added in a fixed order: the result is the same from run to run.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import LOG2_E
from bickd_kernels.backends.triton.products import high_part, low_part
from bickd_kernels.backends.triton.scratch import as_float16, as_int32

DERIVATIVE_SCALE = tl.constexpr(32768.0)
"""Derivatives are stored times this: their entries lie in [-1, 1]."""


class Panel(NamedTuple):
    """A rectangle of tiles of a similarity matrix."""

    first_row: int
    rows: int
    first_column: int
    columns: int


class TileRows(NamedTuple):
    """Rows of tiles of a similarity matrix, with all their columns."""

    first: int
    number: int


def unspecialised(panel: Any) -> Any:
    """As kernels get it: for integers in a tuple, not for floats, Triton compiles a kernel for each kind of values."""
    return type(panel)(*map(float, panel))


@triton.jit
def in_tiles(panel):
    """A panel as a kernel needs it."""
    return Panel(
        first_row=panel.first_row.to(tl.int32),
        rows=panel.rows.to(tl.int32),
        first_column=panel.first_column.to(tl.int32),
        columns=panel.columns.to(tl.int32),
    )


@triton.jit
def relative(similarity, CENTRED: tl.constexpr):
    """``S - o``: exponentials and positives are relative to the same similarity."""
    if CENTRED:
        return similarity
    return similarity - 1.0


@triton.jit
def exponentials_of(similarity, present_i, present_j, contrast_temperature):
    """``exp(S / k)`` of relative similarities, and 0 where one of the two vectors is not part of the batch."""
    exponentials = tl.exp2(similarity * (LOG2_E / contrast_temperature))
    return tl.where(present_i[:, None] & present_j[None, :], exponentials, 0.0)


@triton.jit
def positives_of_tile(side, i, j):
    """Which pairs of a tile are positives of each other."""
    labels = as_int32(side.labels)
    return tl.load(labels + i)[:, None] == tl.load(labels + j)[None, :]


@triton.jit
def store_derivatives(
    e,
    side,
    inverse_row_sums,
    inverse_column_sums,
    i,
    j,
    row,  # of the panel
    column,  # of the panel
    panel,  # Panel
    with_positives,  # whether the tile may hold positives
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """``W`` of a tile, as float16 numbers."""
    derivative = e * (inverse_row_sums[:, None] + inverse_column_sums[None, :]) * (0.5 * DERIVATIVE_SCALE)
    if with_positives:
        weight = tl.load(side.members + i) * DERIVATIVE_SCALE
        derivative -= tl.where(positives_of_tile(side, i, j), weight[:, None], 0.0)
    width = panel.columns * TILE
    offsets = row.to(tl.int64)[:, None] * width + column[None, :]
    derivatives = as_float16(side.derivatives)
    high = high_part(derivative)
    tl.store(derivatives + offsets, high)
    if PARTS == 2:
        tl.store(derivatives + tl.cast(panel.rows * TILE, tl.int64) * width + offsets, low_part(derivative, high))
