"""A split of a data set: labels, and images that depend only on the seed, the view and the sample.

image = normalize(augment(stored image, random numbers of (seed, view, sample)));   one view per epoch

No image depends on its batch, the number of workers or the number of processes. A resumed run sees the same images as an
uninterrupted one, and a teacher's output for a view is valid whenever the view is used again.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from training.data.identity import Identity, checksum, some
from training.data.transfer import transfer
from training.seeds import derived_seed

Draws = tuple[Any, ...]
"""Random numbers on the CPU, each ``(N, ...)``: row ``a`` belongs to sample ``a``; or tuples of these."""


class View(NamedTuple):
    """One augmentation of a whole split."""

    seed: int
    number: int

    def generator(self) -> torch.Generator:
        """The random numbers of this view of a whole split."""
        return torch.Generator().manual_seed(derived_seed("view", self.seed, self.number))


class Batch(NamedTuple):
    """Images ``(B, channels, height, width)`` float32, normalized; labels ``(B,)`` int64; ``index`` ``(B,)`` int64 on the
    CPU, their positions in the split; ``broken``, a message with the path for each sample that could not be read and is left
    out; of mixed samples the ``probabilities`` ``(B, classes)`` float32, and the labels of those that they were mixed
    from."""

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # tuples have a method of this name
    broken: tuple[str, ...] = ()
    probabilities: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """The student's training target: labels, or the probabilities of mixed samples."""
        return self.labels if self.probabilities is None else self.probabilities


class Augmentation(Protocol):
    """Draws random numbers for a whole split and augments images with them. Its ``repr`` describes the augmentation."""

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """The random numbers of ``count`` samples."""

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augments stored images ``(B, channels, height, width)``; input and result are uint8 in [0, 255] or float32;
        ``draws`` holds the rows of these samples."""


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel, which normalization maps to 0 and 1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Normalized images of ``images`` ``(B, channels, height, width)`` float32."""
        return (images - channel_values(self.mean, images.device)) / channel_values(self.deviation, images.device)


@lru_cache
def channel_values(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value per channel, ``(channels, 1, 1)``."""
    return transfer(torch.tensor(values).view(-1, 1, 1), device)


class Split(ABC):
    """Samples that are read by position.

    Attributes:
        labels: ``(N,)`` int64, on the CPU.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, index: Tensor, view: View | None = None) -> Batch:
        """The samples ``index`` ``(B,)`` int64 on the CPU, augmented as in ``view``, or without augmentation."""


class TensorSplit(Split):
    """A split in memory, on one device: batches are gathered and augmented there, without synchronization.

    Args:
        images: ``(N, channels, height, width)`` as stored, uint8 in [0, 255] or float32.
        labels: ``(N,)`` int64.
        normalization: applied last.
        augmentation: applied when loading with a view; without it a view has no effect.
        unreadable: a message for each sample whose image could not be read; it is left out of every batch.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        normalization: Normalization,
        augmentation: Augmentation | None = None,
        unreadable: Mapping[int, str] | None = None,
    ) -> None:
        self.images, self.labels = images, labels
        self.normalization, self.augmentation = normalization, augmentation
        self.unreadable = dict(unreadable or {})
        self._labels_there = labels
        self._drawn: tuple[View, Draws] | None = None

    def load(self, index: Tensor, view: View | None = None) -> Batch:
        index, broken = self._readable(index)
        rows = transfer(index, self.images.device)
        images = self.images[rows]
        if view is not None and self.augmentation is not None:
            images = self.augmentation.apply(images, rows_of(self._draws(view, self.augmentation), index))
        return Batch(self.normalization(as_float(images)), self._labels_there[rows], index, broken)

    def move(self, device: torch.device) -> None:
        """Moves the samples to ``device``."""
        self.images, self._labels_there = self.images.to(device), self._labels_there.to(device)

    def subset(self, positions: Tensor) -> "TensorSplit":
        """The samples at ``positions`` ``(n,)`` int64, in that order."""
        unreadable = {new: self.unreadable[old] for new, old in enumerate(positions.tolist()) if old in self.unreadable}
        return TensorSplit(self.images[positions], self.labels[positions], self.normalization, self.augmentation, unreadable)

    def _readable(self, index: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        if not self.unreadable:
            return index, ()
        samples = index.tolist()
        kept = torch.tensor([sample for sample in samples if sample not in self.unreadable], dtype=torch.int64)
        return kept, tuple(self.unreadable[sample] for sample in samples if sample in self.unreadable)

    def _draws(self, view: View, augmentation: Augmentation) -> Draws:
        if self._drawn is None or self._drawn[0] != view:
            self._drawn = view, augmentation.draw(len(self), view.generator())
        return self._drawn[1]

    def __getstate__(self) -> dict[str, Any]:
        # For the receiving process, drawing the same numbers is faster than receiving them.
        return {**self.__dict__, "_drawn": None}


def rows_of(draws: Draws, index: Tensor) -> Draws:
    """The random numbers of the samples ``index`` ``(B,)``."""
    return tuple(rows_of(each, index) if isinstance(each, tuple) else each[index] for each in draws)


class Splits(NamedTuple):
    """The splits of a data set.

    ``train`` is augmented when it is loaded with a view; ``validation`` is for model selection, None if nothing is held out;
    ``test`` is for reporting. ``transform`` describes, for the logit cache, what a view does to an image, with a checksum of
    the training samples. ``identity`` identifies the data set. ``left_out`` lists the other files that were found, one line
    per part.
    """

    train: Split
    validation: Split | None
    test: Split
    classes: int
    channels: int
    transform: str
    identity: Identity
    left_out: tuple[str, ...] = ()

    def summary(self) -> list[str]:
        """The classes, the splits and what was left out, one line each."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return [
            f"{self.classes} classes: {some(self.identity.class_names) or 'without names'}",
            *(
                f"{name}: {len(split)} images of {len(split.labels.unique())} classes"
                for name, split in splits.items()
                if split is not None
            ),
            *(f"left out in {line}" for line in self.left_out),
        ]


def as_float(images: Tensor) -> Tensor:
    """Stored images as float32, uint8 scaled to [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def describe(split: TensorSplit) -> str:
    """The ``transform`` of ``Splits`` for a training split in memory."""
    stored = f"{tuple(split.images.shape)} {split.images.dtype}"
    content = checksum(split.images.cpu().contiguous().numpy().tobytes(), split.labels.numpy().tobytes())
    return f"{stored} sha256:{content}, {split.augmentation!r}, {split.normalization!r}"
