"""The type of ``group=``, also where PyTorch was built without distributed; and a group by its name."""

from typing import TYPE_CHECKING, Any

import torch.distributed

if TYPE_CHECKING or torch.distributed.is_available():
    from torch.distributed import ProcessGroup
else:

    class ProcessGroup:
        """Stands in for the type that such a PyTorch lacks: there is no process group then."""


def group_of(name: str) -> ProcessGroup:
    """The group of this ``group_name``, which is what an operator can be told of it."""
    groups: Any = torch.distributed.distributed_c10d
    group: ProcessGroup = groups._resolve_process_group(name)
    return group


__all__ = ["ProcessGroup", "group_of"]
