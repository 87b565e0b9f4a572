"""A phase of a run, which is the student's training or a method's first stage before it: its module and its optimizer."""

import contextlib
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.config import Config
from training.loop.distributed import Processes
from training.loop.learner import Learner
from training.loop.optimization import make_optimizer, make_schedule
from training.methods import Stage


@dataclass
class Phase:
    """The objects that a step updates; ``stage`` is None in the student's training."""

    stage: Stage | None
    epochs: int
    module: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR

    @property
    def name(self) -> str:
        return "main" if self.stage is None else "first"

    def backward_of_part(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """The context of a micro-batch's backward pass: only the last one of a step all-reduces the gradient."""
        if isinstance(self.module, DistributedDataParallel) and not last:
            return self.module.no_sync()
        return contextlib.nullcontext()


def begin_phase(
    stage: Stage | None, learner: Learner, config: Config, steps: int, processes: Processes, device: torch.device
) -> Phase:
    """A new phase with ``steps`` steps per epoch; the parameters of the other phase are frozen."""
    before = {id(parameter) for parameter in learner.method.first_stage_parameters()}
    for parameter in learner.parameters():
        parameter.requires_grad_((id(parameter) in before) == (stage is not None))
    optimizer = make_optimizer(learner, config, stage)
    schedule = make_schedule(optimizer, config, steps, stage)
    epochs = config.epochs if stage is None else stage.epochs
    return Phase(stage, epochs, _over_processes(learner, processes, device), optimizer, schedule)


def _over_processes(learner: Learner, processes: Processes, device: torch.device) -> nn.Module:
    if processes.count == 1:
        return learner
    module = DistributedDataParallel(learner, device_ids=[device] if device.type == "cuda" else None)
    # Each process keeps its own batch norm statistics, averaged before they are used; memory banks agree already. The
    # constructor argument for this would exclude them from the first broadcast, or does not exist before PyTorch 2.13.
    module.broadcast_buffers = False
    return module
