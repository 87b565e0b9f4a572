"""A data set in memory: three splits, and how a training batch is augmented."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


class Split(NamedTuple):
    """Images ``(N, channels, height, width)`` float32, normalized, and labels ``(N,)`` int64."""

    images: Tensor
    labels: Tensor

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator["Split"]:
        """Batches in order, or with a generator in random order, then without the smaller remainder."""
        count = len(self.labels)
        if generator is None:
            for start in range(0, count, size):
                yield Split(self.images[start : start + size], self.labels[start : start + size])
            return
        for index in torch.randperm(count, generator=generator).split(size):
            if len(index) == size or count < size:
                yield Split(self.images[index], self.labels[index])


class Splits(NamedTuple):
    """Training split with its augmentation, validation split for choosing, test split for reporting."""

    train: Split
    validation: Split
    test: Split
    classes: int
    augment: Augmentation


def shift_each(images: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Moves each image ``(N, channels, height, width)`` by up to ``largest`` pixels each way; what comes in is 0."""
    count, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (largest,) * 4)
    offsets = torch.randint(2 * largest + 1, (2, count, 1), generator=generator)
    rows, columns = torch.arange(height) + offsets[0], torch.arange(width) + offsets[1]
    sample = torch.arange(count)[:, None, None, None]
    channel = torch.arange(channels)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
