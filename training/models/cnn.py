"""A plain convolutional network for small images: three stages of convolution, batch norm, ReLU and pooling."""

import itertools

from torch import Tensor, nn


class SmallImageNetwork(nn.Module):
    """Widths ``width``, ``2 width``, ``4 width``; logits ``(N, classes)`` of images ``(N, channels, height, width)``."""

    def __init__(self, channels: int, classes: int, *, width: int) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 4 * width)
        stages = [self._stage(before, after) for before, after in itertools.pairwise(widths)]
        # The layout of the two digits matters, so pooling keeps a 2 x 4 grid instead of averaging it away.
        self.features = nn.Sequential(*stages, nn.AdaptiveAvgPool2d((2, 4)), nn.Flatten())
        self.classifier = nn.Linear(4 * width * 8, classes)

    @staticmethod
    def _stage(before: int, after: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))
