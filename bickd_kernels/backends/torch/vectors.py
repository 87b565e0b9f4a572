"""Probabilities, and the unit vectors that are contrasted.

A class is compared by its probabilities over the samples, which may be tiny in all of them. So columns are scaled to length
1 from probabilities relative to the largest of the column: nothing underflows when squared.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bickd_kernels.backends.torch.blocks import blocks_of

LOG2_E = math.log2(math.e)
"""Exponentials are powers of two, the faster ones on a CPU."""


def log_probabilities(logits: Tensor, temperature: float, rows: Tensor | None) -> Tensor:
    """``log softmax(logits / temperature)`` over the last dimension; -inf in rows that the mask ``(B,)`` hides.

    The logits, a copy that nothing reads afterwards, are written to.
    """
    logarithms = _log_softmax(logits.div_(temperature))
    return logarithms if rows is None else logarithms.masked_fill_((rows == 0)[:, None], -torch.inf)


def largest_of_columns(logarithms: Tensor, no_entry: Tensor | None) -> Tensor:
    """The largest logarithm of each column ``(..., 1, C)``, 0 for those that the mask hides, which are -inf throughout."""
    largest = logarithms.amax(-2, keepdim=True)
    return largest if no_entry is None else largest.masked_fill_(no_entry, 0.0)


def largest_of_rows(logarithms: Tensor, rows: Tensor | None) -> Tensor:
    """The largest logarithm of each row ``(..., B, 1)``; 0 for those that the mask ``(B,)`` hides, which are -inf."""
    largest = logarithms.amax(-1, keepdim=True)
    return largest if rows is None else largest.masked_fill_((rows == 0)[:, None], 0.0)


def relative_to(largest: Tensor | None, logarithms: Tensor) -> Tensor:
    """``exp(logarithms - largest)``, in place; None stands for 0."""
    differences = logarithms if largest is None else logarithms.sub_(largest)
    return differences.mul_(LOG2_E).exp2_()


class Vectors(NamedTuple):
    """The vectors of one side, along one dimension of ``(2, B, C)``."""

    units: Tensor
    """Of student and teacher, ``(2, B, C)``, of length 1; 0 for one without direction, or that is no part of the batch."""
    scaled: Tensor
    """The student's probabilities over the length of its vector, ``(B, C)``: its unit vector, if that is not centred."""


def cosine_vectors(probabilities: Tensor, dim: int, some_vanish: bool) -> Vectors:
    """Vectors along ``dim`` scaled to length 1, in place."""
    units = probabilities.mul_(inverse_lengths(sums_of_squares(probabilities, dim), some_vanish))
    return Vectors(units, units[0])


def correlation_vectors(probabilities: Tensor, dim: int, members: Tensor | None, count: Tensor | int) -> Vectors:
    """Vectors along ``dim`` centred and scaled to length 1, of probabilities relative to the largest of their vector.

    A constant vector is then exactly 1, its mean too, and its centred vector exactly 0: it has no direction.

    Args:
        probabilities: ``(2, B, C)``.
        dim: 1 for the vectors of classes, 2 for those of samples.
        members: which entries a vector has, 1 or 0, broadcast to ``(2, B, C)``; None: all.
        count: how many.
    """
    centred = probabilities - probabilities.sum(dim, keepdim=True) / count
    if members is not None:
        centred.mul_(members)
    squares = sums_of_squares(centred, dim)
    inverse = squares.rsqrt().masked_fill_(squares == 0, 0.0)
    return Vectors(centred.mul_(inverse), probabilities[0] * inverse[0])


def sums_of_squares(vectors: Tensor, dim: int) -> Tensor:
    """``(vectors * vectors).sum(dim, keepdim=True)``, without an array of the squares."""
    if dim == vectors.dim() - 1:
        return torch.linalg.vector_norm(vectors, dim=dim, keepdim=True).square_()
    return _sum_of_products(vectors, vectors, dim)


def inverse_lengths(squares: Tensor, some_vanish: bool) -> Tensor:
    """``1 / sqrt(squares)``, in place; finite for 0 if some vectors vanish."""
    if some_vanish:
        squares.clamp_(min=torch.finfo(squares.dtype).tiny)
    return squares.rsqrt_()


def project(vectors: Vectors, slope: Tensor, dim: int) -> Tensor:
    """``P * d loss / d P = v (G - u h)`` with ``h = sum u G`` along ``dim - 1``, from ``G = d loss / d u`` ``(B, C)``.

    Through the centring it would be ``G - mean(G)``; but ``G`` adds up centred vectors, and its mean is 0. The result takes
    the place of ``G``.
    """
    units = vectors.units[0]
    return slope.addcmul_(units, _sum_of_products(units, slope, dim - 1), value=-1).mul_(vectors.scaled)


def through_softmax(part: Tensor, probabilities: Tensor) -> Tensor:
    """``A - P * A.sum(1)`` in place, for ``A = P * d loss / d P``: the derivative by ``log P``'s logits, ``(B, C)``."""
    return part.addcmul_(probabilities, part.sum(1, keepdim=True), value=-1)


def _log_softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, of logits of more than one block in their place."""
    along = logits.dim() - 2
    blocks = blocks_of(logits, along)
    if len(blocks) == 1:
        return F.log_softmax(logits, -1)
    for rows in blocks:
        block = logits.narrow(along, rows.start, rows.stop - rows.start)
        block.copy_(F.log_softmax(block, -1))
    return logits


def _sum_of_products(left: Tensor, right: Tensor, dim: int) -> Tensor:
    """``(left * right).sum(dim, keepdim=True)``; the products are formed for a few rows at a time."""
    along = left.dim() - 2
    blocks = blocks_of(left, along)
    if len(blocks) == 1:
        return (left * right).sum(dim, keepdim=True)
    parts = []
    for rows in blocks:
        place = along, rows.start, rows.stop - rows.start
        parts.append((left.narrow(*place) * right.narrow(*place)).sum(dim, keepdim=True))
    return torch.cat(parts, dim=along) if dim == left.dim() - 1 else torch.stack(parts).sum(0)
