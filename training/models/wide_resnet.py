"""Zagoruyko, Komodakis, Wide Residual Networks (arXiv 1605.07146), for 32 x 32 images and without dropout."""

import torch.nn.functional as F
from torch import Tensor, nn

from training.models.initialization import initialize_convolutions
from training.models.resnet import by_stage


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU ahead of each of two 3 x 3 convolutions; a 1 x 1 convolution where the width changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(before)
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = None
        if before != after or stride != 1:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        activated = F.relu(self.first_norm(inputs))
        hidden = self.second(F.relu(self.second_norm(self.first(activated))))
        # An identity shortcut takes the raw input, a convolution the activated one.
        return hidden + (inputs if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """Three stages of ``(depth - 4) / 6`` blocks, 16, 32 and 64 times ``widening`` wide.

    Logits ``(N, classes)`` of images ``(N, channels, height, width)``.

    Args:
        channels: number of image channels.
        classes: number of logits.
        depth: ``6 n + 4`` with ``n >= 1``.
        widening: factor of the stages' widths.

    Raises:
        ValueError: no network has this depth.
    """

    def __init__(self, channels: int, classes: int, *, depth: int, widening: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 with n >= 1, got {depth}")
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False)]
        before = 16
        for after, stride in ((16 * widening, 1), (32 * widening, 2), (64 * widening, 2)):
            for index in range((depth - 4) // 6):
                layers.append(PreActivationBlock(before, after, stride if index == 0 else 1))
                before = after
        last = (nn.BatchNorm2d(before), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.features = nn.Sequential(*layers, *last)
        self.classifier = nn.Linear(before, classes)
        initialize_convolutions(self)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))

    def published_names(self) -> dict[str, str]:
        """The names that the layers have in published checkpoints, each with the name here."""
        blocks = [name for name, module in self.features.named_children() if isinstance(module, PreActivationBlock)]
        parts = {
            "bn1": "first_norm", "conv1": "first", "bn2": "second_norm", "conv2": "second", "convShortcut": "shortcut",
            "shortcut": "shortcut",
        }  # fmt: skip
        last = f"features.{int(blocks[-1]) + 1}"
        names = {"conv1": "features.0", "bn1": last, "fc": "classifier", "linear": "classifier"}
        for stage, index, place in by_stage(blocks):
            names |= {f"block{stage}.layer.{index}.{there}": f"features.{place}.{here}" for there, here in parts.items()}
        return names
