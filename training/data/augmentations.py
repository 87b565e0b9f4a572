"""Random shifts and flips of images in memory, each by the random numbers of its own sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.splits import Draws
from training.data.transfer import transfer


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
        return shift_each(images, draws[0], self.largest, draws[1] if self.flip else None)


def draw_offsets(count: int, largest: int, generator: torch.Generator) -> Tensor:
    """Random offsets ``(count, 2)`` for ``shift_each``."""
    return torch.randint(2 * largest + 1, (2, count), generator=generator).T


def shift_each(images: Tensor, offsets: Tensor, largest: int, flipped: Tensor | None = None) -> Tensor:
    """Moves each image ``(B, channels, height, width)`` by up to ``largest`` pixels each way; what comes in is 0.

    Args:
        offsets: ``(B, 2)`` int64 from 0 to ``2 * largest``, vertical and horizontal; ``largest`` moves nothing.
        flipped: ``(B,)`` bool, the images whose left and right are exchanged before they are moved.
    """
    count, channels, height, width = images.shape
    device, padded_width = images.device, width + 2 * largest
    offsets = transfer(offsets, device)
    rows = torch.arange(height, device=device) + offsets[:, :1]
    columns = torch.arange(width, device=device) + offsets[:, 1:]
    if flipped is not None:
        columns = torch.where(transfer(flipped, device)[:, None], padded_width - 1 - columns, columns)
    places = (rows[:, :, None] * padded_width + columns[:, None, :]).view(count, 1, height * width)
    padded = torch.nn.functional.pad(images, (largest,) * 4).flatten(2)
    return padded.gather(2, places.expand(-1, channels, -1)).view(images.shape)


def rectangles(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which pixels of images of ``height`` and ``width`` are within their own rectangle, ``(B, 1, height, width)`` bool.

    Args:
        boxes: ``(B, 4)`` int64: first row, first column, rows, columns.
    """
    top, left, rows, columns = (side[:, None, None, None] for side in boxes.unbind(dim=1))
    row = torch.arange(height, device=boxes.device)[:, None]
    column = torch.arange(width, device=boxes.device)
    return (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
