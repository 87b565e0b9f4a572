"""The CIFAR networks as their papers define them, with the layer names that published checkpoints have."""

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        same = before == after and stride == 1
        self.downsample = (
            None if same else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(hidden + (x if self.downsample is None else self.downsample(x)))


class PublishedResNet(nn.Module):
    def __init__(self, blocks: int, widths: tuple[int, int, int, int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        for stage in (1, 2, 3):
            before, after = widths[stage - 1], widths[stage]
            layers = [ResidualBlock(before, after, 1 if stage == 1 else 2)]
            layers += [ResidualBlock(after, after, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.convShortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        hidden = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return hidden + (x if self.convShortcut is None else self.convShortcut(activated))


class WideGroup(nn.Module):
    def __init__(self, blocks: int, before: int, after: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(before, after, stride)
        self.layer = nn.Sequential(first, *[WideBlock(after, after, 1) for _ in range(blocks - 1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class PublishedWideResNet(nn.Module):
    def __init__(self, blocks: int, widening: int, classes: int) -> None:
        super().__init__()
        widths = (16, 16 * widening, 32 * widening, 64 * widening)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        for group in (1, 2, 3):
            self.add_module(f"block{group}", WideGroup(blocks, widths[group - 1], widths[group], 1 if group == 1 else 2))
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for group in (1, 2, 3):
            x = self.get_submodule(f"block{group}")(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class PublishedVGG(nn.Module):
    def __init__(self, depths: int, classes: int) -> None:
        super().__init__()
        before = 3
        for block, width in enumerate((64, 128, 256, 512, 512)):
            layers: list[nn.Module] = []
            for _ in range(depths):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            # The published networks apply the last ReLU outside the block.
            self.add_module(f"block{block}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in range(5):
            x = F.relu(self.get_submodule(f"block{block}")(x))
            if block < 3:
                x = F.max_pool2d(x, 2)
        return self.classifier(x.mean((2, 3)))


PUBLISHED = {
    "resnet20": lambda classes: PublishedResNet(3, (16, 16, 32, 64), classes),
    "resnet8x4": lambda classes: PublishedResNet(1, (32, 64, 128, 256), classes),
    "wrn_16_2": lambda classes: PublishedWideResNet(2, 2, classes),
    "wrn_40_1": lambda classes: PublishedWideResNet(6, 1, classes),
    "vgg8": lambda classes: PublishedVGG(1, classes),
    "vgg13": lambda classes: PublishedVGG(2, classes),
}
