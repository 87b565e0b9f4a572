"""The models by name: those of this suite, and the ImageNet models of torchvision and timm; without weights."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torchvision import models as torchvision_models

from training.models.cnn import SmallImageNetwork
from training.models.resnet import CifarResNet
from training.models.vgg import CifarVGG
from training.models.wide_resnet import WideResNet

TORCHVISION, TIMM = "torchvision:", "timm:"
MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "cnn_tiny": partial(SmallImageNetwork, width=4),
    "cnn_small": partial(SmallImageNetwork, width=8),
    "cnn_large": partial(SmallImageNetwork, width=32),
    "resnet8": partial(CifarResNet, depth=8),
    "resnet14": partial(CifarResNet, depth=14),
    "resnet20": partial(CifarResNet, depth=20),
    "resnet32": partial(CifarResNet, depth=32),
    "resnet56": partial(CifarResNet, depth=56),
    "resnet110": partial(CifarResNet, depth=110),
    "resnet8x4": partial(CifarResNet, depth=8, stem=32, stages=(64, 128, 256)),
    "resnet32x4": partial(CifarResNet, depth=32, stem=32, stages=(64, 128, 256)),
    "wrn_16_2": partial(WideResNet, depth=16, widening=2),
    "wrn_40_1": partial(WideResNet, depth=40, widening=1),
    "wrn_40_2": partial(WideResNet, depth=40, widening=2),
    "vgg8": partial(CifarVGG, stages=((64,), (128,), (256,), (512,), (512,))),
    "vgg13": partial(CifarVGG, stages=((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))),
}
"""This suite's models; each takes the number of image channels and of classes."""

TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    # They would return the logits of their auxiliary classifiers as well.
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def same_model(one: str, other: str) -> bool:
    """Whether two names mean the same model; torchvision models may be named with or without the prefix."""
    return _canonical(one) == _canonical(other)


def _canonical(name: str) -> str:
    return TORCHVISION + name if name not in MODELS and _in_torchvision(name) and not name.startswith(TORCHVISION) else name


def expects_own_normalization(name: str, digest: str) -> bool:
    """Whether the file with this SHA-256 holds torchvision weights that were trained with another image normalization than
    its other models; the model's ``transform_input`` compensates for it."""
    plain = name.removeprefix(TORCHVISION)
    if plain not in TORCHVISION_ARGUMENTS:
        return False
    published = torchvision_models.get_model_weights(plain)["IMAGENET1K_V1"].url
    return digest.startswith(published.rpartition("-")[2].removesuffix(".pth"))


def check_model(argument: str, name: str) -> None:
    """Refuses a name that ``make_model`` does not know, without building the model.

    Args:
        argument: what the user calls the name, for the message.
        name: name of a model.

    Raises:
        ValueError: there is no such model, or it is a timm model and timm is not installed.
    """
    if name in MODELS or _in_torchvision(name):
        return
    if name.startswith(TIMM):
        _check_timm(argument, name)
        return
    names = ", ".join(sorted(MODELS))
    raise ValueError(f"{argument} must be one of {names}, a model of torchvision.models or timm:NAME, got {name!r}")


def make_model(name: str, channels: int, classes: int) -> nn.Module:
    """An untrained model that returns logits ``(N, classes)`` of images ``(N, channels, height, width)``.

    Args:
        name: one of ``MODELS``, which take precedence over the same name in torchvision; ``torchvision:NAME`` or ``NAME`` of
            ``torchvision.models``; ``timm:NAME``.
        channels: number of image channels; 3 for torchvision.
        classes: number of logits.

    Raises:
        ValueError: there is no such model, it does not take these channels, or timm is not installed.
    """
    check_model("name", name)
    if name in MODELS:
        return MODELS[name](channels, classes)
    if name.startswith(TIMM):
        timm = importlib.import_module("timm")
        return timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=classes, in_chans=channels)
    if channels != 3:
        raise ValueError(f"channels must be 3 for {name} of torchvision, got {channels}")
    plain = name.removeprefix(TORCHVISION)
    arguments = TORCHVISION_ARGUMENTS.get(plain, {})
    return torchvision_models.get_model(plain, weights=None, num_classes=classes, **arguments)


def _in_torchvision(name: str) -> bool:
    return name.removeprefix(TORCHVISION) in torchvision_models.list_models(module=torchvision_models)


def _check_timm(argument: str, name: str) -> None:
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ValueError(f"{argument} must be installed: pip install timm, got {name!r} without it") from error
    if not timm.is_model(name.removeprefix(TIMM)):
        raise ValueError(f"{argument} must be a model of timm after timm:, got {name!r}")
