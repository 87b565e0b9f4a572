"""The type of ``group=``, even if PyTorch was built without ``torch.distributed``, and the lookup of a group by name."""

from typing import TYPE_CHECKING, Any

import torch.distributed

if TYPE_CHECKING or torch.distributed.is_available():
    from torch.distributed import ProcessGroup
else:

    class ProcessGroup:
        """Placeholder for the missing type; such a PyTorch has no process groups."""


def group_of(name: str) -> ProcessGroup:
    """The group with this ``group_name``: an operator can take a group only by name."""
    groups: Any = torch.distributed.distributed_c10d
    group: ProcessGroup = groups._resolve_process_group(name)
    return group


__all__ = ["ProcessGroup", "group_of"]
