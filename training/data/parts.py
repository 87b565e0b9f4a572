"""Images and labels in memory, and the splits built from them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from training.data.held_out import hold_out
from training.data.identity import Identity, part_of_tensors
from training.data.splits import Augmentation, Normalization, Splits, TensorSplit, describe

HELD_OUT = 0.1
SEED = 20260202


class Classes(NamedTuple):
    """How many there are: of numbers up to the largest, of texts in alphabetical order. ``names`` is empty for numbers that
    the data set gives no names."""

    count: int  # type: ignore[assignment]  # tuples have a method of this name
    names: tuple[str, ...]


class Part(NamedTuple):
    """Images ``(N, channels, height, width)`` uint8 and labels ``(N,)`` int64 of a published split; a message for each image
    that could not be read."""

    images: Tensor
    labels: Tensor
    unreadable: Mapping[int, str] = {}


def checked(name: str, part: Part, classes: int) -> Part:
    """Returns the part if each image has a label below ``classes``.

    Raises:
        ValueError: labels are missing, superfluous or out of range.
    """
    images, labels = part.images, part.labels
    if len(images) != len(labels):
        raise ValueError(f"{name} files must have one label per image, got {len(images)} images and {len(labels)} labels")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"{name} labels must be in [0, {classes}), got {int(labels.min())} to {int(labels.max())}")
    return part


def make_splits(
    train: Part,
    test: Part,
    classes: Classes,
    held_out: float | None,
    normalization: Normalization,
    augmentation: Augmentation,
    validation: Part | None = None,
) -> Splits:
    """The splits made from published ones; ``held_out`` of ``train``, by default a tenth, is held out for validation unless
    ``validation`` is given."""
    whole = TensorSplit(train.images, train.labels, normalization, augmentation, train.unreadable)
    share = HELD_OUT if held_out is None else held_out
    kept, held = hold_out(len(train.labels), 0 if validation is not None else share, SEED)
    training, held_split = whole.subset(kept), whole.subset(held) if len(held) else None
    if held_split is not None:
        held_split.augmentation = None
    if validation is not None:
        held_split = TensorSplit(validation.images, validation.labels, normalization, None, validation.unreadable)
    tested = TensorSplit(test.images, test.labels, normalization, None, test.unreadable)
    channels = train.images.shape[1]
    given = {"train": train, "validation": validation, "test": test}
    published = {name: part_of_tensors(part.images, part.labels) for name, part in given.items() if part is not None}
    identity = Identity(classes.names, published)
    return Splits(training, held_split, tested, classes.count, channels, describe(training), identity)


def statistics(images: Tensor) -> Normalization:
    """Mean and standard deviation of each channel of ``images`` ``(N, channels, height, width)`` uint8, to four digits."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(dim=1):
        # In integers, so that the order of the images does not matter.
        shares = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (shares * levels).sum()
        means.append(round(float(mean), 4))
        # Images of one colour are not divided by zero.
        deviations.append(round(float((shares * (levels - mean).square()).sum().sqrt()), 4) or 1.0)
    return Normalization(tuple(means), tuple(deviations))
