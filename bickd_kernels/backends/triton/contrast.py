"""What stages 3 and 4 share: the contrast of unit vectors, which is the same computation for classes and for samples.

A side is ``n`` vectors of ``d`` entries for each network, ``U`` of the student and ``V`` of the teacher: the classes
(``n = C, d = B``, ``M = Pc.T @ Qc``) or the samples (``n = B, d = C``, ``R = Pr @ Qr.T``). With ``k`` the contrast
temperature and ``w`` the weights of the positives,

    stage 3   S = U @ V.T,   E = exp((S - o) / k),   rs_i = sum_j E_ij,   cs_j = sum_i E_ij
    stage 4   W_ij = 1/2 E_ij (1/rs_i + 1/cs_j) - w_ij,   G = W @ V,   h_i = sum_d U_id G_id

``n k d loss / d S = W`` and ``n k P * d loss / d P = U * (G - U h)``: ``n`` and ``k`` are divided by in stage 5. No maximum
is subtracted: cosines lie in [0, 1] and ``o`` is 1, correlations in [-1, 1] and ``o`` is 0, so that ``E`` does not leave
``exp(-50)`` to ``exp(50)``, as ``k >= 0.02``. Sums go through buffers of partial sums, one row a tile, which are added in a
fixed order: the result is the same from run to run.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from bickd_kernels.backends.triton.primitives import LOG2_E


class TileRows(NamedTuple):
    """Rows of tiles of a similarity matrix; a tile row has all its columns."""

    first: int
    number: int


@triton.jit
def relative(similarity, CENTRED: tl.constexpr):
    """``S - o``: exponentials and positives are relative to the same similarity."""
    if CENTRED:
        return similarity
    return similarity - 1.0


@triton.jit
def exponentials_of(similarity, member_i, member_j, contrast_temperature):
    """``exp(S / k)`` of relative similarities, and 0 where one of the two vectors is not part of the batch."""
    exponentials = tl.exp2(similarity * (LOG2_E / contrast_temperature))
    return tl.where((member_i > 0.0)[:, None] & (member_j > 0.0)[None, :], exponentials, 0.0)
