"""The residual networks for 32 x 32 images of He et al., Deep Residual Learning (arXiv 1512.03385), section 4.2.

The distillation literature since Tian et al., Contrastive Representation Distillation (arXiv 1910.10699), has a 1 x 1
convolution where a shortcut changes shape, and calls networks with four times the widths ``resnet8x4`` and ``resnet32x4``.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from training.models.initialization import initialize_convolutions


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, with a 1 x 1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first_norm(self.first(inputs)))
        return F.relu(self.second_norm(self.second(hidden)) + self.shortcut(inputs))


class CifarResNet(nn.Module):
    """Three stages of ``(depth - 2) / 6`` blocks; logits ``(N, classes)`` of images ``(N, channels, height, width)``.

    Args:
        channels: number of image channels.
        classes: number of logits.
        depth: ``6 n + 2`` with ``n >= 1``.
        stem: width of the first convolution.
        stages: widths of the three stages.

    Raises:
        ValueError: no network has this depth.
    """

    def __init__(
        self, channels: int, classes: int, *, depth: int, stem: int = 16, stages: tuple[int, int, int] = (16, 32, 64)
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2 with n >= 1, got {depth}")
        blocks: list[nn.Module] = []
        before = stem
        for after, stride in zip(stages, (1, 2, 2), strict=True):
            for index in range((depth - 2) // 6):
                blocks.append(Block(before, after, stride if index == 0 else 1))
                before = after
        first = (nn.Conv2d(channels, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True))
        self.features = nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(before, classes)
        initialize_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))

    def published_names(self) -> dict[str, str]:
        """The names that the layers have in published checkpoints, each with the name here."""
        blocks = [name for name, module in self.features.named_children() if isinstance(module, Block)]
        parts = {
            "conv1": "first", "bn1": "first_norm", "conv2": "second", "bn2": "second_norm", "downsample": "shortcut",
            "shortcut": "shortcut",
        }  # fmt: skip
        names = {"conv1": "features.0", "bn1": "features.1", "fc": "classifier", "linear": "classifier"}
        for stage, index, place in by_stage(blocks):
            names |= {f"layer{stage}.{index}.{there}": f"features.{place}.{here}" for there, here in parts.items()}
        return names


def by_stage(blocks: list[str]) -> list[tuple[int, int, str]]:
    """The names of the blocks of three equal stages, each with its stage, counted from 1, and its index in it, from 0."""
    each = len(blocks) // 3
    return [(1 + number // each, number % each, name) for number, name in enumerate(blocks)]
