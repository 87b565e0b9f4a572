"""Optimizer, learning rate schedule and moving average of the weights.

cosine: lr(s) = learning_rate / 2 (1 + cos(pi (s - w) / (S - w)));   step: lr(s) = learning_rate / 10^(milestones behind)

``s`` steps are done of ``S``, ``w`` are of the warm-up, in which lr(s) = learning_rate (s + 1) / w.
"""

import bisect
import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.config import Config
from training.methods import Stage


def make_optimizer(parameters: Iterable[nn.Parameter], config: Config, learning_rate: float) -> SGD:
    """SGD, with Nesterov's momentum where there is any."""
    return SGD(
        parameters, lr=learning_rate, momentum=config.momentum, weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )  # fmt: skip


def make_schedule(optimizer: SGD, config: Config, steps: int, stage: Stage | None) -> LambdaLR:
    """The schedule of a training of ``steps`` an epoch, or that of a method's first stage; it steps with the optimizer."""
    if stage is not None:
        return LambdaLR(optimizer, lambda done: step_factor(done, [steps * epoch for epoch in stage.milestones]))
    return LambdaLR(optimizer, lambda done: schedule_factor(done, config, steps))


def schedule_factor(done: int, config: Config, steps: int) -> float:
    """What the learning rate is multiplied by after ``done`` steps, ``steps`` being those of an epoch."""
    warmup = config.warmup_epochs * steps
    if done < warmup:
        return (done + 1) / warmup
    if config.schedule == "step":
        return step_factor(done, [steps * epoch for epoch in config.milestones])
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (config.epochs * steps - warmup)))


def step_factor(done: int, milestones: list[int]) -> float:
    """A tenth for every milestone, in steps, that is behind."""
    return 0.1 ** bisect.bisect_right(milestones, done)


def make_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of weights and statistics, or None for ``decay`` 0."""
    if decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def make_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Keeps small gradients of float16 from vanishing; does nothing in another precision."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
