"""Random shifts and flips of images in memory, each by the random numbers of its own sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.splits import Draws


@dataclass(frozen=True)
class ShiftAndFlip:
    """A random crop of the image with ``largest`` pixels of zeros around it, and a mirror image of every second one.

    Attributes:
        largest: pixels that the image is shifted by at most, each way.
        flip: whether left and right are exchanged with probability 1/2.
    """

    largest: int
    flip: bool

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Offsets ``(count, 2)``, and with ``flip`` booleans ``(count,)``."""
        offsets = draw_offsets(count, self.largest, generator)
        return (offsets, torch.rand(count, generator=generator) < 0.5) if self.flip else (offsets,)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augmented images, of the shape of ``images`` ``(B, channels, height, width)``."""
        if self.flip:
            images = torch.where(draws[1][:, None, None, None], images.flip(3), images)
        return shift_each(images, draws[0], self.largest)


def draw_offsets(count: int, largest: int, generator: torch.Generator) -> Tensor:
    """Random offsets ``(count, 2)`` for ``shift_each``."""
    return torch.randint(2 * largest + 1, (2, count), generator=generator).T


def shift_each(images: Tensor, offsets: Tensor, largest: int) -> Tensor:
    """Moves each image ``(B, channels, height, width)`` by up to ``largest`` pixels each way; what comes in is 0.

    Args:
        offsets: ``(B, 2)`` int64 from 0 to ``2 * largest``, vertical and horizontal; ``largest`` moves nothing.
    """
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, (largest,) * 4)
    rows, columns = torch.arange(height) + offsets[:, :1], torch.arange(width) + offsets[:, 1:]
    sample = torch.arange(len(images))[:, None, None, None]
    channel = torch.arange(images.shape[1])[:, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
