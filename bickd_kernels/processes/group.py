"""The type of ``group=``, also where PyTorch was built without distributed."""

from typing import TYPE_CHECKING

import torch.distributed

if TYPE_CHECKING or torch.distributed.is_available():
    from torch.distributed import ProcessGroup
else:

    class ProcessGroup:
        """Stands in for the type that such a PyTorch lacks: there is no process group then."""


__all__ = ["ProcessGroup"]
