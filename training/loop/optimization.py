"""Optimizer, gradient clipping, learning-rate schedule and moving average of the weights.

cosine: lr(s) = learning_rate / 2 (1 + cos(pi (s - w) / (S - w)));   step: lr(s) = learning_rate / 10^(milestones passed)

``s`` of ``S`` steps are done; during the ``w`` warm-up steps lr(s) = learning_rate (s + 1) / w.
"""

import bisect
import copy
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.config import Config, Recipe
from training.methods import Stage

NORMS = (nn.LayerNorm, nn.RMSNorm)
"""Norms whose parameters may have more than one dimension."""


def make_optimizer(module: nn.Module, config: Config, stage: Stage | None = None) -> Optimizer:
    """The optimizer for the parameters of ``module`` that require gradients: SGD, with Nesterov momentum if momentum is not
    0, or AdamW. A method's first stage always uses SGD, for which its learning rate was published."""
    weight_decay = config.weight_decay
    if stage is None and config.optimizer == "adamw":
        return AdamW(parameter_groups(module, config, weight_decay), lr=config.learning_rate)
    if config.optimizer == "adamw":
        # AdamW's weight decay is scaled differently from SGD's.
        weight_decay = Recipe.weight_decay
    rate = config.learning_rate if stage is None else stage.learning_rate
    return SGD(
        parameter_groups(module, config, weight_decay), lr=rate, momentum=config.momentum, nesterov=config.momentum > 0
    )  # fmt: skip


def parameter_groups(module: nn.Module, config: Config, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters that require gradients, in one group, or with norms and biases in a second one without weight decay."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if config.decay_norms_and_biases:
        return [{"params": trained, "weight_decay": weight_decay}]
    spared = {
        id(parameter)
        for layer in module.modules()
        for name, parameter in layer.named_parameters(recurse=False)
        if isinstance(layer, NORMS) or parameter.ndim < 2 or name.endswith("bias")
    }
    decayed, others = ([each for each in trained if (id(each) in spared) == group] for group in (False, True))
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def clip(optimizer: Optimizer, scaler: torch.amp.GradScaler, largest: float | None) -> None:
    """Scales the gradient of a whole step down to the norm ``largest`` if it exceeds it."""
    if largest is None:
        return
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_([each for group in optimizer.param_groups for each in group["params"]], largest)


def make_schedule(optimizer: Optimizer, config: Config, steps: int, stage: Stage | None) -> LambdaLR:
    """The schedule for ``steps`` steps per epoch, or that of a method's first stage; it advances with the optimizer.

    Raises:
        ValueError: the warm-up has at least as many steps as the whole training.
    """
    if stage is not None:
        return LambdaLR(optimizer, lambda done: step_factor(done, [steps * epoch for epoch in stage.milestones]))
    if config.warmup_steps >= config.epochs * steps:
        raise ValueError(
            f"warmup_steps must be in [0, steps of the training), got {config.warmup_steps} of {config.epochs * steps}"
        )
    return LambdaLR(optimizer, lambda done: schedule_factor(done, config, steps))


def schedule_factor(done: int, config: Config, steps: int) -> float:
    """The factor of the learning rate after ``done`` steps, with ``steps`` steps per epoch."""
    warmup = config.warmup_steps or config.warmup_epochs * steps
    if done < warmup:
        return (done + 1) / warmup
    if config.schedule == "step":
        return step_factor(done, [steps * epoch for epoch in config.milestones])
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (config.epochs * steps - warmup)))


def step_factor(done: int, milestones: list[int]) -> float:
    """A factor of 1/10 for every milestone (in steps) that has passed."""
    return 0.1 ** bisect.bisect_right(milestones, done)


class MovingAverage(nn.Module):
    """An exponential moving average of a model's weights and statistics, in ``module``.

    After ``n`` updates the decay is min(decay, (1 + n) / (10 + n)): in a short run, or at the beginning of a long one, the
    average covers a part of the steps, and the initial weights soon lose their influence.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        # The number of updates is kept on the host, so that nothing waits for the device.
        self.module, self.decay, self.updates = copy.deepcopy(model).requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Updates the average with the current weights and statistics of ``model``."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        get_ema_multi_avg_fn(decay)([mine for mine, _ in averaged], [its for _, its in averaged], None)
        for mine, its in pairs:
            if not mine.is_floating_point():
                mine.copy_(its)
        self.updates += 1

    def get_extra_state(self) -> dict[str, int]:
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.updates = state["updates"]


def make_average(model: nn.Module, decay: float) -> MovingAverage | None:
    """A moving average of ``model``, or None for ``decay`` 0."""
    return MovingAverage(model, decay) if decay else None


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in itertools.chain(model.parameters(), model.buffers())]


def make_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """A gradient scaler that keeps small float16 gradients from vanishing; disabled in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
