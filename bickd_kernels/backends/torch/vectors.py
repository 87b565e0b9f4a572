"""Probabilities, and the unit vectors that are contrasted.

A class is compared by its probabilities over the samples, which may all be tiny. Columns are therefore divided by their
largest entry before they are scaled to length 1, so that their squares do not underflow.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bickd_kernels.backends.torch.blocks import blocks_of

LOG2_E = math.log2(math.e)
"""Exponentials are computed as powers of two, which are faster on a CPU."""


def log_probabilities(logits: Tensor, temperature: float, rows: Tensor | None) -> Tensor:
    """``log softmax(logits / temperature)`` over the last dimension; -inf in rows that the mask ``(B,)`` hides.

    Overwrites the logits, a copy that nothing reads afterwards.
    """
    logarithms = _log_softmax(logits.div_(temperature))
    return logarithms if rows is None else logarithms.masked_fill_((rows == 0)[:, None], -torch.inf)


def largest_of_columns(logarithms: Tensor, no_entry: Tensor | None) -> Tensor:
    """The largest logarithm of each column ``(..., 1, C)``; 0 for columns that the mask hides, which are all -inf."""
    largest = logarithms.amax(-2, keepdim=True)
    return largest if no_entry is None else largest.masked_fill_(no_entry, 0.0)


def largest_of_rows(logarithms: Tensor, rows: Tensor | None) -> Tensor:
    """The largest logarithm of each row ``(..., B, 1)``; 0 for rows that the mask ``(B,)`` hides, which are all -inf."""
    largest = logarithms.amax(-1, keepdim=True)
    return largest if rows is None else largest.masked_fill_((rows == 0)[:, None], 0.0)


def relative_to(largest: Tensor | None, logarithms: Tensor) -> Tensor:
    """``exp(logarithms - largest)``, in place; None stands for 0."""
    differences = logarithms if largest is None else logarithms.sub_(largest)
    return differences.mul_(LOG2_E).exp2_()


class Vectors(NamedTuple):
    """The vectors of one side, along one dimension of ``(2, B, C)``."""

    units: Tensor
    """Student and teacher, ``(2, B, C)``, of length 1; 0 for a vector without direction or outside the batch."""
    scaled: Tensor
    """The student's probabilities divided by their vector's length, ``(B, C)``: its unit vectors, unless centred."""


def cosine_vectors(probabilities: Tensor, dim: int, some_vanish: bool) -> Vectors:
    """Vectors along ``dim`` scaled to length 1, in place."""
    units = probabilities.mul_(inverse_lengths(sums_of_squares(probabilities, dim), some_vanish))
    return Vectors(units, units[0])


def correlation_vectors(probabilities: Tensor, dim: int, members: Tensor | None, count: Tensor | int) -> Vectors:
    """Vectors along ``dim``, centred and scaled to length 1, from probabilities divided by their vector's largest entry.

    A constant vector is then exactly 1, as is its mean, so that centring gives exactly 0: it has no direction.

    Args:
        probabilities: ``(2, B, C)``.
        dim: 1 for the vectors of classes, 2 for those of samples.
        members: which entries a vector has, 1 or 0, broadcast to ``(2, B, C)``; None: all.
        count: the number of these entries.
    """
    entries = centred(probabilities, probabilities.sum(dim, keepdim=True) / count, members)
    inverse = inverse_lengths(sums_of_squares(entries, dim), True)
    return Vectors(entries.mul_(inverse), probabilities[0] * inverse[0])


def centred(probabilities: Tensor, mean: Tensor, members: Tensor | None) -> Tensor:
    """``probabilities - mean``, 0 where the mask ``members`` is 0."""
    entries = probabilities - mean
    return entries if members is None else entries.mul_(members)


def sums_of_squares(vectors: Tensor, dim: int) -> Tensor:
    """``(vectors * vectors).sum(dim, keepdim=True)`` without storing the squares."""
    if dim == vectors.dim() - 1:
        return torch.linalg.vector_norm(vectors, dim=dim, keepdim=True).square_()
    return _sum_of_products(vectors, vectors, dim)


def inverse_lengths(squares: Tensor, some_vanish: bool) -> Tensor:
    """``1 / sqrt(squares)``; 0 for 0, if some vectors may be zero."""
    inverse = squares.rsqrt()
    return inverse.masked_fill_(squares == 0, 0.0) if some_vanish else inverse


def project(vectors: Vectors, slope: Tensor, dim: int) -> Tensor:
    """``P * d loss / d P = v (G - u h)`` with ``h = sum u G`` along ``dim - 1``, from ``G = d loss / d u`` ``(B, C)``.

    The derivative of the centring would give ``G - mean(G)``, but ``G`` is a sum of centred vectors, so its mean is 0. The
    result overwrites ``G``.
    """
    units = vectors.units[0]
    return slope.addcmul_(units, _sum_of_products(units, slope, dim - 1), value=-1).mul_(vectors.scaled)


def through_softmax(part: Tensor, probabilities: Tensor) -> Tensor:
    """``A - P * A.sum(1)`` in place, for ``A = P * d loss / d P``: the derivative by the logits of ``P``, ``(B, C)``."""
    return part.addcmul_(probabilities, part.sum(1, keepdim=True), value=-1)


def _log_softmax(logits: Tensor) -> Tensor:
    """Over the last dimension; in place if the logits span more than one block."""
    along = logits.dim() - 2
    blocks = blocks_of(logits, along)
    if len(blocks) == 1:
        return F.log_softmax(logits, -1)
    for rows in blocks:
        block = logits.narrow(along, rows.start, rows.stop - rows.start)
        block.copy_(F.log_softmax(block, -1))
    return logits


def _sum_of_products(left: Tensor, right: Tensor, dim: int) -> Tensor:
    """``(left * right).sum(dim, keepdim=True)``, computing the products for a few rows at a time."""
    along = left.dim() - 2
    blocks = blocks_of(left, along)
    if len(blocks) == 1:
        return (left * right).sum(dim, keepdim=True)
    parts = []
    for rows in blocks:
        place = along, rows.start, rows.stop - rows.start
        parts.append((left.narrow(*place) * right.narrow(*place)).sum(dim, keepdim=True))
    return torch.cat(parts, dim=along) if dim == left.dim() - 1 else torch.stack(parts).sum(0)
