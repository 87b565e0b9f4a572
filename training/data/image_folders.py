"""``imagenet``, and ``folder:PATH`` for other images in the same layout: a folder for each class with its images.

A view crops a random part of the image to the requested size and flips it at random; without a view the centre is cropped
from the image scaled to 256/224 of that size. class_folders.py decides which files are images, and pixels.py converts their
pixels to RGB. An image that cannot be read is left out of its batch, and the batch reports it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from training.data.class_folders import Listing, describe_left_out, list_classes
from training.data.held_out import check_held_out, hold_out
from training.data.identity import Identity, checksum, some
from training.data.pixels import read_rgb
from training.data.recipes import Augmenting, centred, of_pictures
from training.data.splits import Batch, Split, Splits, View
from training.seeds import derived_seed

HELD_OUT = 0.01
IMAGE_SIZE = 224
SEED = 20260202
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

OWN = Augmenting()
"""The data set's own augmentation."""

Transform = Callable[[Any], Tensor]


class ImageFolderSplit(Split):
    """Images that are read from files when they are loaded.

    Args:
        folder: the folder that the paths are relative to.
        paths: N relative paths.
        labels: ``(N,)`` int64.
        size: side length in pixels of the results of ``evaluation`` and ``training``.
        evaluation: converts an image to a tensor; for loading without a view.
        training: the same with random numbers from torch's generator, for loading with a view; without it a view has no
            effect.
    """

    def __init__(
        self,
        folder: Path,
        paths: list[str],
        labels: Tensor,
        size: int,
        evaluation: Transform,
        training: Transform | None = None,
    ) -> None:
        self.folder, self.labels, self.size = folder, labels, size
        self.evaluation, self.training = evaluation, training
        # One block of memory: a million strings, with their reference counts, would be copied into every worker.
        self.paths = np.array([os.fsencode(path) for path in paths])

    def load(self, index: Tensor, view: View | None = None) -> Batch:
        images, kept, broken = [], [], []
        for sample in index.tolist():
            try:
                image = self._read(sample)
            # Decoders raise arbitrary exceptions on damaged files.
            except Exception as error:
                broken.append(f"{self._name(sample)}: {type(error).__name__}: {error}")
                continue
            images.append(self._transform(image, sample, view))
            kept.append(sample)
        positions = torch.tensor(kept, dtype=torch.int64)
        stacked = torch.stack(images) if images else torch.empty(0, 3, self.size, self.size)
        return Batch(stacked, self.labels[positions], positions, tuple(broken))

    def subset(self, positions: Tensor) -> "ImageFolderSplit":
        """The samples at ``positions`` ``(n,)`` int64, in that order."""
        paths = [os.fsdecode(path) for path in self.paths[positions.numpy()]]
        return ImageFolderSplit(self.folder, paths, self.labels[positions], self.size, self.evaluation, self.training)

    def _name(self, sample: int) -> str:
        return str(self.folder / os.fsdecode(self.paths[sample]))

    def _read(self, sample: int) -> Image.Image:
        return read_rgb(self._name(sample))

    def _transform(self, image: Any, sample: int, view: View | None) -> Tensor:
        if view is None or self.training is None:
            return self.evaluation(image)
        with torch.random.fork_rng(devices=[]):
            # Unlike torch.manual_seed, this does not change the GPU generators.
            torch.default_generator.manual_seed(derived_seed("sample", view.seed, view.number, sample))
            return self.training(image)


def load_imagenet(
    folder: Path, *, held_out: float | None = None, image_size: int = IMAGE_SIZE, augmenting: Augmenting = OWN
) -> Splits:
    """ImageNet, or a part of it with fewer classes: ``train`` and ``val`` below ``folder/imagenet`` or ``folder``.

    Args:
        held_out: share of the training images to hold out for validation; ``val`` is the test split.
        image_size: side length in pixels.
        augmenting: augmentation of the training images; their own recipe is ``imagenet``.

    Raises:
        FileNotFoundError: a folder is missing or has no images; the message says what goes where.
        ValueError: held_out or image_size is impossible, or the folders have different classes.
    """
    root = folder / "imagenet" if (folder / "imagenet").is_dir() else folder
    return _load("imagenet", root, "val", held_out, image_size, augmenting)


def load_folder(
    folder: Path, *, held_out: float | None = None, image_size: int = IMAGE_SIZE, augmenting: Augmenting = OWN
) -> Splits:
    """Images in ``train``, and for testing in ``val`` or ``test``; arguments and errors as in ``load_imagenet``.

    Raises:
        ValueError: also if ``folder`` has both ``val`` and ``test``.
    """
    present = [name for name in ("val", "test") if (folder / name).is_dir()]
    if len(present) == 2:
        raise ValueError(f"folder:{folder} must have either val or test for its test split, got both")
    return _load(f"folder:{folder}", folder, (present or ["val"])[0], held_out, image_size, augmenting)


def _load(name: str, root: Path, test_name: str, held_out: float | None, size: int, augmenting: Augmenting) -> Splits:
    check_held_out(held_out)
    if size < 1:
        raise ValueError(f"image_size must be at least 1, got {size}")
    train, test = _list(name, root, "train", test_name), _list(name, root, test_name, test_name)
    if train.classes != test.classes:
        other = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(
            f"{name}: {root / 'train'} and {root / test_name} must have the same classes, got only in one of them: "
            f"{some(other)}"
        )
    kept, held = hold_out(len(train.paths), HELD_OUT if held_out is None else held_out, SEED)
    training, evaluation = training_transform(size, augmenting), evaluation_transform(size)
    learned = _split(train, kept, size, evaluation, training)
    return Splits(
        learned,
        _split(train, held, size, evaluation) if len(held) else None,
        _split(test, torch.arange(len(test.paths)), size, evaluation),
        len(train.classes),
        3,
        transform=f"{_describe(learned)}, {one_line(training)}, {one_line(evaluation)}",
        identity=Identity(train.classes, {"train": train.part, "test": test.part}),
        left_out=tuple(
            f"{listing.folder}: {describe_left_out(listing.left_out)}" for listing in (train, test) if listing.left_out
        ),
    )


def _list(name: str, root: Path, part: str, test_name: str) -> Listing:
    folder = root / part
    advice = f"{name}: put a folder of images for every class into {root / 'train'} and into {root / test_name}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{advice} ({folder} is missing)")
    try:
        return list_classes(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{advice} ({error})") from error


def _split(
    listing: Listing, positions: Tensor, size: int, evaluation: Transform, training: Transform | None = None
) -> ImageFolderSplit:
    paths = [listing.paths[position] for position in positions.tolist()]
    labels = torch.tensor(listing.labels, dtype=torch.int64)[positions]
    return ImageFolderSplit(listing.folder, paths, labels, size, evaluation, training)


def training_transform(size: int, augmenting: Augmenting) -> Transform:
    """The transform from a picture to an augmented tensor."""
    return of_pictures(augmenting, size, _to_normalized_tensor())


def evaluation_transform(size: int) -> Transform:
    """The transform from a picture to a tensor of its centre."""
    return v2.Compose([*centred(size), *_to_normalized_tensor()])


def _to_normalized_tensor() -> list[Any]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)]


def _describe(split: ImageFolderSplit) -> str:
    return f"{len(split)} images sha256:{checksum(*split.paths.tolist(), split.labels.numpy().tobytes())}"


def one_line(transform: Transform) -> str:
    """A one-line description of a transform."""
    return " ".join(repr(transform).split())
