"""Random crops, flips and erased rectangles of images in memory, a whole batch at once, each image by the random numbers of
its own sample."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.splits import Augmentation, Draws, as_float, channel_values
from training.data.transfer import transfer

ATTEMPTS = 10
"""Random rectangles, of which the first that fits into the image is taken."""


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


@dataclass(frozen=True)
class ResizedCropAndFlip:
    """A random rectangle of the image scaled to the size of the image, and a mirror image of every second one.

    Attributes:
        height: of the images.
        width: of the images.
        scale: the smallest and the largest part of the image's area.
        ratio: the smallest and the largest width over height.
    """

    height: int
    width: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Rectangles ``(count, 4)`` as of ``rectangles``, and booleans ``(count,)``."""
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
        # Of bilinear interpolation, which scales up alone here; no pixel outside of the rectangle takes part.
        places = torch.broadcast_tensors((2 * x / self.width - 1)[:, None, :], (2 * y / self.height - 1)[:, :, None])
        cropped = F.grid_sample(images.float(), torch.stack(places, dim=3), mode="bilinear", align_corners=False)
        return cropped.round().to(torch.uint8) if images.dtype == torch.uint8 else cropped

    def _central(self) -> Tensor:
        """The largest rectangle in the centre of a permitted shape, where no attempt fits."""
        rows, columns = self.height, self.width
        if columns / rows < self.ratio[0]:
            rows = round(columns / self.ratio[0])
        elif columns / rows > self.ratio[1]:
            columns = round(rows * self.ratio[1])
        return torch.tensor([(self.height - rows) // 2, (self.width - columns) // 2, rows, columns])


@dataclass(frozen=True)
class RandomErasing:
    """A random rectangle becomes the colour that normalization makes 0 (arXiv 1708.04896).

    Attributes:
        probability: that an image loses a rectangle.
        height: of the images.
        width: of the images.
        colour: a number a channel, in [0, 1].
        scale: the smallest and the largest part of the image's area.
        ratio: the smallest and the largest height over width.
    """

    probability: float
    height: int
    width: int
    colour: tuple[float, ...]
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Rectangles ``(count, 4)`` as of ``rectangles``, with 0 rows where nothing is erased."""
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
    """Augmentations one after the other."""

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
    """Random rectangles ``(count, 4)`` as of ``rectangles``, and which of them ``(count,)`` fit into their image.

    The area is uniform between the parts ``scale`` of the image's, the logarithm of width over height between those of
    ``ratio``.
    """
    area, shape, y, x = torch.rand(4, count, ATTEMPTS, generator=generator)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    shape = (math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * shape).exp()
    rows, columns = (area / shape).sqrt().round(), (area * shape).sqrt().round()
    fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
    boxes = torch.stack(((y * (height - rows + 1)).floor(), (x * (width - columns + 1)).floor(), rows, columns), dim=2)
    # The first attempt that fits: the largest of the booleans, whose first place argmax does not promise.
    first = torch.where(fits, torch.arange(ATTEMPTS, 0, -1), 0).argmax(dim=1)
    return boxes[torch.arange(count), first].long(), fits.any(dim=1)


def _scaled(size: int, device: torch.device, sides: Tensor) -> Tensor:
    """Where ``size`` pixels are in rectangles of ``sides`` ``(B, 1)`` pixels, ``(B, size)``, from their first edge on and no
    nearer to an edge than the middle of a pixel."""
    places = (torch.arange(size, device=device) + 0.5) * sides / size
    return torch.minimum(places.clamp(min=0.5), sides - 0.5)
