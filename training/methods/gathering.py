"""Rows of all processes that train together."""

import torch.distributed as dist
from torch import Tensor

from bickd_kernels.processes.agreement import agree
from bickd_kernels.processes.exchange import Ranks, gather_rows


def rows_of_all(*tensors: Tensor) -> list[Tensor]:
    """Of tensors ``(n, ...)`` the rows of every process, by rank, in every process; ``n`` may differ. Alone, their own.

    No gradient flows through it.
    """
    own = [tensor.detach() for tensor in tensors]
    if not dist.is_initialized():
        return own
    group = dist.group.WORLD
    assert group is not None
    return gather_rows(Ranks(group, dist.get_rank(), agree(group, rows=len(own[0]), call={})), *own)
