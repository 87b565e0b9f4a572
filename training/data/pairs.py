"""100 classes from 10: pairs of images of a 10-class set side by side, made hard enough that a student gains from a teacher.

The originals are split first, and the pairs of a split are drawn only from its own originals: no original of the test split
appears in training. A pair is placed on a canvas with a margin; each view shifts it, occludes a random patch and adds noise.
Validation and test images are disturbed once, when they are created.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.data.augmentations import draw_offsets, rectangles, shift_each
from training.data.identity import Identity, part_of_tensors
from training.data.splits import Draws, Normalization, Splits, TensorSplit, as_float, describe
from training.data.transfer import transfer


class Originals(NamedTuple):
    """Images ``(M, height, width)``, uint8 or float32 in [0, 1], their classes ``(M,)`` int64 from 0 to 9, and the classes'
    names."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]


class Members(NamedTuple):
    """Positions int64 of the originals of each split; ``validation`` is empty if nothing is held out."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class Disturbance:
    """A shift of each canvas, one occluded patch, then noise.

    Attributes:
        height: of the canvas.
        width: of the canvas.
        shift: maximum shift in pixels in each direction.
        patch: side length in pixels of the square that is set to 0.
        noise: standard deviation of the added Gaussian noise.
    """

    height: int
    width: int
    shift: int
    patch: int
    noise: float

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Offsets ``(count, 2)``, row and column of the patch ``(count,)``, noise ``(count, 1, height, width)``."""
        offsets = draw_offsets(count, self.shift, generator)
        row = torch.randint(self.height - self.patch + 1, (count,), generator=generator)
        column = torch.randint(self.width - self.patch + 1, (count,), generator=generator)
        return offsets, row, column, torch.randn(count, 1, self.height, self.width, generator=generator)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Disturbed canvases, of the shape of ``images`` ``(B, 1, height, width)``."""
        offsets, row, column, noise = draws
        side = torch.full_like(row, self.patch)
        hidden = rectangles(transfer(torch.stack((row, column, side, side), dim=1), images.device), self.height, self.width)
        shifted = shift_each(as_float(images), offsets, self.shift)
        return shifted.masked_fill(hidden, 0.0) + self.noise * transfer(noise, images.device)


@dataclass(frozen=True)
class Recipe:
    """How canvases are made and disturbed.

    Attributes:
        margin: pixels of zeros around the two originals.
        downsampling: side of the squares that the canvas is averaged over; 1 leaves it.
        shift: of ``Disturbance``, in pixels of the averaged canvas, as is ``patch``.
        patch: of ``Disturbance``.
        noise: of ``Disturbance``.
        normalization: comes last.
    """

    margin: int
    downsampling: int
    shift: int
    patch: int
    noise: float
    normalization: Normalization

    def disturbance(self, canvas: Tensor) -> Disturbance:
        """The disturbance for canvases of the size of ``canvas`` ``(N, 1, height, width)``."""
        return Disturbance(canvas.shape[2], canvas.shape[3], self.shift, self.patch, self.noise)


def draw_pairs(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Left and right originals ``(count, 2)``, drawn from the positions ``members`` ``(M,)``."""
    return members[torch.randint(len(members), (count, 2), generator=generator)]


def label_pairs(pairs: Tensor, labels: Tensor) -> Tensor:
    """Labels ``(N,)`` from 0 to 99 of pairs ``(N, 2)``; the left class is the tens digit."""
    return 10 * labels[pairs[:, 0]] + labels[pairs[:, 1]]


def compose(images: Tensor, pairs: Tensor, margin: int) -> Tensor:
    """Canvases ``(N, 1, height + 2 margin, 2 width + 2 margin)`` of pairs ``(N, 2)`` of images ``(M, height, width)``."""
    side_by_side = torch.cat([images[pairs[:, 0]], images[pairs[:, 1]]], dim=2)
    return torch.nn.functional.pad(side_by_side, (margin,) * 4)[:, None]


def downsample(canvas: Tensor, factor: int) -> Tensor:
    """Canvases ``(N, 1, height, width)`` averaged over squares, in their own dtype, uint8 rounded."""
    if factor == 1:
        return canvas
    averaged = torch.nn.functional.avg_pool2d(canvas.float(), factor)
    return averaged.round().to(torch.uint8) if canvas.dtype == torch.uint8 else averaged


def make_splits(originals: Originals, members: Members, counts: dict[str, int], recipe: Recipe, seed: int) -> Splits:
    """The splits of a set of pairs, the same for the same arguments.

    Args:
        counts: number of pairs of ``train``, ``validation`` and ``test``.
    """
    generator = torch.Generator().manual_seed(seed)
    train = _pairs(originals, members.train, counts["train"], recipe, generator)
    train = TensorSplit(train.images, train.labels, recipe.normalization, recipe.disturbance(train.images))
    # Validation pairs are drawn even if nothing is held out: the test images must not depend on that.
    validation = _disturbed(
        originals, members.validation if len(members.validation) else members.train, counts["validation"], recipe, generator
    )
    test = _disturbed(originals, members.test, counts["test"], recipe, generator)
    parts = {
        "originals": part_of_tensors(originals.images, originals.labels),
        "test": part_of_tensors(test.images, test.labels),
    }
    names = tuple(f"{left}+{right}" for left in originals.class_names for right in originals.class_names)
    identity = Identity(names, parts)
    return Splits(train, validation if len(members.validation) else None, test, 100, 1, describe(train), identity)


def _pairs(originals: Originals, members: Tensor, count: int, recipe: Recipe, generator: torch.Generator) -> TensorSplit:
    pairs = draw_pairs(members, count, generator)
    canvas = downsample(compose(originals.images, pairs, recipe.margin), recipe.downsampling)
    return TensorSplit(canvas, label_pairs(pairs, originals.labels), recipe.normalization)


def _disturbed(originals: Originals, members: Tensor, count: int, recipe: Recipe, generator: torch.Generator) -> TensorSplit:
    split = _pairs(originals, members, count, recipe, generator)
    disturbance = recipe.disturbance(split.images)
    images = disturbance.apply(as_float(split.images), disturbance.draw(count, generator))
    return TensorSplit(images, split.labels, recipe.normalization)
