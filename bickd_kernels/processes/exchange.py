"""Tensor exchange between the ranks of a group. Each function is one collective operation that all ranks must call."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from bickd_kernels.processes.group import ProcessGroup

_last_messages: deque[tuple[Tensor, ...]] = deque(maxlen=8)


class Ranks(NamedTuple):
    """The ranks of a group; the global batch is the concatenation of their batches in rank order."""

    group: ProcessGroup
    rank: int
    rows: tuple[int, ...]
    """The number of samples of each rank; 0 is allowed."""

    @property
    def own(self) -> slice:
        """This rank's samples in the global batch."""
        first = sum(self.rows[: self.rank])
        return slice(first, first + self.rows[self.rank])


def sum_over_ranks(ranks: Ranks, *tensors: Tensor) -> list[Tensor]:
    """The sum of each tensor over the ranks; the tensors share a dtype and are sent as one message."""
    message = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(message, dist.ReduceOp.SUM, group=ranks.group)
    parts = message.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def largest_over_ranks(ranks: Ranks, tensor: Tensor) -> Tensor:
    """The elementwise maximum over the ranks, in place."""
    dist.all_reduce(tensor, dist.ReduceOp.MAX, group=ranks.group)
    return tensor


def gather_rows(ranks: Ranks, *tensors: Tensor) -> list[Tensor]:
    """All-gathers tensors ``(b, ...)`` into ``(B, ...)``, the rows of all ranks in rank order, with one message.

    A rank with fewer rows than the largest pads its message.
    """
    sizes = [_padded_bytes(tensor, max(ranks.rows)) for tensor in tensors]
    message = torch.zeros(sum(sizes), dtype=torch.uint8, device=tensors[0].device)
    for tensor, part in zip(tensors, message.split(sizes), strict=True):
        content = tensor.contiguous().view(-1).view(torch.uint8)
        part[: len(content)] = content
    gathered = message.new_empty((len(ranks.rows), len(message)))
    received = list(gathered)
    dist.all_gather(received, message, group=ranks.group)
    outlive_gloo(message, *received)
    parts = gathered.split(sizes, 1)
    return [_rows_of_all(ranks, part, tensor) for tensor, part in zip(tensors, parts, strict=True)]


def outlive_gloo(*tensors: Tensor) -> None:
    """Keeps references to the host tensors of the last few messages.

    A Gloo thread holds its last message. If Python has already dropped the tensors, PyTorch 2.8 deadlocks when the group is
    destroyed: the thread waits for Python, and Python for the thread.
    """
    if tensors[0].device.type == "cpu":
        _last_messages.append(tensors)


def _padded_bytes(tensor: Tensor, rows: int) -> int:
    """The bytes of ``rows`` rows, rounded up so that the next tensor is aligned for any dtype."""
    return -(-rows * math.prod(tensor.shape[1:]) * tensor.element_size() // 8) * 8


def _rows_of_all(ranks: Ranks, gathered: Tensor, like: Tensor) -> Tensor:
    row_bytes = math.prod(like.shape[1:]) * like.element_size()
    return torch.cat(
        [
            part[: rows * row_bytes].view(like.dtype).view(rows, *like.shape[1:])
            for part, rows in zip(gathered, ranks.rows, strict=True)
        ]
    )
