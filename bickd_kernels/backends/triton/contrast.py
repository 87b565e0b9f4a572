"""Code shared by the contrast stages, which run the same computation for classes and for samples.

A side is ``n`` vectors of ``d`` entries for each network, ``U`` of the student and ``V`` of the teacher: the classes
(``n = C, d = B``, ``M = Pc.T @ Qc``) or the samples (``n = B, d = C``, ``R = Pr @ Qr.T``). With ``k`` the contrast
temperature and ``w`` the weights of the positives,

    similarity_tiles    S = U @ V.T,   E = exp((S - o) / k),   rs_i = sum_j E_ij,   cs_j = sum_i E_ij
    derivative_tiles    W_ij = 1/2 E_ij (1/rs_i + 1/cs_j) - w_ij
    slope_tiles         G = W @ V,   h_i = sum_d U_id G_id

``n k d loss / d S = W`` and ``n k P * d loss / d P = U * (G - U h)``; ``logit_gradient`` divides by ``n`` and ``k``.
No maximum is subtracted: cosines lie in [0, 1] with ``o = 1``, correlations in [-1, 1] with ``o = 0``, and ``k >= 0.02``, so
``E`` stays between ``exp(-50)`` and ``exp(50)``. Each tile writes its own row of partial sums, and the rows are added in a
fixed order: the result is the same from run to run.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import LOG2_E
from bickd_kernels.backends.triton.products import high_part, low_part
from bickd_kernels.backends.triton.scratch import as_float16, as_int32

DERIVATIVE_SCALE = tl.constexpr(32768.0)
"""Stored derivatives, which lie in [-1, 1], are scaled by this."""


class Panel(NamedTuple):
    """A rectangle of similarity tiles."""

    first_row: int
    rows: int
    first_column: int
    columns: int


class TileRows(NamedTuple):
    """Rows of similarity tiles, with all their columns."""

    first: int
    number: int


def unspecialised(panel: Any) -> Any:
    """The panel as floats: Triton specialises kernels on the values of integers in a tuple, but not on floats."""
    return type(panel)(*map(float, panel))


@triton.jit
def in_tiles(panel):
    """A panel with integers, as a kernel needs it."""
    return Panel(
        first_row=panel.first_row.to(tl.int32),
        rows=panel.rows.to(tl.int32),
        first_column=panel.first_column.to(tl.int32),
        columns=panel.columns.to(tl.int32),
    )


@triton.jit
def relative(similarity, CENTRED: tl.constexpr):
    """``S - o``: exponentials and positives use the same offset."""
    if CENTRED:
        return similarity
    return similarity - 1.0


@triton.jit
def exponentials_of(similarity, present_i, present_j, contrast_temperature):
    """``exp(S / k)`` of relative similarities; 0 where one of the two vectors is outside the batch."""
    exponentials = tl.exp2(similarity * (LOG2_E / contrast_temperature))
    return tl.where(present_i[:, None] & present_j[None, :], exponentials, 0.0)


@triton.jit
def positives_of_tile(side, i, j):
    """Which pairs of a tile are positives."""
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
    """Stores ``W`` of a tile in float16."""
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
