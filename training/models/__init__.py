"""The models, by name: each takes the number of image channels and of classes."""

from collections.abc import Callable
from functools import partial

from torch import nn

from training.models.cnn import SmallImageNetwork
from training.models.resnet import CifarResNet

MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "cnn_small": partial(SmallImageNetwork, width=8),
    "cnn_large": partial(SmallImageNetwork, width=32),
    "resnet20": partial(CifarResNet, depth=20),
    "resnet32": partial(CifarResNet, depth=32),
    "resnet56": partial(CifarResNet, depth=56),
    "resnet110": partial(CifarResNet, depth=110),
}

__all__ = ["MODELS"]
