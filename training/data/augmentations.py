"""Random crops, flips and erasing for images in memory: batched, with separate random numbers for each sample."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.splits import Augmentation, Draws, as_float, channel_values
from training.data.transfer import transfer

ATTEMPTS = 10
"""Number of random rectangles to try; the first that fits into the image is used."""


@dataclass(frozen=True)
class ShiftAndFlip:
    """A random crop of the image zero-padded by ``largest`` pixels, and a random horizontal flip.

    Attributes:
        largest: maximum shift in pixels in each direction.
        flip: whether to flip horizontally with probability 1/2.
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


@dataclass(frozen=True)
class ResizedCropAndFlip:
    """A random rectangle of the image, resized to the image size, and a horizontal flip with probability 1/2.

    Attributes:
        height: of the images.
        width: of the images.
        scale: the smallest and the largest fraction of the image area.
        ratio: the smallest and the largest width over height.
    """

    height: int
    width: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Rectangles ``(count, 4)`` as in ``rectangles``, and booleans ``(count,)``."""
        boxes, fits = draw_rectangles(count, self.height, self.width, self.scale, self.ratio, generator)
        boxes = torch.where(fits[:, None], boxes, self._central())
        return boxes, torch.rand(count, generator=generator) < 0.5

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augmented images, of the shape and dtype of ``images`` ``(B, channels, height, width)``."""
        boxes, flipped = (transfer(numbers, images.device) for numbers in draws)
        top, left, rows, columns = boxes.float()[:, :, None].unbind(dim=1)
        y = _scaled(self.height, images.device, rows) + top
        x = _scaled(self.width, images.device, columns) + left
        x = torch.where(flipped[:, None], x.flip(1), x)
        # For bilinear interpolation, which only scales up here; no pixel outside the rectangle contributes.
        places = torch.broadcast_tensors((2 * x / self.width - 1)[:, None, :], (2 * y / self.height - 1)[:, :, None])
        cropped = F.grid_sample(images.float(), torch.stack(places, dim=3), mode="bilinear", align_corners=False)
        return cropped.round().to(torch.uint8) if images.dtype == torch.uint8 else cropped

    def _central(self) -> Tensor:
        """The largest centred rectangle with a permitted aspect ratio, used if no attempt fits."""
        rows, columns = self.height, self.width
        if columns / rows < self.ratio[0]:
            rows = round(columns / self.ratio[0])
        elif columns / rows > self.ratio[1]:
            columns = round(rows * self.ratio[1])
        return torch.tensor([(self.height - rows) // 2, (self.width - columns) // 2, rows, columns])


@dataclass(frozen=True)
class RandomErasing:
    """Fills a random rectangle with the colour that normalization maps to 0 (arXiv 1708.04896).

    Attributes:
        probability: probability of erasing a rectangle of an image.
        height: of the images.
        width: of the images.
        colour: one value per channel, in [0, 1].
        scale: the smallest and the largest fraction of the image area.
        ratio: the smallest and the largest height over width.
    """

    probability: float
    height: int
    width: int
    colour: tuple[float, ...]
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Rectangles ``(count, 4)`` as in ``rectangles``, with 0 rows where nothing is erased."""
        shape = (1 / self.ratio[1], 1 / self.ratio[0])
        boxes, fits = draw_rectangles(count, self.height, self.width, self.scale, shape, generator)
        erased = fits & (torch.rand(count, generator=generator) < self.probability)
        return (boxes * erased[:, None],)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augmented images float32, of the shape of ``images`` ``(B, channels, height, width)``."""
        erased = rectangles(transfer(draws[0], images.device), self.height, self.width)
        return torch.where(erased, channel_values(self.colour, images.device), as_float(images))


@dataclass(frozen=True)
class Sequence:
    """Applies augmentations in sequence."""

    steps: tuple[Augmentation, ...]

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """The random numbers of each step."""
        return tuple(step.draw(count, generator) for step in self.steps)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augmented images, of the shape of ``images`` ``(B, channels, height, width)``."""
        for step, own in zip(self.steps, draws, strict=True):
            images = step.apply(images, own)
        return images


def draw_offsets(count: int, largest: int, generator: torch.Generator) -> Tensor:
    """Random offsets ``(count, 2)`` for ``shift_each``."""
    return torch.randint(2 * largest + 1, (2, count), generator=generator).T


def shift_each(images: Tensor, offsets: Tensor, largest: int, flipped: Tensor | None = None) -> Tensor:
    """Moves each image ``(B, channels, height, width)`` by up to ``largest`` pixels in each direction, filling with 0.

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
    padded = F.pad(images, (largest,) * 4).flatten(2)
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


def draw_rectangles(
    count: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random rectangles ``(count, 4)`` as in ``rectangles``, and which of them ``(count,)`` fit into their image.

    The area is uniform in the range ``scale``, as a fraction of the image area; the logarithm of width over height is
    uniform between those of ``ratio``.
    """
    area, shape, y, x = torch.rand(4, count, ATTEMPTS, generator=generator)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    shape = (math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * shape).exp()
    rows, columns = (area / shape).sqrt().round(), (area * shape).sqrt().round()
    fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
    boxes = torch.stack(((y * (height - rows + 1)).floor(), (x * (width - columns + 1)).floor(), rows, columns), dim=2)
    # The first attempt that fits; argmax of the booleans would not guarantee the first.
    first = torch.where(fits, torch.arange(ATTEMPTS, 0, -1), 0).argmax(dim=1)
    return boxes[torch.arange(count), first].long(), fits.any(dim=1)


def _scaled(size: int, device: torch.device, sides: Tensor) -> Tensor:
    """The positions ``(B, size)`` of ``size`` pixels in rectangles of ``sides`` ``(B, 1)`` pixels, relative to the first
    edge and at least half a pixel from either edge."""
    places = (torch.arange(size, device=device) + 0.5) * sides / size
    return torch.minimum(places.clamp(min=0.5), sides - 0.5)
