"""What moves between the processes of a group. Each function is one collective operation, which all ranks call.

Sizes are given for k ranks that hold b of B rows each.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from bickd_kernels.processes.slices import Slices


def sum_over_ranks(slices: Slices, *tensors: Tensor) -> list[Tensor]:
    """The sum of each tensor over the ranks; the tensors, of one dtype, go as one message. Sent: ``2 (k-1)/k`` of them."""
    message = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(message, dist.ReduceOp.SUM, group=slices.group)
    parts = message.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def largest_over_ranks(slices: Slices, tensor: Tensor) -> Tensor:
    """The elementwise maximum over the ranks, in place. Sent: ``2 (k-1)/k`` of it."""
    dist.all_reduce(tensor, dist.ReduceOp.MAX, group=slices.group)
    return tensor


def gather_rows(slices: Slices, *tensors: Tensor) -> list[Tensor]:
    """The rows of all ranks in the order of the ranks: of tensors ``(b, ...)`` those ``(B, ...)``, in one message.

    Sent: ``k-1`` times the tensors. A rank of fewer rows than the largest fills its message up.
    """
    sizes = [_padded_bytes(tensor, max(slices.rows)) for tensor in tensors]
    message = torch.zeros(sum(sizes), dtype=torch.uint8, device=tensors[0].device)
    for tensor, part in zip(tensors, message.split(sizes), strict=True):
        content = tensor.contiguous().view(-1).view(torch.uint8)
        part[: len(content)] = content
    gathered = message.new_empty((slices.ranks, len(message)))
    dist.all_gather(list(gathered), message, group=slices.group)
    parts = gathered.split(sizes, 1)
    return [_rows_of_all(slices, part, tensor) for tensor, part in zip(tensors, parts, strict=True)]


def to_class_slices(slices: Slices, matrix: Tensor) -> Tensor:
    """From all classes of this rank's samples ``(b, C)`` to all samples of this rank's classes ``(B, C/k)``.

    Sent: ``(k-1)/k`` of the matrix.
    """
    shares, own = slices.shares(matrix.shape[1]), slices.rows[slices.rank]
    share = shares[slices.rank]
    message = torch.cat([part.reshape(-1) for part in matrix.split(shares, 1)])
    received = matrix.new_empty(slices.total * share)
    _all_to_all(slices, received, [rows * share for rows in slices.rows], message, [own * share for share in shares])
    return received.view(slices.total, share)


def to_row_slices(slices: Slices, matrix: Tensor, classes: int) -> Tensor:
    """The way back of ``to_class_slices``: ``(B, C/k)`` to ``(b, C)`` for ``C = classes``."""
    shares, own = slices.shares(classes), slices.rows[slices.rank]
    share = shares[slices.rank]
    received = matrix.new_empty(own * classes)
    splits = [own * share for share in shares]
    _all_to_all(slices, received, splits, matrix.reshape(-1), [rows * share for rows in slices.rows])
    parts = received.split(splits)
    return torch.cat([part.view(own, share) for part, share in zip(parts, shares, strict=True)], 1)


def _padded_bytes(tensor: Tensor, rows: int) -> int:
    """The bytes of so many rows, rounded up so that what follows lies where any dtype may."""
    return -(-rows * math.prod(tensor.shape[1:]) * tensor.element_size() // 8) * 8


def _rows_of_all(slices: Slices, gathered: Tensor, like: Tensor) -> Tensor:
    row_bytes = math.prod(like.shape[1:]) * like.element_size()
    return torch.cat(
        [
            part[: rows * row_bytes].view(like.dtype).view(rows, *like.shape[1:])
            for part, rows in zip(gathered, slices.rows, strict=True)
        ]
    )


def _all_to_all(
    slices: Slices, received: Tensor, received_splits: list[int], message: Tensor, message_splits: list[int]
) -> None:
    dist.all_to_all_single(received, message, received_splits, message_splits, group=slices.group)
