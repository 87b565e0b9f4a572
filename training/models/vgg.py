"""VGG of Simonyan, Zisserman (arXiv 1409.1556) with batch norm and one linear layer, as for 32 x 32 images.

The networks of Tian et al., Contrastive Representation Distillation (arXiv 1910.10699): five stages of 3 x 3 convolutions,
and 512 features, the mean over the last stage.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from training.models.initialization import initialize_convolutions

LARGE = 64


class CifarVGG(nn.Module):
    """Logits ``(N, classes)`` of images ``(N, channels, height, width)``.

    Args:
        channels: number of image channels.
        classes: number of logits.
        stages: widths of the convolutions in the five stages.
    """

    def __init__(self, channels: int, classes: int, *, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        built: list[nn.Module] = []
        before = channels
        for widths in stages:
            built.append(_stage(before, widths))
            before = widths[-1]
        self.stages = nn.ModuleList(built)
        # Rounding up keeps one pixel of small images, and has no effect on sides that are powers of two.
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.average = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(before, classes)
        initialize_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        # The fourth pooling is for images of 64 pixels and more: at 32 it would reduce the last stage to 2 x 2.
        pooled = 4 if images.shape[-2] >= LARGE else 3
        hidden = images
        for index, stage in enumerate(self.stages):
            hidden = stage(hidden)
            if index < pooled:
                hidden = self.pool(hidden)
        return self.classifier(self.average(hidden))

    def published_names(self) -> dict[str, str]:
        """The names that the layers have in published checkpoints, each with the name here."""
        names = {f"block{number}": f"stages.{number}" for number in range(len(self.stages))}
        return {**names, "fc": "classifier", "linear": "classifier"}


def _stage(before: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for after in widths:
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        before = after
    return nn.Sequential(*layers)
