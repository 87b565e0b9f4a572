"""Rows of all processes that train together."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """The rows ``(n, ...)`` of every process, by rank, in every process; ``n`` may differ. Alone, they are ``rows``.

    No gradient flows through it.
    """
    rows = rows.detach()
    if not dist.is_initialized():
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    lengths = [int(each) for each in counts]
    # all_gather takes equal shapes only.
    padding = [0, 0] * (rows.dim() - 1) + [0, max(lengths) - len(rows)]
    padded = F.pad(rows, padding).contiguous()
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
