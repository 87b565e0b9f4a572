"""Rows of all processes that train together."""

import torch.distributed as dist
from torch import Tensor

from bickd_kernels.processes.agreement import agree
from bickd_kernels.processes.exchange import Ranks, gather_rows


def rows_of_all(*tensors: Tensor) -> list[Tensor]:
    """All-gathers the rows of tensors ``(n, ...)``, by rank; ``n`` may differ. A single process gets its own rows.

    No gradient flows through it.
    """
    own = [tensor.detach() for tensor in tensors]
    if not dist.is_initialized():
        return own
    group = dist.group.WORLD
    assert group is not None
    return gather_rows(Ranks(group, dist.get_rank(), agree(group, rows=len(own[0]), call={})), *own)
